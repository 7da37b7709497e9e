"""Reads structs in Thrift's compact protocol, in which Parquet has its headers.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)
DEEPEST = 8  # structs in each other; Parquet's headers have 3
LONGEST_VARINT = 10  # bytes


class IncompleteError(Exception):
    """The content ends before the struct does."""


def read_struct(content: bytes | memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Integers and structs by the number of their field, without other fields; and the position after the struct.

    Raises IncompleteError, or pa.ArrowInvalid if it is damaged.
    """
    if depth > DEEPEST:
        raise pa.ArrowInvalid("the header of a page is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head, at = read_byte(content, at)
        if not head:
            return fields, at
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = read_integer(content, at)
        if kind == STRUCT:
            fields[number], at = read_struct(content, at, depth + 1)
        elif kind in INTEGERS:
            fields[number], at = read_integer(content, at)
        else:
            at = skip(content, at, kind)


def skip(content: bytes | memoryview, at: int, kind: int) -> int:
    """The position after a value that is neither a struct nor an integer."""
    if kind in (TRUE, FALSE):
        return at
    if kind == BYTE:
        return at + 1
    if kind == DOUBLE:
        return at + 8
    if kind == BINARY:
        size, at = read_varint(content, at)
        return at + size
    raise pa.ArrowInvalid("the header of a page has a field that Parquet doesn't know")


def read_byte(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """A byte, and the position after it."""
    if at >= len(content):
        raise IncompleteError
    return content[at], at + 1


def read_varint(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """An unsigned integer, and the position after it."""
    value = 0
    for place in range(LONGEST_VARINT):
        part, at = read_byte(content, at)
        value |= (part & 127) << (7 * place)
        if part < 128:
            return value, at
    raise pa.ArrowInvalid("the header of a page has an integer without an end")


def read_integer(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """A signed integer in zigzag order, and the position after it."""
    value, at = read_varint(content, at)
    return (value >> 1) ^ -(value & 1), at
