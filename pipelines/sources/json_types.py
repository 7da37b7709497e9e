"""The Arrow types of JSON values: found from a sample, and applied to later values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipelines.reasons import COLUMN_TYPE, Reject
from pipelines.sources.json_values import Repeated, TooLong, fit_for, shown
from pipelines.sources.limits import Limits
from pipelines.sources.lines import misfit
from pipelines.sources.types import is_list, is_text

SCALARS = (str, float, bool)  # of which a string can hold all; `float` stands for all numbers
NAMES = {float: "numbers", str: "strings", bool: "booleans", list: "lists", dict: "objects"}
CONVERSION_ERRORS = (pa.ArrowException, OverflowError, UnicodeEncodeError)


def type_of(values: list[Any]) -> pa.DataType:
    """The type that holds the values, nulls aside; of lists, objects and other values mixed, the most frequent ones.

    Numbers, strings and booleans mixed are strings, and so are integers that no type of 64 bits holds.
    """
    kinds = Counter(kind_of(value) for value in values if value is not None)
    if not kinds:
        return pa.null()
    shapes = {list: kinds[list], dict: kinds[dict], str: sum(kinds[kind] for kind in SCALARS)}
    shape = max(shapes, key=lambda shape: shapes[shape])
    if shape is dict:
        alike = [value for value in values if kind_of(value) is dict]
        names = dict.fromkeys(name for value in alike for name in value)
        return pa.struct([(name, type_of([value.get(name) for value in alike])) for name in names])
    if shape is list:
        return pa.list_(type_of([element for value in values if kind_of(value) is list for element in value]))
    scalars = {kind for kind in SCALARS if kinds[kind]}
    if scalars == {float}:
        return type_of_numbers([value for value in values if kind_of(value) is float])
    return pa.bool_() if scalars == {bool} else pa.string()


def mixed(values: Iterable[Any]) -> str:
    """Which kinds of values there are, if there are several and so some of them may change: a part of a sentence."""
    kinds = {kind_of(value) for value in values if value is not None}
    return " and ".join(name for kind, name in NAMES.items() if kind in kinds) if len(kinds) > 1 else ""


def without_nulls(kind: pa.DataType) -> pa.DataType:
    """A type with strings in place of the parts, at any depth, of which no value is known. Tables can't store null."""
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, text_if_null(without_nulls(part.type))) for part in kind])
    return pa.list_(text_if_null(without_nulls(kind.value_type))) if pa.types.is_list(kind) else kind


def text_if_null(kind: pa.DataType) -> pa.DataType:
    """A string for the type null, else the type."""
    return pa.string() if pa.types.is_null(kind) else kind


def may_exceed(content: bytes, limits: Limits) -> bool:
    """False if this JSON text is within the limits for sure, which is quicker to tell than `exceeded`."""
    if len(content) <= limits.depth:
        return False
    nested = content.count(b"{") + content.count(b"[")
    return nested > limits.depth or content.count(b":") > limits.columns


def exceeded(value: Any, limits: Limits) -> str:
    """Which limit a JSON value exceeds, or "". Types are made by recursion, and each row has a cell in each column."""
    level = [value]
    for _ in range(limits.depth + 1):
        containers = [part for part in level if isinstance(part, dict | list)]
        level = [part for each in containers for part in (each.values() if isinstance(each, dict) else each)]
        if not containers:
            break
    else:
        return f"it is nested more than {limits.depth} deep, which is the limit"
    number = fields(type_of([value]))
    return f"it has {number:,} keys; the limit is {limits.columns:,}" if number > limits.columns else ""


def columns_of(records: list[dict[str, Any]], limits: Limits) -> tuple[pa.Schema, tuple[str, ...]]:
    """The columns of some records and, beyond the limit of columns, the names of the rarer ones, which are left out."""
    schema = pa.schema(type_of(records)) if records else pa.schema([])
    sizes = {field.name: 1 + fields(field.type) for field in schema}
    if sum(sizes.values()) <= limits.columns:
        return schema, ()
    kept, left = set(), limits.columns
    for name, _ in Counter(name for record in records for name in record).most_common():
        if sizes[name] <= left:
            kept.add(name)
            left -= sizes[name]
    return pa.schema([field for field in schema if field.name in kept]), tuple(sizes.keys() - kept)


def fields(kind: pa.DataType) -> int:
    """How many fields the structs in a type have, at any depth."""
    own = kind.num_fields if pa.types.is_struct(kind) else 0
    return own + sum(fields(kind.field(part).type) for part in range(kind.num_fields))


def type_of_numbers(values: list[int | float]) -> pa.DataType:
    """int64 for integers, uint64 if they need it, or string if they need more digits; float64 for fractions."""
    if not all(type(value) is int for value in values):
        return pa.float64()
    low, high = min(values), max(values)
    if low >= -(1 << 63) and high < 1 << 63:
        return pa.int64()
    return pa.uint64() if low >= 0 and high < 1 << 64 else pa.string()


def kind_of(value: Any) -> type:
    """The Python type of a JSON value, with `float` for all numbers."""
    kind = type(value)
    return float if kind in (int, TooLong) else dict if kind is Repeated else kind


def can_hold(kind: pa.DataType) -> bool:
    """True if a column of this type can be filled from JSON values."""
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    is_scalar = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or is_text(kind)
    return is_time or is_scalar or is_list(kind) or pa.types.is_struct(kind)


def converted(column: pa.Field, values: list) -> tuple[pa.Array, dict[int, Reject]]:
    """`values` with the type of `column`. Values that don't fit become null and reject their row."""
    fit, rejects, fitting = fit_for(column.type), dict[int, Reject](), []
    for row, value in enumerate(values):
        problems: list[str] = []
        fitting.append(fit(value, column.name, problems))
        if problems:
            rejects[row] = COLUMN_TYPE.reject(problems[0])
    array = convert(fitting, column.type)
    if array is None:
        # One by one, so that no value is converted differently because of its neighbours.
        parts = [convert([value], column.type) for value in fitting]
        for row in (row for row, part in enumerate(parts) if part is None):
            rejects[row] = COLUMN_TYPE.reject(misfit(column.name, shown(values[row]), column.type))
        array = pa.concat_arrays([pa.nulls(1, column.type) if part is None else part for part in parts])
    return array, rejects


def convert(values: list, kind: pa.DataType) -> pa.Array | None:
    """Fitting `values` with the type `kind`; None if one of them, such as the text of a date, is not of this type."""
    try:
        return pa.array(values, kind)
    except CONVERSION_ERRORS:
        pass
    try:
        return pa.array(values).cast(kind)
    except CONVERSION_ERRORS:
        return None
