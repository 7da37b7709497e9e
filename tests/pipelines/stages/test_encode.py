"""The encode actor gives the encoder's vectors, and refuses weights that differ from the driver's."""

import dataclasses
import io
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.batch_stats import WORK, measured
from pipelines.cluster.session import cores
from pipelines.reasons import Reject
from pipelines.records import (
    FLOW_FIELDS,
    HAS_VECTOR,
    STATS_TYPE,
    VECTOR,
    read_schema,
    replace_column,
    with_rejects,
    with_slots,
)
from pipelines.stages.decode import decode, slots_of
from pipelines.stages.encode import BusyClock, EncodeActor
from vista_core import Encoder, EncoderSettings, Record, VistaError, encoder_identity

SETTINGS = EncoderSettings(device="cpu")


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
    return EncodeActor(SETTINGS, encoder_identity(SETTINGS), 1)


def vectors(table: pa.Table) -> np.ndarray:
    column = table[VECTOR].combine_chunks()
    assert column.type == pa.list_(pa.float16(), column.type.list_size)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)


def test_vectors_are_those_of_the_encoder_rounded_to_float16(actor):
    expected = Encoder.load(SETTINGS).encode(RECORDS)
    result = actor(as_decoded(RECORDS))
    np.testing.assert_array_equal(vectors(result), expected.astype(np.float16))
    assert np.allclose(np.linalg.norm(vectors(result).astype(np.float32), axis=1), 1, atol=1e-3)


def test_the_encoders_input_columns_are_dropped_and_all_others_kept(actor):
    table = as_decoded(RECORDS)
    result = actor(table)
    left_out = ["_input_ids", "_pixels", "_measured"]
    assert result.drop_columns([VECTOR, "_measured"]).equals(table.drop_columns(left_out))


def test_rejected_rows_and_batch_statistics_get_zero_vectors_and_change_no_other(actor):
    table = with_rejects(as_decoded(RECORDS), {1: Reject("decode", "image_truncated", "m")})
    table = replace_column(table, "_stats", pa.array([None, None, {"ended": ["9"]}, None, None], STATS_TYPE))
    result, whole = vectors(actor(table)), vectors(actor(as_decoded(RECORDS)))
    assert not result[[1, 2]].any()
    np.testing.assert_array_equal(result[[0, 3, 4]], whole[[0, 3, 4]])


@pytest.mark.parametrize("rows", [0, 2])
def test_a_batch_without_embeddable_records_is_passed_on(actor, rows):
    table = with_rejects(as_decoded(RECORDS[:rows]), {row: Reject("read", "r", "m") for row in range(rows)})
    result = actor(table)
    assert len(result) == rows
    assert vectors(result).shape == (rows, actor.encoder.dimension) if rows else result[VECTOR].type.list_size > 0


def test_a_batch_tells_what_its_encoder_did():
    actor = EncodeActor(SETTINGS, encoder_identity(SETTINGS), 1)
    table = with_rejects(as_decoded(RECORDS), {1: Reject("decode", "image_truncated", "m")})
    ids = [len(each) for each in table["_input_ids"].to_pylist()]
    done = measured(actor(table), WORK)
    assert (done["texts"], done["images"], done["batches"]) == (1, 3, 2), "batches are with images, or without"
    assert done["tokens"] == sum(ids) - ids[1] + 3 * actor.encoder.model.config.vision.tokens
    assert done["busy"] > 0 and done["idle"] > 0
    assert measured(actor(table), WORK)["batches"] == 2, "and not those of the call before"


def test_calls_that_overlap_are_counted_once():
    clock = BusyClock()
    began = time.perf_counter()
    with clock.working(), clock.working():
        while time.perf_counter() - began < 0.02:
            pass
        before = clock.untold(3)
    after = clock.untold(5)
    assert before["busy"] + after["busy"] <= time.perf_counter() - began
    assert before["busy"] + after["busy"] >= 0.02
    assert (before["batches"], after["batches"]) == (3, 2)


def test_an_encoder_that_differs_from_the_drivers_is_refused():
    other = dataclasses.replace(encoder_identity(SETTINGS), weights="0" * 64)
    with pytest.raises(VistaError, match=r"differs from the driver's: weights: .* here, 0+\.\.\. on the driver"):
        EncodeActor(SETTINGS, other, 1)


@pytest.mark.parametrize("actors", [1, 2, 1000])
def test_the_actors_of_a_node_share_its_cores(monkeypatch, actors: int):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # as Ray sets it
    try:
        EncodeActor(SETTINGS, encoder_identity(SETTINGS), actors)
        assert torch.get_num_threads() == max(1, cores() // actors)
    finally:
        torch.set_num_threads(before)


def test_each_slot_is_encoded_by_its_own_encoder_and_pixels_are_shared(actor):
    shorter = EncoderSettings(device="cpu", max_tokens=4)
    first, second = slots_of((SETTINGS, shorter))
    rows = [{"id": f"k{n}", "text": record.text, "image": record.image} for n, record in enumerate(RECORDS)]
    schema = pa.schema([*read_schema(pa.schema([])), *FLOW_FIELDS])
    table = with_slots(pa.Table.from_pylist(rows, schema=schema), 2)
    only_second = [n == 1 for n in range(len(RECORDS))]
    table = decode(replace_column(table, HAS_VECTOR, pa.array(only_second)), SETTINGS, False, others=[shorter])
    encoded = EncodeActor(SETTINGS, actor.encoder.identity, 1, first)(table)
    assert "_pixels" in encoded.column_names, "the second encoder takes them"
    encoded = EncodeActor(shorter, encoder_identity(shorter), 1, second)(encoded)
    assert not {"_pixels", "_input_ids", "_input_ids_1"} & set(encoded.column_names)
    expected = actor.encoder.encode(RECORDS).astype(np.float16)
    expected[1] = 0
    np.testing.assert_array_equal(vectors(encoded), expected)
    values = np.array(encoded["_encoded_vector_1"].to_pylist(), np.float16)
    np.testing.assert_array_equal(values, Encoder.load(shorter).encode(RECORDS).astype(np.float16))
