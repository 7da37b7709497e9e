"""Tables to search in, made directly, with vectors of vista-tiny."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from safetensors.torch import load_file, save_file

from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.origin import Origin, marked
from pipelines.tables.vector_column import VectorColumn
from vista_core import Encoder, EncoderSettings
from vista_core.hub import weights_path

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


def retrained(path: Path) -> Path:
    """Other weights for vista-tiny: those of another encoder with as many dimensions."""
    weights = load_file(weights_path(EncoderSettings()))
    name, embedding = max(weights.items(), key=lambda item: item[1].shape[0])  # of the tokens
    save_file(weights | {name: embedding.flip(0).contiguous()}, path)
    return path


def with_column(rows: pa.Table, column: VectorColumn, vectors: np.ndarray | list) -> pa.Table:
    """The rows with another vector column and its fingerprints; rows may lack a vector."""
    values = pa.array([None if each is None else np.asarray(each, np.float16) for each in vectors], column.type)
    fingerprints = pa.array([None if each is None else bytes(16) for each in vectors], pa.binary(16))
    return rows.append_column(column.field, values).append_column(column.fingerprint_field, fingerprints)
