"""Replace a whole vector column by the vectors of another encoder, while readers see the published ones."""

from __future__ import annotations

import dataclasses

import lance

from pipelines.tables.dataset import published
from pipelines.tables.fresh_columns import OtherColumns
from pipelines.tables.origin import MADE_FROM, Origin, encoder_files
from pipelines.tables.vector_column import VectorColumn, names_encoder, since


def begin_reembedding(
    table: lance.LanceDataset, column: VectorColumn, origin: Origin, run: str
) -> tuple[lance.LanceDataset, VectorColumn]:
    """Mark `column` as filled by its encoder from `run` on; rows of earlier runs are then selected as changed.

    One that began earlier and was not published goes on. If the dimension differs, the column is dropped and added
    anew without vectors: the published version keeps its own. Returns the table and the column as they are then.
    """
    if is_under_way(table, column):
        return table, VectorColumn.of(table.schema, column.name)
    column = column.replaced_since(run)
    table = with_own_files(table, column.name)
    table.update_schema_metadata({MADE_FROM.decode(): origin.metadata[MADE_FROM].decode()})
    if column.name in table.schema.names and table.schema.field(column.name).type == column.type:
        table.update_field_metadata(column.field_update)
        return lance.dataset(table.uri), column
    if column.name in table.schema.names:
        table.drop_columns([column.name])
    lance.dataset(table.uri).add_columns(column.field)
    return lance.dataset(table.uri), column


def with_own_files(table: lance.LanceDataset, replaced: str) -> lance.LanceDataset:
    """The table whose other vector columns name the files of their encoders: its origin is going to name others."""
    for column in OtherColumns.of(table).fresh:
        if column.name != replaced and column.files is None:
            table.update_field_metadata(dataclasses.replace(column, files=encoder_files(table, column)).field_update)
            table = lance.dataset(table.uri)
    return table


def is_under_way(table: lance.LanceDataset, column: VectorColumn) -> bool:
    """True if an earlier run began to replace the column by vectors of this very encoder and was not published."""
    if column.name not in table.schema.names or not names_encoder(table.schema.field(column.name)):
        return False
    stored = VectorColumn.of(table.schema, column.name)
    if not stored.since:
        return False
    now = published(table)
    if now is not None and since(lance.dataset(table.uri, version=now).schema, column.name) == stored.since:
        return False
    return not stored.identity.differences(column.identity)
