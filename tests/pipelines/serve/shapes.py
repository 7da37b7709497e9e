"""The sample catalog as a published table with images, made without Ray; and later nights of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipelines.sample_catalog import records
from pipelines.tables.dataset import PUBLISHED, table_uri
from pipelines.tables.origin import Origin, marked
from pipelines.tables.vector_column import VectorColumn
from vista_core import Encoder, Record

TABLE = "shapes"
VERSION = 2  # of the table that many tests share


def rows(encoder: Encoder, number: int | None = None) -> pa.Table:
    """Records of the sample catalog as the embedding job stores them with --store-images, and some more columns."""
    found = list(records())[:number]
    vectors = encoder.encode([Record(each["text"], each["image"]) for each in found]).astype(np.float16)
    column = VectorColumn("vector", encoder.identity)
    modality = [
        "image_text" if each["text"] and each["image"] else "text" if each["text"] else "image" for each in found
    ]
    values = {
        "id": pa.array([each["id"] for each in found]),
        "text": pa.array([each["text"] for each in found]),
        "image": pa.array([each["image"] for each in found], pa.large_binary()),
        "price": pa.array([each["price"] for each in found]),
        "shape": pa.array([each["shape"] for each in found]),
        "in_stock": pa.array([row % 3 > 0 for row in range(len(found))]),
        "added": pa.array([datetime(2026, 1, 1 + row % 28) for row in range(len(found))], pa.timestamp("us")),
        "modality": pa.array(modality),
        column.fingerprint: pa.array([bytes(16)] * len(found), pa.binary(16)),
        "_object": pa.array(["a.parquet"] * len(found)),
        "_run": pa.array(["run"] * len(found)),
    }
    fields = [column.field, *(pa.field(name, value.type) for name, value in values.items())]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dimension)
    return pa.table([vector, *values.values()], schema=marked(pa.schema(fields), Origin("vista-tiny")))


def publish(db: Path | str, table: pa.Table, words: bool = False) -> lance.LanceDataset:
    """Replace the table, and publish it; with `words`, with a full-text index, which makes another version."""
    dataset = lance.write_dataset(table, table_uri(str(db), TABLE), mode="overwrite")
    if words:
        dataset.create_scalar_index("text", "INVERTED", with_position=False)
        dataset = lance.dataset(dataset.uri)
    move(dataset, dataset.version)
    return dataset


def move(dataset: lance.LanceDataset, version: int) -> None:
    """Move the tag `published`."""
    tagged = PUBLISHED in dataset.tags.list()
    (dataset.tags.update if tagged else dataset.tags.create)(PUBLISHED, version)
