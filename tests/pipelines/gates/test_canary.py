"""The canary compares vectors by the content of their records, whatever a server says of versions."""

import io
import json
import logging
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from PIL import Image

from pipelines.events import Counts
from pipelines.fetching.fetcher import shared_fetcher
from pipelines.fetching.locations import FetchRules
from pipelines.gates.canary import canary
from pipelines.gates.evidence import Evidence
from pipelines.gates.reference import ReferencePath, encode_alone
from pipelines.records import FINGERPRINT
from pipelines.sources.columns import Columns
from pipelines.sources.detect import open_source
from pipelines.stages.decode import decode
from pipelines.stages.fetch import fetch, identify
from pipelines.stages.select import with_content
from tests.images_over_http import ImageServer, serve_images
from tests.tables import COLUMN
from vista_core import EncoderSettings

SETTINGS = EncoderSettings("vista-tiny", device="cpu", resize="exact")
ROWS = 4


@pytest.fixture
def server():
    with serve_images() as running:
        running.image = lambda path: png(path, running.edition)
        yield running
    shared_fetcher.cache_clear()


def png(path: str, edition: int) -> bytes:
    """An image that nothing but its path and edition decides."""
    file, seed = io.BytesIO(), xxhash.xxh3_64_intdigest(f"{path} {edition}".encode())
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def filled(tmp_path: Path, server: ImageServer, kinds: list[str], roll: int = 0) -> Evidence:
    """A table of a catalog whose images are of these kinds, each row with the vector of the one `roll` rows before."""
    lines = [json.dumps({"id": f"{n}", "image_url": f"{server.url}/{kind}/{n}.png"}) for n, kind in enumerate(kinds)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "a.jsonl"), Columns())
    rules = FetchRules((f"{server.url}/",), None, 1_000_000, 10.0, "version")
    records = pa.concat_tables(records for unit in source.units() for records, _ in source.read(unit))
    decoded = decode(fetch(with_content(*identify(records, {}, rules), True), rules), SETTINGS, False)
    vectors = encode_alone([decoded], SETTINGS)
    values = np.roll(np.stack([vectors[key] for key in decoded["id"].to_pylist()]), roll, axis=0).astype(np.float16)
    rows = {
        "id": decoded["id"],
        "_object": decoded["_object"],
        "_run": pa.repeat("run-1", len(decoded)),
        COLUMN.fingerprint: decoded[FINGERPRINT],
        COLUMN.name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    }
    table = lance.write_dataset(pa.table(rows), str(tmp_path / "t.lance"))
    reference = ReferencePath(source, source.files(), "", rules, SETTINGS)
    return Evidence(Counts(), table, COLUMN, reference=reference)


def test_images_whose_version_changes_at_each_request_are_compared_by_content(tmp_path, server, caplog):
    verdict = canary(filled(tmp_path, server, ["volatile", "volatile", "volatile", "good"]))
    assert verdict.passed
    assert verdict.message.startswith("4 of 4 rows encoded again in float32, smallest cosine 1.0000")
    assert "3 of them have another version than minutes ago, and the same content" in verdict.message
    assert "--image-identity content" in verdict.message
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "--image-identity content" in record.getMessage()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("volatile", "0 of 4 rows encoded again in float32: none of their records is unchanged in the source"),
        ("good", "less than 0.999: the encoder gave another vector"),
    ],
)
def test_vectors_of_other_records_fail_whatever_the_versions_are(tmp_path, server, kind, message):
    verdict = canary(filled(tmp_path, server, [kind] * ROWS, roll=1))
    assert not verdict.passed
    assert message in verdict.message


def test_an_image_that_was_replaced_meanwhile_says_nothing(tmp_path, server, caplog):
    evidence = filled(tmp_path, server, ["good"] * ROWS)
    assert canary(evidence).message.startswith("4 of 4 rows encoded again")
    server.edition = 2
    verdict = canary(evidence)
    assert not verdict.passed
    assert verdict.message.startswith("0 of 4 rows")
    assert caplog.records == []
