"""The types of CSV columns: found from the strings of a sample, and applied to later strings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.types import is_text, merged

# Patterns that only numbers match: a leading zero, a plus or an exponent may be part of a code.
INTEGER = r"^(0|-?[1-9]\d*)$"
DECIMAL = r"^(0|-?[1-9]\d*|-?(0|[1-9]\d*)\.\d+)$"
COMMA_DECIMAL = r"^(0|-?[1-9]\d*|-?(0|[1-9]\d*),\d+)$"
# A comma before three digits may be one between thousands.
SURELY_DECIMAL = r"(^-?0,\d)|(,(\d{1,2}|\d{4,})$)"
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
BOOLEAN = rf"^({'|'.join(TRUE + FALSE)})$"
# What pyarrow reads as a number, but no integers with a leading zero, and whole numbers that are written as 20.0.
READ_AS_INTEGER = r"^-?(0|[1-9]\d*)$"
READ_AS_FLOAT = r"^[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|(?i:nan|inf|infinity))$"
INFINITE = r"(?i)inf"
WHOLE = r"^(-?\d+)\.0+$"
BLANKS = " \t"
EXACT = 1 << 53  # up to which a double holds all integers


def type_of(values: pa.ChunkedArray | pa.Array) -> pa.DataType:
    """int64, float64 or bool if all of the strings are such values, else string; null if there are none."""
    if not len(values):
        return pa.null()
    if matches(values, INTEGER):
        try:
            return values.cast(pa.int64()).type
        except pa.ArrowInvalid:
            return pa.string()
    if matches(values, DECIMAL):
        return pa.float64()
    return pa.bool_() if matches(values, BOOLEAN) else pa.string()


def has_decimal_commas(values: pa.ChunkedArray | pa.Array) -> bool:
    """True if all of the strings are numbers, and some have a decimal comma that can't be one between thousands."""
    if not len(values) or not matches(values, COMMA_DECIMAL):
        return False
    return bool(pc.any(pc.match_substring_regex(values, SURELY_DECIMAL)).as_py())


def common_type(kinds: Iterable[pa.DataType]) -> pa.DataType:
    """The type of a column that has these types in several files; a string holds all of them."""
    found: pa.DataType = pa.null()
    for kind in kinds:
        wider = merged(found, kind)
        found = pa.string() if wider is None else wider
    return found


def matches(values: pa.ChunkedArray | pa.Array, pattern: str) -> bool:
    """True if all values match."""
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def cast(values: pa.Array, kind: pa.DataType, comma: bool = False) -> tuple[pa.Array, np.ndarray]:
    """Strings, read as pyarrow reads CSV, and which of them, now null, are not of this type."""
    if is_text(kind):
        return values.cast(kind), np.zeros(len(values), bool)
    known = values.is_valid()
    values = with_points(values) if comma else values
    if pa.types.is_boolean(kind):
        found = cast_boolean(values)
    elif pa.types.is_integer(kind):
        found = cast_integer(values, kind)
    elif pa.types.is_floating(kind):
        found = cast_float(values, kind)
    else:
        found = cast_each(values, kind)
    return found, pc.and_(known, found.is_null()).to_numpy(zero_copy_only=False)


def with_points(values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Numbers with decimal commas, with a point instead. What is none becomes a string that is no number."""
    good = pc.match_substring_regex(values, r"^[-+]?\d*,?\d*$")
    return pc.if_else(good, pc.replace_substring(values, ",", "."), "?")


def cast_boolean(values: pa.Array) -> pa.Array:
    """Booleans."""
    is_true, is_false = (pc.is_in(values, pa.array([*texts, digit])) for texts, digit in ((TRUE, "1"), (FALSE, "0")))
    return pc.if_else(pc.or_(is_true, is_false), is_true, None)


def cast_integer(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Integers, also those that are written as 20.0."""
    values = pc.utf8_trim(values, BLANKS)
    values = pc.replace_substring_regex(values, WHOLE, r"\1")
    return cast_each(where(values, pc.match_substring_regex(values, READ_AS_INTEGER)), kind)


def cast_float(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Floats. Numbers that no float holds, and integers that would be rounded, are null."""
    values = pc.utf8_trim(values, BLANKS)
    values = where(values, pc.match_substring_regex(values, READ_AS_FLOAT))
    found = cast_each(values, kind)
    if not is_beyond(found):
        return found
    too_large = pc.and_(pc.is_inf(found), pc.invert(pc.match_substring_regex(values, INFINITE)))
    found = where(found, pc.invert(too_large))
    large = pc.fill_null(pc.greater_equal(pc.abs(found), float(EXACT)), False).to_numpy(zero_copy_only=False)
    rounded = np.zeros(len(found), bool)
    for row in np.flatnonzero(large):
        text = values[row].as_py()
        rounded[row] = text.lstrip("+-").isdigit() and int(text) != int(found[row].as_py())
    return where(found, pa.array(~rounded))


def is_beyond(column: pa.ChunkedArray | pa.Array) -> bool:
    """True if a float is 2^53 or larger."""
    bounds = pc.min_max(column)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return low is not None and not -EXACT < low <= high < EXACT


def where(values: pa.Array, keep: pa.Array) -> pa.Array:
    """The values to keep, and null for the others."""
    return pc.if_else(keep, values, pa.scalar(None, values.type))


def cast_each(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Strings as a type. If not all can be cast, they are divided until single ones are left, which become null."""
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(values) == 1:
            return pa.nulls(1, kind)
    middle = len(values) // 2
    return pa.concat_arrays([cast_each(values[:middle], kind), cast_each(values[middle:], kind)])
