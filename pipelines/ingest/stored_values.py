"""Records as rows of the table: what they don't bring is copied from its rows of the same content."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import (
    FINGERPRINT,
    HAS_VECTOR,
    ID,
    IMAGE,
    MODALITY,
    RUN,
    TRUNCATED,
    VECTOR,
    replace_column,
    slot_name,
)
from pipelines.tables.dataset import TableVersion
from pipelines.tables.fresh_columns import made_by_encoders
from pipelines.tables.vector_column import VectorColumn

MADE_BY_ENCODING = {IMAGE, MODALITY, TRUNCATED}  # columns of the table that decode fills for the first slot


@dataclass(frozen=True)
class CopiedFrom:
    """Where values are copied from."""

    base: TableVersion  # the version that records were compared with: vectors of unchanged content
    latest: TableVersion  # columns that only the table has, which others may have added or changed meanwhile
    columns: tuple[VectorColumn, ...]  # those that the run fills, by slot


def table_rows(records: pa.Table, stored: CopiedFrom, run: str) -> pa.Table:
    """Records in the table's own schema; a column that only the table has is null."""
    schema = stored.latest.open().schema
    ours = {name: name for name in records.column_names}
    for slot, column in enumerate(stored.columns):
        ours |= {column.name: slot_name(VECTOR, slot), column.fingerprint: FINGERPRINT}
    columns = []
    for each in schema:
        if each.name == RUN:
            columns.append(pa.repeat(run, len(records)))
        elif each.name in ours:
            columns.append(records[ours[each.name]].cast(each.type))
        else:
            columns.append(pa.nulls(len(records), each.type))
    return pa.table(columns, schema=schema)


def with_stored_values(rows: pa.Table, records: pa.Table, stored: CopiedFrom) -> pa.Table:
    """For unchanged content, copy the vectors and the table-only columns from the stored row.

    `rows` are rows of the table for `records`.
    """
    schema, first = rows.schema, stored.columns[0]
    filled = {*records.column_names, RUN}
    for slot, column in enumerate(stored.columns):
        filled |= {column.name, column.fingerprint}
        rows = rows.append_column(
            slot_name(HAS_VECTOR, slot), pc.fill_null(records[slot_name(HAS_VECTOR, slot)], False)
        )
    for slot, column in enumerate(stored.columns):
        has_vector = rows[slot_name(HAS_VECTOR, slot)]
        if pc.any(has_vector).as_py():
            of_the_encoder = {column.name} if slot else {column.name, *MADE_BY_ENCODING}
            names = [name for name in schema.names if name in of_the_encoder]
            copied = with_values_of(stored.base, rows.filter(has_vector), names, column)
            rows = pa.concat_tables([rows.filter(pc.invert(has_vector)), copied])
    rows = rows.select(schema.names).cast(schema)
    others = made_by_encoders(schema).difference(filled)
    only_of_the_table = [name for name in schema.names if name not in filled | others]
    rows = with_values_of(stored.latest, rows, only_of_the_table, first)
    return with_values_of(stored.latest, rows, sorted(others), first, of_foreign=False)


def with_values_of(
    version: TableVersion, rows: pa.Table, names: list[str], column: VectorColumn, of_foreign: bool = True
) -> pa.Table:
    """`rows` with the values that a version of the table has in the columns `names` for the same id and content.

    A stored row without a fingerprint, as another client writes it, counts as of the same content if `of_foreign`.
    """
    if not len(rows) or not names:
        return rows
    stored = version.find_each(rows[ID].to_pylist(), [column.fingerprint, *names])
    stored = stored.take(pc.index_in(rows[ID], stored[ID]))
    same = pc.fill_null(pc.equal(stored[column.fingerprint], rows[column.fingerprint]), of_foreign)
    copied = rows.filter(same)
    for name in names:
        copied = replace_column(copied, name, stored[name].filter(same))
    return pa.concat_tables([copied.cast(rows.schema), rows.filter(pc.invert(same))])
