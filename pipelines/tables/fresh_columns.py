"""Which vector columns of a table `vista embed` keeps fresh: the default one, and every other one that is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import lance
import pyarrow as pa

from pipelines.records import FINGERPRINT_TYPE, IMAGE, IMAGE_URI, TEXT
from pipelines.tables.dataset import published
from pipelines.tables.default_column import default_column
from pipelines.tables.vector_column import (
    VectorColumn,
    fingerprint_column,
    names_encoder,
    since,
    vector_columns,
    why_incomplete,
)
from vista_core import UsageError

CONTENT: Final = b"vista.content"  # metadata of a backfilled column's field, as JSON: the columns it is made of


@dataclass(frozen=True)
class OtherColumns:
    """The vector columns of a table beside its default column."""

    fresh: tuple[VectorColumn, ...]  # are kept fresh
    left: tuple[str, ...]  # why others are not

    @classmethod
    def of(cls, table: lance.LanceDataset) -> OtherColumns:
        """Those of a version of a table. Columns of other clients, which have no fingerprints, are none of them."""
        fresh, left = list[VectorColumn](), list[str]()
        for name in vector_columns(table.schema):
            if name == default_column(table) or not is_of_vista(table.schema, name):
                continue
            if fault := why_not_fresh(table, name):
                left.append(fault)
            else:
                fresh.append(VectorColumn.of(table.schema, name))
        return cls(tuple(fresh), tuple(left))


def made_by_encoders(schema: pa.Schema) -> set[str]:
    """The names of all vector columns that name their encoder, and of their fingerprints, as far as they are there."""
    columns = {each.name for each in schema if names_encoder(each)}
    return {*columns, *map(fingerprint_column, columns)}.intersection(schema.names)


def is_of_vista(schema: pa.Schema, name: str) -> bool:
    """True if a vector column is vista's, as far as its names tell."""
    return names_encoder(schema.field(name)) or fingerprint_column(name) in schema.names


def why_not_fresh(table: lance.LanceDataset, name: str) -> str | None:
    """Why a column beside the default one can't be kept fresh; None if it can."""
    schema, fingerprint = table.schema, fingerprint_column(name)
    if not names_encoder(schema.field(name)):
        return f"the column `{name}` does not name its encoder, so another client replaced or cast it"
    if fingerprint not in schema.names or schema.field(fingerprint).type != FINGERPRINT_TYPE:
        return f"the column `{fingerprint}`, by which changes of `{name}` are found, is missing, or has another type"
    try:
        column = VectorColumn.of(schema, name)
    except UsageError as error:
        return str(error)
    if column.filling:
        return why_incomplete(name)
    if not is_of_own_content(schema.field(name)):
        return f"the column `{name}` is made of other columns of the table: `vista backfill` brings it up to date"
    if column.since and not is_replaced(table, column):
        return f"`vista embed --reembed` was replacing the column `{name}` and did not end"
    return None


def is_of_own_content(field: pa.Field) -> bool:
    """True if a column is made of what `embed` makes vectors of: the columns in which a table keeps text and image."""
    stored = json.loads((field.metadata or {}).get(CONTENT, b"{}"))
    return stored.get("text", [TEXT]) in ([TEXT], []) and stored.get("image") in (IMAGE, IMAGE_URI, None)


def is_replaced(table: lance.LanceDataset, column: VectorColumn) -> bool:
    """True if the last replacement of the column by another encoder's vectors is over: it was published."""
    now = published(table)
    return now is not None and since(lance.dataset(table.uri, version=now).schema, column.name) == column.since
