"""Tables with a second vector column, as a backfill leaves them: its vectors are in files of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipelines.events import Events
from pipelines.tables.lease import hold
from pipelines.tables.publish import publish
from pipelines.tables.vector_column import EncoderFiles, VectorColumn
from tests.pipelines.tables.conftest import write
from tests.tables import IDENTITY, NO_RUNS

NARROW = 4
SECOND = VectorColumn(
    "vector_b", dataclasses.replace(IDENTITY, model="second", dimension=NARROW), files=EncoderFiles("b.pth", "folder")
)
ROWS = 300


def published_table(db: Path, rows: int = ROWS) -> lance.LanceDataset:
    """The table `t` as a run of `embed` leaves it: in two fragments, and published."""
    for part in range(2):
        contents = {f"id{number}": f"text {number}" for number in range(part * rows // 2, (part + 1) * rows // 2)}
        table = write(db, contents)
    publish_latest(table.uri)
    return lance.dataset(table.uri)


def publish_latest(uri: str) -> int:
    """Publish the latest version, as a run does; the version."""
    with hold(lance.dataset(uri), NO_RUNS) as (table, lease):
        publish(table, lease, Events())
    return int(table.version)


def filled(table: lance.LanceDataset, column: VectorColumn = SECOND, seed: int = 0) -> lance.LanceDataset:
    """The latest version with another vector column and its fingerprints."""
    latest = lance.dataset(table.uri)
    rows, random = latest.count_rows(), np.random.default_rng(seed)
    values = random.standard_normal(rows * column.identity.dimension).astype(np.float16)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), column.identity.dimension)
    fingerprints = pa.array([bytes([number % 256] * 16) for number in range(rows)], pa.binary(16))
    added = pa.table([vectors.cast(column.type), fingerprints], pa.schema([column.field, column.fingerprint_field]))
    latest.add_columns(added.to_reader(), batch_size=rows // 2)
    latest.update_field_metadata(column.field_update)
    return lance.dataset(table.uri)


def foreign_table(db: Path, rows: int = 300) -> lance.LanceDataset:
    """A table that another client made and nobody published, with vectors that name no encoder."""
    values = np.random.default_rng(0).standard_normal(rows * 8).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 8)
    return lance.write_dataset(pa.table({"sku": pa.array(range(rows)), "vector": vectors}), f"{db}/t.lance")


def published_at(uri: str) -> lance.LanceDataset:
    """What readers see."""
    return lance.dataset(uri, version="published")
