"""Widening: a column of a table gets a type that holds more values, and keeps those that it has."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import lance
import pyarrow as pa

WIDER = "__wider"  # what the name of a column ends with while it is filled with the values of another


def can_widen(stored: pa.DataType, kind: pa.DataType) -> bool:
    """True if `widen` can change a column from the type `stored` to `kind`."""
    return by_copy(stored, kind) or in_place(stored, kind)


def by_copy(stored: pa.DataType, kind: pa.DataType) -> bool:
    """True for integers that become doubles, which Lance doesn't do in place."""
    return pa.types.is_integer(stored) and kind == pa.float64()


@functools.cache
def in_place(stored: pa.DataType, kind: pa.DataType) -> bool:
    """True if Lance can cast a column of the type; tried on an empty table."""
    with tempfile.TemporaryDirectory() as folder:
        table = lance.write_dataset(pa.schema([("column", stored)]).empty_table(), folder)
        try:
            alter(table, path="column", data_type=kind)
        except (ValueError, OSError, RuntimeError):
            return False
    return True


def widen(table: lance.LanceDataset, name: str, kind: pa.DataType) -> lance.LanceDataset:
    """The table with a wider column; after a kill at any point, the same call finishes the work."""
    columns = table.schema.names
    if name in columns and not by_copy(table.schema.field(name).type, kind):
        alter(table, path=name, data_type=kind)
        return lance.dataset(table.uri)
    copy = f"{name}{WIDER}"
    if name in columns:
        if copy in columns:  # of a run that was killed; rows may have been added since
            table.drop_columns([copy])
        table.add_columns({copy: f"CAST(`{name}` AS DOUBLE)"})
        table.drop_columns([name])
    alter(table, path=copy, name=name)
    return lance.dataset(table.uri)


def alter(table: lance.LanceDataset, **change: Any) -> None:
    """Alter a column. pylance's own type of a change wants every key, and its code does not."""
    table.alter_columns(change)  # type: ignore[arg-type]


def finished(table: pa.Schema) -> pa.Schema:
    """The schema of a table once `widen` is done with it: a killed run may have left only the copy of a column."""
    wanted = [name.removesuffix(WIDER) for name in table.names]
    names = [name if new in table.names else new for name, new in zip(table.names, wanted, strict=True)]
    return pa.schema([field.with_name(name) for field, name in zip(table, names, strict=True)], table.metadata)


def widen_to(table: lance.LanceDataset, schema: pa.Schema) -> lance.LanceDataset:
    """The table with each column that it shares with `schema` in the type that it has there."""
    before = finished(table.schema)
    for field in schema:
        if field.name not in before.names:
            continue
        if field.name not in table.schema.names or table.schema.field(field.name).type != field.type:
            table = widen(table, field.name, field.type)
    return table
