"""Tables to search in, made directly, with vectors of vista-tiny."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa

from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.origin import Origin, marked
from pipelines.tables.vector_column import VectorColumn
from vista_core import Encoder

ORIGIN = Origin("vista-tiny")
TEXTS = {
    "star": "a yellow star on a blue background",
    "ring": "a red ring on a black background",
    "disc": "a green disc on a white background",
    "unpublished": "a grey square on a grey background",
}


def vectors_array(vectors: np.ndarray) -> pa.Array:
    """Vectors [N, D] as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def write_table(uri: str, rows: pa.Table, tag: str | None = PUBLISHED) -> lance.LanceDataset:
    """A table, or its next version, which gets a tag."""
    dataset = lance.write_dataset(rows, uri, mode="overwrite")
    if tag is not None:
        (dataset.tags.update if tag in dataset.tags.list() else dataset.tags.create)(tag, dataset.version)
    return dataset


def of_vista(columns: dict[str, pa.Array], encoder: Encoder, origin: Origin = ORIGIN) -> pa.Table:
    """Rows of a table as the embedding job makes it; `columns` has `vector`."""
    column = VectorColumn("vector", encoder.identity)
    fields = [column.field if name == "vector" else pa.field(name, array.type) for name, array in columns.items()]
    table = pa.table(list(columns.values()), schema=pa.schema(fields))
    return table.cast(marked(table.schema, origin))
