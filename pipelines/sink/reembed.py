"""Replacing a whole vector column by the vectors of another encoder, row by row, while readers see the old one."""

from __future__ import annotations

import lance
import pyarrow as pa

from pipelines.records import VECTOR
from pipelines.sink.table import MADE_FROM, SINCE, identity_in, published, since, stored_identity


def begin_reembedding(table: lance.LanceDataset, schema: pa.Schema, run: str) -> lance.LanceDataset:
    """Stamp the column with the encoder that `schema` names, and with the run from which on vectors are its.

    Rows of earlier runs are from then on selected as if they had changed. One that began and was not published goes
    on. A column of another dimension is dropped and added anew, without vectors: the published version keeps its own.
    """
    if is_under_way(table, schema):
        return table
    vector = schema.field(VECTOR)
    stamp = {**vector.metadata, SINCE: run.encode()}
    table.update_schema_metadata({MADE_FROM.decode(): schema.metadata[MADE_FROM].decode()})
    if VECTOR in table.schema.names and table.schema.field(VECTOR).type == vector.type:
        table.update_field_metadata({VECTOR: {key.decode(): value.decode() for key, value in stamp.items()}})
        return lance.dataset(table.uri)
    if VECTOR in table.schema.names:
        table.drop_columns([VECTOR])
    lance.dataset(table.uri).add_columns(vector.with_metadata(stamp))
    return lance.dataset(table.uri)


def is_under_way(table: lance.LanceDataset, schema: pa.Schema) -> bool:
    """Whether the column is being replaced by vectors of this very encoder, as a run before began to."""
    if not since(table.schema):
        return False
    now = published(table)
    if now is not None and since(lance.dataset(table.uri, version=now).schema) == since(table.schema):
        return False
    return not stored_identity(table).differences(identity_in(schema))
