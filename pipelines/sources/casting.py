"""Values as a record has them: in the type of their column, ids and texts as strings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import COLUMN_TYPE, ID_INVALID, TEXT_NOT_UTF8, Reject
from pipelines.records import replace_column
from pipelines.sources.beginnings import Column, beginnings
from pipelines.sources.types import as_plain, is_bytes, is_text, plain

CAST_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
NOT_UTF8 = "it is not valid UTF-8"
SHOWN = 80  # characters of a value in a message
EXACT = 1 << 53  # up to here a double holds every whole number
# What is not blank: anything but white space, that of Unicode included, and zero-width characters.
VISIBLE = r"[^\s\p{Z}\x0B\x1C-\x1F\x{85}\x{200B}-\x{200D}\x{2060}\x{FEFF}]"
# Bytes with which only characters begin that are not blank: printable ASCII, and the leads of Latin, Greek, Cyrillic,
# Arabic, Indic and Chinese. 0xC2, 0xE1, 0xE2, 0xE3 and 0xEF are also leads of white space.
BEGINS_VISIBLE = np.zeros(256, bool)
BEGINS_VISIBLE[[*range(0x21, 0x7F), *range(0xC3, 0xE1), *range(0xE4, 0xEF), *range(0xF0, 0xF5)]] = True


def plain_column(column: Column) -> pa.ChunkedArray:
    """A column in its plain type."""
    if isinstance(column, pa.Array):
        return pa.chunked_array([as_plain(column)])
    if column.num_chunks and column.type == plain(column.type):
        return column
    if not column.num_chunks:
        return pa.chunked_array([as_plain(pa.nulls(0, column.type))])
    return pa.chunked_array([as_plain(chunk) for chunk in column.chunks])


def cast(column: Column, kind: pa.DataType) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """A column in the type `kind`, and for each value that doesn't fit, and is null in it, what it is.

    A value fits if none of it is lost: 20.0 is an integer, 20.5 is not, and "012" is no number.
    """
    column = plain_column(column)
    if column.type == kind:
        return column, {}
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), kind)]), {}
    if pa.types.is_floating(column.type) and not pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)  # pandas writes NaN for null
    try:
        return cast_exactly(column, kind), {}
    except CAST_ERRORS:
        parts, misfits = [], {}
        for row in range(len(column)):
            value = column.slice(row, 1)
            try:
                is_null = value.null_count == 1
                parts.append(pa.chunked_array([pa.nulls(1, kind)]) if is_null else cast_exactly(value, kind))
            except CAST_ERRORS:
                misfits[row] = f"{shown(value[0].as_py())} is no {kind}"
                parts.append(pa.chunked_array([pa.nulls(1, kind)]))
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind), misfits


def cast_exactly(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column in another type. Raises one of CAST_ERRORS if a value would change."""
    found = column.cast(kind)
    from_text = is_text(column.type) and not is_text(kind) and not is_bytes(kind)
    if from_text and not pc.all(pc.fill_null(pc.equal(found.cast(pa.string()), column), True)).as_py():
        raise pa.ArrowInvalid("a string is another value in this type")
    return found


def shown(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def ids(column: Column) -> tuple[pa.ChunkedArray, dict[int, Reject]]:
    """Ids as strings: whole numbers in decimal notation whatever their type, bytes as their text or in hexadecimal.

    An empty string is no id. A value that is no id (1.5 in floats, a float beyond 2^53) rejects its record.
    """
    column = plain_column(column)
    kind = column.type
    if is_text(kind):
        empty = pc.equal(column, "")
        return pc.if_else(empty, pa.scalar(None, kind), column) if pc.any(empty).as_py() else column, {}
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.string()), {}
    if pa.types.is_floating(kind):
        found, misfits = cast(column, pa.int64())
        numbers = column.cast(pa.float64()).to_pylist()
        large = {row for row, value in enumerate(numbers) if value is not None and abs(value) > EXACT}
        found = found.cast(pa.string())
        bad = {
            row: f"{shown(numbers[row])} in a column of floats is no exact whole number" for row in {*misfits, *large}
        }
        return found, {row: ID_INVALID.reject(f"the id {message}") for row, message in bad.items()}
    each: Callable[[Any], str | None] = decimal_id if pa.types.is_decimal(kind) else bytes_id
    if pa.types.is_fixed_size_binary(kind):
        each = bytes.hex
    return pa.chunked_array([[None if value is None else each(value) for value in column.to_pylist()]], pa.string()), {}


def decimal_id(value: Decimal) -> str:
    """A decimal without trailing zeros and exponent."""
    return f"{value.normalize():f}" if value else "0"


def bytes_id(value: bytes) -> str | None:
    """Bytes as the text that they are, else in hexadecimal."""
    try:
        return value.decode() or None
    except UnicodeDecodeError:
        return value.hex()


def texts(columns: list[Column]) -> tuple[pa.ChunkedArray, dict[int, Reject]]:
    """The text of each record: the parts that are not blank, in order, on lines of their own; null if there is none."""
    rejects: dict[int, Reject] = {}
    parts = []
    for column in columns:
        reason = TEXT_NOT_UTF8 if is_bytes(column.type) else COLUMN_TYPE
        column, misfits = cast(column, pa.string())
        rejects |= {row: reason.reject(f"the text {message}") for row, message in misfits.items()}
        rejects |= {row: TEXT_NOT_UTF8.reject("its text is not valid UTF-8") for row in invalid_rows(column)}
        parts.append(without_blank(column))
    return functools.reduce(joined, parts), rejects


def joined(before: pa.ChunkedArray, part: pa.ChunkedArray) -> pa.ChunkedArray:
    """Two parts of each text on lines of their own; where one is null, the other.

    pyarrow's own way to skip nulls leaves out whole rows in which all parts are null.
    """
    both = pc.binary_join_element_wise(before, part, "\n")
    return pc.coalesce(both, before, part)


def without_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Null in place of texts of which nothing can be seen: all such records would get the same vector."""
    if BEGINS_VISIBLE[beginnings(column) & 0xFF].all():
        return column
    return pc.if_else(pc.match_substring_regex(column, VISIBLE), column, pa.scalar(None, column.type))


def without_invalid_text(records: pa.Table, valid: Container[str] = ()) -> tuple[pa.Table, dict[int, dict[str, str]]]:
    """Replaces strings that are not UTF-8, also nested ones, by null; by row and column what was replaced.

    Parquet and Lance don't check what they write, so readers of the table would fail. The columns `valid` are known to
    be valid.
    """
    invalid: dict[int, dict[str, str]] = {}
    for name in records.schema.names:
        if name in valid:
            continue
        column = records[name]
        bad = invalid_rows(column)
        if not bad:
            continue
        for row in bad:
            invalid.setdefault(row, {})[name] = NOT_UTF8
        kept = pa.array([None if row in bad else row for row in range(len(column))], pa.int64())
        records = replace_column(records, name, column.take(kept))
    return records, invalid


def invalid_rows(column: pa.ChunkedArray) -> set[int]:
    """The rows whose value is not valid for its type, such as strings in UTF-8.

    They are taken, since a slice of lists or structs is validated with the values of all rows.
    """
    return set() if is_valid(column) else {row for row in range(len(column)) if not is_valid(column.take([row]))}


def is_valid(column: pa.ChunkedArray) -> bool:
    """True if all values are valid for their type."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def numbered(keys: pa.ChunkedArray, numbers: np.ndarray) -> pa.ChunkedArray:
    """The ids of the images of lists: `ID#0`, `ID#1`, ..."""
    return pc.binary_join_element_wise(keys, pa.array(numbers).cast(pa.string()), "#")
