"""The Arrow types of JSON values: found from a sample, and applied to later values."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from pipelines.reasons import COLUMN_TYPE, Reject
from pipelines.sources.limits import Limits
from pipelines.sources.types import is_list, is_text

# Which types of columns can hold a kind of JSON value. `float` stands for all numbers.
FITS = {
    bool: pa.types.is_boolean,
    float: lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    str: lambda kind: is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind),
    list: is_list,
    dict: pa.types.is_struct,
}
CONVERSION_ERRORS = (pa.ArrowException, OverflowError, UnicodeEncodeError)


def type_of(values: list[Any]) -> pa.DataType:
    """The type that most of the values have, nulls aside; float64 for integers and fractions mixed."""
    kinds = Counter(kind_of(value) for value in values if value is not None)
    if not kinds:
        return pa.null()
    kind = kinds.most_common(1)[0][0]
    alike = [value for value in values if kind_of(value) is kind]
    if kind is dict:
        names = dict.fromkeys(name for value in alike for name in value)
        return pa.struct([(name, type_of([value.get(name) for value in alike])) for name in names])
    if kind is list:
        return pa.list_(type_of([element for value in alike for element in value]))
    if kind is float:
        return type_of_numbers(alike)
    return {bool: pa.bool_(), str: pa.string()}[kind]


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
    """int64 for integers, uint64 if they need it, else float64."""
    if all(type(value) is int for value in values):
        low, high = min(values), max(values)
        if low >= -(1 << 63) and high < 1 << 63:
            return pa.int64()
        if low >= 0 and high < 1 << 64:
            return pa.uint64()
    return pa.float64()


def kind_of(value: Any) -> type:
    """The Python type of a JSON value, with `float` for all numbers."""
    return float if type(value) is int else type(value)


def can_hold(kind: pa.DataType) -> bool:
    """True if a column of this type can be filled from JSON values."""
    return any(fits(kind) for fits in FITS.values())


def converted(column: pa.Field, values: list) -> tuple[pa.Array, dict[int, Reject]]:
    """`values` with the type of `column`. Values that don't fit become null and reject their row."""
    fits = [value is None or FITS[kind_of(value)](column.type) for value in values]
    fitting = [value if fit else None for value, fit in zip(values, fits, strict=True)]
    array = convert(fitting)
    if array is None or array.type != column.type:
        # One by one, so that no value is converted differently because of its neighbours. If Arrow is told the type at
        # once, it makes 1 of 1.5.
        parts = [convert([value], column.type) for value in fitting]
        fits = [fit and part is not None for fit, part in zip(fits, parts, strict=True)]
        array = pa.concat_arrays([pa.nulls(1, column.type) if part is None else part for part in parts])
    rejects = {}
    for row in (row for row, fit in enumerate(fits) if not fit):
        message = f"{column.name} is {json.dumps(values[row])[:200]}, which can't be read as {column.type}"
        rejects[row] = COLUMN_TYPE.reject(message)
    return array, rejects


def convert(values: list, kind: pa.DataType | None = None) -> pa.Array | None:
    """`values` with the type that Arrow finds for them, then cast to `kind`; None if that isn't possible."""
    try:
        if kind is None:
            return pa.array(values)
        # An integer can be too large for the type that Arrow would find.
        return pa.array(values, kind if type(values[0]) is int else None).cast(kind)
    except CONVERSION_ERRORS:
        return None
