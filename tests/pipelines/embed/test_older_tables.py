"""A table that was created by vista 0.1 can be continued: ids, fingerprints, manifest and vectors stay the same.

`tests/golden/table_0_1.tar.gz` holds the database after two nightly runs, and the catalog of the second run. The
weights that vista-tiny had then were synthetic ones in float16.
"""

import tarfile
from pathlib import Path

import lance
import numpy as np
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.tables.origin import Origin, vista_column
from tests.pipelines.embed.on_warm_workers import embed
from vista_core import MODELS
from vista_core.checkpoint import released_shapes, save_tensors
from vista_core.synthetic import synthetic_checkpoint

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "table_0_1.tar.gz"
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def older(tmp_path, s3) -> EmbedConfig:
    """The run that continues the table. Its catalog is on S3, where a file has the same name and etag everywhere."""
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path, filter="data")
    source = s3.put("shapes/catalog.parquet", (tmp_path / "catalog.parquet").read_bytes())
    weights, config = tmp_path / "weights.safetensors", MODELS["vista-tiny"]
    drawn = synthetic_checkpoint(config)
    save_tensors(weights, {key: drawn.read(key).half() for key in released_shapes(config)})
    return EmbedConfig(source, str(tmp_path / "db"), "shapes", weights=str(weights), max_reject_rate=0.2)


def rows(config: EmbedConfig) -> dict[str, dict]:
    found = lance.dataset(f"{config.db}/shapes.lance", version="published").to_table().to_pylist()
    return {row["id"]: row for row in found}


def with_option(config: EmbedConfig, **options) -> EmbedConfig:
    return EmbedConfig(**vars(config) | options)


def test_the_file_is_read_once_more_and_every_record_is_unchanged(older):
    """Records are made of files in another way than by vista 0.1 (`job.READING`), so its manifest is not trusted."""
    before = rows(older)
    counts = embed(older).counts
    assert (counts.read, counts.unchanged, counts.rejected, counts.written, counts.rewritten) == (41, 40, 1, 0, 0)
    assert counts.missing == 1
    assert rows(older) == before
    counts = embed(older).counts
    assert (counts.read, counts.skipped, counts.skipped_rejected, counts.missing) == (0, 41, 1, 1)


def test_with_reembed_every_vector_stays_the_same(older):
    before = rows(older)
    column = vista_column(lance.dataset(f"{older.db}/shapes.lance"))
    counts = embed(with_option(older, reembed=True, delete_missing=True)).counts
    assert (counts.written, counts.deleted) == (40, 1)
    after = rows(older)
    assert after.keys() <= before.keys()
    assert len(after) == 40
    for key, row in after.items():
        same = {name: value for name, value in row.items() if name not in ("vector", "_run")}
        assert same == {name: before[key][name] for name in same}
        assert np.abs(np.subtract(row["vector"], before[key]["vector"])).max() <= 1e-3, (
            "differs by more than float16 rounding"
        )
    table = lance.dataset(f"{older.db}/shapes.lance")
    assert vista_column(table).identity == column.identity
    columns = {"id": "id", "text": "text", "image": "image"}
    assert Origin.of(table) == Origin(
        "vista-tiny", older.weights, columns=columns, images="each", image_identity="version"
    )
