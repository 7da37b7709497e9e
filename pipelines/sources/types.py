"""Types of columns by what they mean: the same values, spelled in another type, are the same column.

A column is read in its *plain* type, without the spellings that only say how values are stored (offsets of 64 bits,
views, dictionaries, extension types). Types of several files, or of a file and a table, are merged to one that holds
the values of both without loss.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPELLINGS = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.float16(): pa.float32(),
}
VIEWS = (pa.string_view(), pa.binary_view())
EXTENSIONS = {"arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
UNITS = ("s", "ms", "us", "ns")
KNOWN_TYPES = 1024  # of which it is remembered how they are read, since each batch has the same ones
DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}  # decimal digits of the largest integer of so many bits


@lru_cache(KNOWN_TYPES)
def plain(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is read, at any depth. A map is a list of key and value, as Arrow stores it."""
    if isinstance(kind, pa.BaseExtensionType):
        return EXTENSIONS.get(kind.extension_name) or plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", plain(kind.key_type)), ("value", plain(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, plain(part.type)) for part in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    return pa.list_(plain(kind.value_type)) if is_list(kind) else SPELLINGS.get(kind, kind)


def as_plain(column: pa.Array) -> pa.Array:
    """An array in its plain type. A UUID becomes its text (RFC 9562, section 4), as people write it."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        values = column.storage.to_pylist()
        return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return as_plain(column.storage).cast(plain(kind))
    if kind == plain(kind):
        return column
    if pa.types.is_dictionary(kind):
        return as_plain(column.dictionary).take(column.indices)  # after that, since pyarrow takes no views
    if pa.types.is_run_end_encoded(kind):
        return as_plain(pc.run_end_decode(column))
    if pa.types.is_struct(kind):
        parts = [as_plain(part) for part in column.flatten()]
        return pa.StructArray.from_arrays(parts, fields=list(plain(kind)), mask=column.is_null())
    if pa.types.is_map(kind):
        column = column.view(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    if pa.types.is_fixed_size_list(column.type):
        whole = pa.list_(column.type.value_field)
        return as_plain(column.cast(whole)).cast(plain(kind))
    if is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int32())
        ends = pc.cumulative_sum(lengths).to_pylist()
        offsets = pa.array([0, *ends], pa.int32())
        return pa.ListArray.from_arrays(offsets, as_plain(column.flatten()), type=plain(kind), mask=column.is_null())
    return (with_sound_nulls(column) if kind in VIEWS else column).cast(plain(kind))


def with_sound_nulls(views: pa.Array) -> pa.Array:
    """Strings or bytes that are views, those of nulls empty.

    pyarrow does not validate the views of nulls, and a cast crashes at damaged ones.
    """
    if not views.null_count:
        return views
    _, stored, *data = views.buffers()
    parts = np.frombuffer(stored, np.int32).reshape(-1, 4)[views.offset : views.offset + len(views)]
    is_valid = views.is_valid().to_numpy(zero_copy_only=False)
    bits, sound = np.packbits(is_valid, bitorder="little"), np.where(is_valid[:, None], parts, np.int32(0))
    return pa.Array.from_buffers(views.type, len(views), [pa.py_buffer(bits), pa.py_buffer(sound), *data])


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The smallest plain type that holds the values of two plain types without loss; None if there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    for merge in (merged_numbers, merged_times, merged_nested):
        if (found := merge(one, other)) is not None:
            return found
    if {one, other} <= {pa.binary(), pa.large_binary()}:
        return pa.large_binary()
    return None


def merged_numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Of two numeric types."""
    if not (is_number(one) and is_number(other)):
        return None
    if pa.types.is_decimal(one) or pa.types.is_decimal(other):
        return merged_decimals(one, other)
    if pa.types.is_floating(one) or pa.types.is_floating(other):
        # A double holds integers up to 2^53; a larger one is a misfit, and not rounded.
        return pa.float32() if one == other == pa.float32() else pa.float64()
    if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    signed, unsigned = (one, other) if pa.types.is_signed_integer(one) else (other, one)
    bits = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits, pa.decimal128(20, 0))


def merged_decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Of a decimal and another numeric type."""
    if pa.types.is_floating(one) or pa.types.is_floating(other):
        return pa.float64()
    sizes = [(k.precision, k.scale) if pa.types.is_decimal(k) else (DIGITS[k.bit_width], 0) for k in (one, other)]
    scale = max(scale for _, scale in sizes)
    precision = max(precision - of for precision, of in sizes) + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def merged_times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Of two timestamps, with a time zone or without, a date and a timestamp, two dates, times of day, or durations."""
    if pa.types.is_date(one) and pa.types.is_date(other):
        return pa.date32() if one == other == pa.date32() else pa.date64()
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other):
        same_kind = (one.tz is None) == (other.tz is None)  # with a time zone, any, it is an instant
        return pa.timestamp(finest(one, other), one.tz) if same_kind else None
    for date, stamp in ((one, other), (other, one)):
        if pa.types.is_date(date) and pa.types.is_timestamp(stamp) and stamp.tz is None:
            return stamp
    if pa.types.is_time(one) and pa.types.is_time(other):
        unit = finest(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    if pa.types.is_duration(one) and pa.types.is_duration(other):
        return pa.duration(finest(one, other))
    return None


def finest(one: pa.DataType, other: pa.DataType) -> str:
    """The smaller unit of two types of time."""
    return max(one.unit, other.unit, key=UNITS.index)


def merged_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Of two lists or two structs; a struct has the fields of both."""
    if is_list(one) and is_list(other):
        value = merged(one.value_type, other.value_type)
        if value is None:
            return None
        same_size = pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other)
        same_size = same_size and one.list_size == other.list_size
        return pa.list_(value, one.list_size) if same_size else pa.list_(value)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {part.name: part.type for part in one}
        for part in other:
            found = merged(fields.get(part.name, part.type), part.type)
            if found is None:
                return None
            fields[part.name] = found
        return pa.struct(list(fields.items()))
    return None


def merged_schema(
    schemas: Iterable[pa.Schema], conflicts: Callable[[str, pa.DataType, pa.DataType], None]
) -> pa.Schema:
    """The columns of several files, in the order in which they first appear, in plain types that hold all values.

    A column whose types can't be merged keeps the first; `conflicts` is called with its name and the two types.
    """

    def add(columns: dict[str, pa.DataType], schema: pa.Schema) -> dict[str, pa.DataType]:
        for field in schema:
            here, before = plain(field.type), columns.get(field.name, pa.null())
            found = merged(before, here)
            if found is None:
                conflicts(field.name, before, here)
            columns[field.name] = before if found is None else found
        return columns

    return pa.schema(list(reduce(add, schemas, dict[str, pa.DataType]()).items()))


def is_number(kind: pa.DataType) -> bool:
    """True for integers, floats and decimals."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    """True for lists with offsets of either width, of fixed size, and for views."""
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return views or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """True for strings with offsets of either width."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """True for binary with offsets of either width."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
