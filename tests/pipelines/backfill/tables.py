"""Tables of other clients to be filled, runs on warm workers, and what a column must have in the end."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.backfill import run
from pipelines.backfill.config import BackfillConfig
from pipelines.backfill.run import Setup
from pipelines.backfill.summary import Summary
from pipelines.stages.encode import EncodeActor
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.embed.on_warm_workers import encode
from vista_core import Encoder, EncoderSettings, Record

COLUMN = "vector_b"
BROKEN = b"not an image"
ROWS = 60
FRAGMENT_ROWS = 20


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (70, 60), (number * 37 % 256, number * 91 % 256, number * 53 % 256)).save(file, "PNG")
    return file.getvalue()


def products(numbers: Sequence[int], **columns: Any) -> pa.Table:
    """Products as a shop has them: a caption, for some also a photo, which is broken for some."""
    photos = [None if n % 3 else BROKEN if n % 21 == 0 else picture(n) for n in numbers]
    values = {
        "sku": pa.array([f"p{n}" for n in numbers]),
        "caption": pa.array([f"product number {n}" for n in numbers]),
        "photo": pa.array(photos, pa.large_binary()),
        "price": pa.array(list(numbers), pa.int64()),
    }
    return pa.table(values | columns)


def make(db: Path, rows: pa.Table | None = None, name: str = "shop") -> str:
    """A table of several fragments; returns its URI."""
    uri = f"{db}/{name}.lance"
    lance.write_dataset(products(range(ROWS)) if rows is None else rows, uri, max_rows_per_file=FRAGMENT_ROWS)
    return uri


def backfill(db: Path | str, setup: Setup | None = None, **options: Any) -> Summary:
    """A run whose encoder is called by tasks on warm workers, unless the test has one of its own."""
    setup = setup or Setup()
    if setup.stages.encoder is EncodeActor:
        setup = dataclasses.replace(setup, stages=dataclasses.replace(setup.stages, encoder=encode))
    summary = run.backfill(config(db, **options), setup)
    assert isinstance(summary, Summary)
    return summary


def config(db: Path | str, **options: Any) -> BackfillConfig:
    defaults = {"db": str(db), "table": "shop", "column": (COLUMN,), "model": ("vista-tiny",), "report": "none"}
    return BackfillConfig(**defaults | {"max_reject_rate": 0.5} | options)


@functools.lru_cache(maxsize=4)
def encoder(**options: Any) -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu", dtype="float32", **options))


def check(
    uri: str,
    column: str = COLUMN,
    record: Callable[[dict], Record] = lambda row: Record(row["caption"], row["photo"]),
    among: Callable[[dict], bool] = lambda row: True,
    **options: Any,
) -> lance.LanceDataset:
    """Each row has the vector that a fresh encoder gives for its record as it is now; without a sound one, none.

    `among`: the rows that have to be filled. The column must be complete if these are all. Returns the table.
    """
    table = lance.dataset(uri)
    rows = table.to_table(
        columns=[name for name in table.schema.names if not name.endswith("_fingerprint")]
    ).to_pylist()
    wanted = [row for row in rows if among(row) and is_sound(record(row))]
    without = [row for row in rows if row not in wanted]
    assert [row[column] for row in without] == [None] * len(without)
    vectors = encoder(**options).encode([record(row) for row in wanted])
    stored = np.array([row[column] for row in wanted], np.float32)
    assert len(stored), "a check that saw nothing has not passed"
    assert np.min(np.sum(vectors * stored, axis=1)) >= 0.999
    assert VectorColumn.of(table.schema, column).filling == (not all(among(row) for row in rows))
    return table


def is_sound(record: Record) -> bool:
    return bool(record.text or record.image) and record.image != BROKEN
