"""What a message of an Arrow IPC file claims, before pyarrow allocates memory for it.

The metadata of a message is a flatbuffer: https://arrow.apache.org/docs/format/Columnar.html#ipc-message-format
"""

from __future__ import annotations

import struct
from typing import NamedTuple

RECORD_BATCH, DICTIONARY_BATCH = 3, 2  # kinds of messages
HEADER_KIND, HEADER = 1, 2  # fields of a message
ROWS, BUFFERS, COMPRESSION = 0, 2, 3  # fields of a record batch
DATA = 1  # field of a dictionary batch: the record batch
BUFFER_BYTES = 16  # of an entry in `buffers`: offset and length


class Claims(NamedTuple):
    """What a batch claims to have."""

    rows: int
    unpacked: int  # bytes of all of its buffers


def batch_claims(metadata: bytes | bytearray, body: bytes | bytearray) -> Claims | None:
    """The claims of a batch; None if `metadata` is not that of a batch, or damaged, which pyarrow finds itself.

    A compressed buffer begins with its size unpacked, and pyarrow allocates that, or -1 if it is stored as it is.
    """
    try:
        message = Table(metadata, *struct.unpack_from("<I", metadata))
        kind_at = message.field(HEADER_KIND)
        kind = metadata[kind_at] if kind_at else 0
        if kind not in (RECORD_BATCH, DICTIONARY_BATCH):
            return None
        batch = message.table(HEADER)
        if kind == DICTIONARY_BATCH and batch:
            batch = batch.table(DATA)
        if batch is None:
            return None
        at = batch.field(ROWS)
        rows = struct.unpack_from("<q", metadata, at)[0] if at else 0
        return Claims(rows if kind == RECORD_BATCH else 0, sum(unpacked(batch, body)))
    except (struct.error, IndexError):
        return None


def unpacked(batch: Table, body: bytes | bytearray) -> list[int]:
    """The sizes of a batch's buffers, if they are compressed."""
    vector = batch.target(BUFFERS)
    if not batch.field(COMPRESSION) or not vector:
        return []
    [count] = struct.unpack_from("<I", batch.content, vector)
    count = min(count, (len(batch.content) - vector) // BUFFER_BYTES)
    buffers = [struct.unpack_from("<qq", batch.content, vector + 4 + BUFFER_BYTES * n) for n in range(count)]
    return [max(0, struct.unpack_from("<q", body, start)[0]) for start, size in buffers if size > 0 <= start]


class Table:
    """A table of a flatbuffer."""

    def __init__(self, content: bytes | bytearray, position: int) -> None:
        self.content, self.position = content, position

    def field(self, number: int) -> int:
        """The position of a field, or 0 if it is absent."""
        vtable = self.position - struct.unpack_from("<i", self.content, self.position)[0]
        [size] = struct.unpack_from("<H", self.content, vtable)
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", self.content, vtable + entry)[0] if entry < size else 0
        return self.position + offset if offset else 0

    def target(self, number: int) -> int:
        """The position that a field refers to, or 0 if it is absent."""
        at = self.field(number)
        return at + struct.unpack_from("<I", self.content, at)[0] if at else 0

    def table(self, number: int) -> Table | None:
        """The table that a field refers to."""
        at = self.target(number)
        return Table(self.content, at) if at else None
