"""An Arrow file as a stream in the order of its footer, for files that have no stream in front of it.

Polars writes the schema in front without its length, and dictionaries behind the batches that need them. The footer has
the schema again, and where the messages of dictionaries and batches are:
https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import io
import struct
from typing import IO

import pyarrow as pa

from pipelines.sources.arrow_messages import Table

END_MAGIC = b"ARROW1"
TRAILER = struct.Struct("<i6s")  # the length of the footer, and the magic
VERSION, SCHEMA, DICTIONARIES, BATCHES = range(4)  # fields of a footer
BLOCK = struct.Struct("<qi4xq")  # where a message is, and the sizes of its metadata and body
CONTINUATION = b"\xff\xff\xff\xff"
SCHEMA_MESSAGE = 1  # a kind of message
# A flatbuffer's root, vtable and table of a message with the fields version, kind and header, before the footer itself.
MESSAGE = struct.Struct("<I5H2xiIhB5x")
MESSAGE_AT, HEADER_AT = 16, 20


class InFooterOrder(io.RawIOBase):
    """The stream of schema, dictionaries and batches. Raises pa.ArrowInvalid if the footer is damaged."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle = handle
        size = handle.seek(0, io.SEEK_END)
        content = footer(handle, size)
        footer_table = Table(content, *struct.unpack_from("<I", content))
        start = schema_message(footer_table)
        blocks = [*blocks_of(footer_table, DICTIONARIES), *blocks_of(footer_table, BATCHES)]
        total = sum(length for _, length in blocks)
        if total > size or any(at < 0 or length < 0 or at + length > size for at, length in blocks):
            raise pa.ArrowInvalid("its footer says that it has more than it has")
        self.parts: list[bytes | tuple[int, int]] = [start, *blocks, CONTINUATION + bytes(4)]
        self.size = len(start) + total + 8

    def readable(self) -> bool:
        """As of files."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The next bytes, of one message at most."""
        while self.parts:
            part = self.parts.pop(0)
            rest: bytes | tuple[int, int]
            if isinstance(part, bytes):
                content, rest = part[: len(buffer)], part[len(buffer) :]
            else:
                self.handle.seek(part[0])
                content = self.handle.read(min(len(buffer), part[1]))
                rest = (part[0] + len(content), part[1] - len(content)) if 0 < len(content) < part[1] else b""
            if rest:
                self.parts.insert(0, rest)
            if content:
                buffer[: len(content)] = content
                return len(content)
        return 0


def footer(handle: IO[bytes], size: int) -> bytes:
    """The footer of a file, a flatbuffer."""
    handle.seek(max(0, size - TRAILER.size))
    length, magic = TRAILER.unpack(handle.read(TRAILER.size))
    if magic != END_MAGIC or not 0 < length <= size - TRAILER.size:
        raise pa.ArrowInvalid("its footer is missing")
    handle.seek(size - TRAILER.size - length)
    return handle.read(length)


def schema_message(table: Table) -> bytes:
    """The schema in a footer as a message of a stream."""
    at, schema = table.field(VERSION), table.target(SCHEMA)
    if not schema:
        raise pa.ArrowInvalid("its footer has no schema")
    version = struct.unpack_from("<h", table.content, at)[0] if at else 0
    fields = (8, 10, 4)  # where in the table version, kind and header are
    header = MESSAGE.size + schema - HEADER_AT
    vtable_at = 4
    start = MESSAGE.pack(MESSAGE_AT, 10, 11, *fields, MESSAGE_AT - vtable_at, header, version, SCHEMA_MESSAGE)
    content = start + table.content
    content += bytes(-len(content) % 8)
    return CONTINUATION + struct.pack("<i", len(content)) + content


def blocks_of(table: Table, field: int) -> list[tuple[int, int]]:
    """The positions and sizes of the messages in a list of the footer."""
    vector = table.target(field)
    if not vector:
        return []
    [count] = struct.unpack_from("<I", table.content, vector)
    if count * BLOCK.size > len(table.content):
        raise pa.ArrowInvalid("its footer is damaged")
    blocks = [BLOCK.unpack_from(table.content, vector + 4 + BLOCK.size * number) for number in range(count)]
    return [(at, metadata + body) for at, metadata, body in blocks]
