"""The actor's vectors are the encoder's, and its weights are those the driver meant."""

import dataclasses
import io
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.ray_session import cores
from pipelines.records import FLOW_FIELDS, TALLY_TYPE, Reject, read_schema, replace_column, with_rejects
from pipelines.stages import encode
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor, local_file
from vista_core import Encoder, EncoderIdentity, EncoderSettings, Record, UsageError, VistaError
from vista_core.hub import weights_path

SETTINGS = EncoderSettings(device="cpu")
WEIGHTS = weights_path(SETTINGS)


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 70), colour).save(file, "PNG")
    return file.getvalue()


RECORDS = [
    Record("a red star", png("red")),
    Record("a red star"),
    Record(None, png("blue")),
    Record("many words " * 30),
    Record("", png("red")),
]


def as_decoded(records: list[Record]) -> pa.Table:
    rows = [{"id": f"k{n}", "text": record.text, "image": record.image} for n, record in enumerate(records)]
    schema = pa.schema([*read_schema(pa.schema([("price", pa.float64())])), *FLOW_FIELDS])
    return decode(pa.Table.from_pylist(rows, schema=schema), SETTINGS, store_images=False)


@pytest.fixture(scope="module")
def actor() -> EncodeActor:
    return EncodeActor(SETTINGS, EncoderIdentity.of(SETTINGS), 1)


def vectors(table: pa.Table) -> np.ndarray:
    column = table["vector"].combine_chunks()
    assert column.type == pa.list_(pa.float16(), column.type.list_size)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)


def test_vectors_are_the_encoders_rounded_to_float16(actor):
    expected = Encoder.load(SETTINGS).encode(RECORDS)
    result = actor(as_decoded(RECORDS))
    np.testing.assert_array_equal(vectors(result), expected.astype(np.float16))
    assert np.allclose(np.linalg.norm(vectors(result).astype(np.float32), axis=1), 1, atol=1e-3)


def test_what_was_only_for_the_encoder_is_gone_and_the_rest_stays(actor):
    table = as_decoded(RECORDS)
    result = actor(table)
    assert result.drop_columns(["vector"]).equals(table.drop_columns(["_input_ids", "_pixels"]))


def test_rejected_rows_and_tallies_get_zeros_and_change_nobodys_vector(actor):
    table = with_rejects(as_decoded(RECORDS), {1: Reject("decode", "image_truncated", "m")})
    table = replace_column(table, "_tally", pa.array([None, None, {"read": 9}, None, None], TALLY_TYPE))
    result, whole = vectors(actor(table)), vectors(actor(as_decoded(RECORDS)))
    assert not result[[1, 2]].any()
    np.testing.assert_array_equal(result[[0, 3, 4]], whole[[0, 3, 4]])


@pytest.mark.parametrize("rows", [0, 2])
def test_a_batch_without_a_living_record(actor, rows):
    table = with_rejects(as_decoded(RECORDS[:rows]), {row: Reject("read", "r", "m") for row in range(rows)})
    result = actor(table)
    assert len(result) == rows
    assert vectors(result).shape == (rows, actor.encoder.dimension) if rows else result["vector"].type.list_size > 0


def test_an_encoder_that_is_not_the_drivers_is_refused():
    other = dataclasses.replace(EncoderIdentity.of(SETTINGS), weights="0" * 64)
    with pytest.raises(VistaError, match=r"another than the driver's: weights: .* here, 0+\.\.\. on the driver"):
        EncodeActor(SETTINGS, other, 1)


@pytest.mark.parametrize("actors", [1, 2, 1000])
def test_the_actors_of_a_node_share_its_cores(monkeypatch, actors: int):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # what Ray says
    try:
        EncodeActor(SETTINGS, EncoderIdentity.of(SETTINGS), actors)
        assert torch.get_num_threads() == max(1, cores() // actors)
    finally:
        torch.set_num_threads(before)


# Weights in an object store


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(encode, "WEIGHTS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def fetched(uri: str) -> Path:
    path = local_file(uri)
    assert path is not None
    return Path(path)


def test_local_weights_are_taken_where_they_are(cache):
    assert local_file(None) is None
    assert local_file("/models/w.pth") == "/models/w.pth"
    assert not cache.exists()


def test_weights_in_a_bucket_are_read_as_the_local_file_is(cache, s3, actor):
    uri = s3.put("models/tiny.safetensors", WEIGHTS.read_bytes())
    remote = EncodeActor(dataclasses.replace(SETTINGS, weights=uri), actor.encoder.identity, 1)
    np.testing.assert_array_equal(vectors(remote(as_decoded(RECORDS))), vectors(actor(as_decoded(RECORDS))))


def test_weights_are_fetched_once_and_again_when_they_changed(cache, s3):
    uri = s3.put("models/w.pth", b"one")
    first = fetched(uri)
    assert (first.suffix, first.read_bytes()) == (".pth", b"one")
    first.write_bytes(b"marked")
    assert fetched(uri).read_bytes() == b"marked", "no second fetch"
    s3.put("models/w.pth", b"another")
    assert fetched(uri).read_bytes() == b"another"
    assert first.read_bytes() == b"marked", "a process may have the first one mapped"


def test_a_copy_appears_whole(cache, s3, monkeypatch):
    """Actors of one node fetch side by side: none may see the half of what another is writing."""
    uri = s3.put("models/big.pth", bytes(1 << 20))
    writing, finish = threading.Event(), threading.Event()

    class SlowStore:
        def info(self, path: str) -> dict:
            return s3.fs.info(path)

        def get_file(self, path: str, target: str) -> None:
            Path(target).write_bytes(b"half")
            writing.set()
            assert finish.wait(30)
            s3.fs.get_file(path, target)

    monkeypatch.setattr(encode, "filesystem", lambda uri: (SlowStore(), uri))
    first = threading.Thread(target=local_file, args=(uri,))
    first.start()
    assert writing.wait(30)
    assert not [path for path in cache.iterdir() if path.is_file()]
    finish.set()
    first.join()
    assert fetched(uri).stat().st_size == 1 << 20
    assert [path.is_file() for path in cache.iterdir()] == [True]


@pytest.mark.parametrize("uri", ["s3://corpus/no/such.pth", "s3://no-such-bucket/w.pth", "ftq://x/w.pth"])
def test_weights_that_cannot_be_fetched_are_named(cache, s3, uri):
    with pytest.raises(UsageError, match=f"--weights {uri}"):
        local_file(uri)
