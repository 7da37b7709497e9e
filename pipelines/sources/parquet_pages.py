"""The sizes of the pages of a Parquet file, from their headers, while pyarrow reads them and before it unpacks them.

A footer can say anything of a column's size, and a page of a few bytes can unpack to gigabytes, or refer a million
times to one long value of a dictionary. The header of each page says what it unpacks to, and pyarrow relies on that.
https://parquet.apache.org/docs/file-format/data-pages/
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.limits import Limits
from pipelines.sources.thrift import IncompleteError, read_struct

PAGE_TYPE, UNPACKED, PACKED = 1, 2, 3  # fields of a page's header
KINDS = (5, 7, 8)  # its fields for data pages, dictionaries, and data pages of version 2, each with a number of values
VALUES = 1
DICTIONARY = 2  # a page type
LONGEST_HEADER = 16 << 20  # bytes; pyarrow takes no more
NUMBER_BYTES = 8
CODECS = ("zstd", "gzip", "snappy", "brotli")  # those of LZ4 are framed in several ways


class ReadAgainError(Exception):
    """The row group has to be read again, as `Reading` says now."""


@dataclass
class Reading:
    """How a row group is read. Pages that would take too much memory so change it."""

    rows: int  # in a batch
    dictionaries: set[str] = field(default_factory=set)  # paths of columns that are kept as dictionaries


@dataclass
class Chunk:
    """A column of a row group."""

    path: str
    next: int  # where its next page begins
    end: int
    is_bytes: bool  # of variable length
    value_bytes: int  # of a value, or a higher mean of a page, or the longest one of a dictionary
    per_row: float  # values; not more than 1 unless they are in lists
    pending: bytes = b""  # the beginning of a header

    @classmethod
    def of(cls, metadata: pq.FileMetaData, group: int, column: int) -> Chunk:
        """The chunk of a column."""
        chunk, kind = metadata.row_group(group).column(column), metadata.schema.column(column)
        offsets = [chunk.data_page_offset, chunk.dictionary_page_offset or 0]
        start = min(offset for offset in offsets if offset > 0 or offset == offsets[0])
        is_bytes = kind.physical_type == "BYTE_ARRAY"
        width = 0 if is_bytes else max(NUMBER_BYTES, kind.length or 0)
        per_row = chunk.num_values / max(1, metadata.row_group(group).num_rows) if kind.max_repetition_level else 1.0
        end = start + chunk.total_compressed_size
        return cls(kind.path, start, end, is_bytes, width, per_row)


class InspectedFile:
    """A Parquet file whose pages are looked at when they are read.

    Raises pa.ArrowInvalid if a page takes too much memory, and ReadAgainError if it fits with fewer rows in a batch.
    """

    closed = False  # pyarrow asks

    def __init__(self, handle: IO[bytes], limits: Limits) -> None:
        self.handle = handle
        self.limits = limits
        self.reading = Reading(0)
        self.chunks: list[Chunk] | None = []

    def inspect(self, metadata: pq.FileMetaData, group: int, names: Sequence[str], reading: Reading) -> None:
        """From now on look at the pages of some columns of a row group."""
        self.metadata, self.group, self.names, self.reading = metadata, group, names, reading
        self.chunks = None

    def find_chunks(self) -> list[Chunk]:
        """The chunks of the columns. Not called before pyarrow reads them.

        It raises an error for a column without metadata; to ask for these aborts the process.
        """
        paths = [self.metadata.schema.column(column).path for column in range(self.metadata.num_columns)]
        roots = tuple(f"{name}." for name in self.names)
        columns = [column for column, path in enumerate(paths) if f"{path}.".startswith(roots)]
        return [Chunk.of(self.metadata, self.group, column) for column in columns]

    def seek(self, position: int, whence: int = 0) -> int:
        """As of files."""
        return self.handle.seek(position, whence)

    def tell(self) -> int:
        """As of files."""
        return self.handle.tell()

    def read(self, size: int) -> bytes:
        """As of files."""
        if self.chunks is None:
            self.chunks = self.find_chunks()
        position = self.handle.tell()
        content = self.handle.read(size)
        for chunk in self.chunks:
            known = chunk.next + len(chunk.pending)
            if position <= known < min(chunk.end, position + len(content)):
                new = memoryview(content)[known - position :]
                self.look(chunk, chunk.pending + new if chunk.pending else new)
        return content

    def look(self, chunk: Chunk, content: bytes | memoryview) -> None:
        """Look at the pages of which `content` has the header; it begins with one."""
        at, begin = 0, chunk.next
        while at < len(content) and chunk.next < chunk.end:
            try:
                header, body = read_struct(content, at)
            except IncompleteError as error:
                chunk.pending = bytes(content[at:])
                if len(chunk.pending) > LONGEST_HEADER:
                    raise pa.ArrowInvalid("the header of a page is too long") from error
                return
            chunk.pending = b""
            packed, unpacked = header.get(PACKED, 0), header.get(UNPACKED, 0)
            kind: object = next((header[each] for each in KINDS if each in header), {})
            values = kind.get(VALUES, 0) if isinstance(kind, dict) else -1
            if packed < 0 or unpacked < 0 or values < 0:
                raise pa.ArrowInvalid("a page has a negative size")
            at = body + packed
            size = unpacked // max(1, values)
            is_dictionary = header.get(PAGE_TYPE) == DICTIONARY
            if is_dictionary and chunk.is_bytes and unpacked * self.reading.rows > self.row_memory:
                page = content[body:at] if at <= len(content) else self.part(begin + body, packed)
                size = longest_value(page, unpacked, values)
            if unpacked > (most := self.limits.unpacked_bytes(packed)):
                raise pa.ArrowInvalid(
                    f"a page of {chunk.path} unpacks to {unpacked:,} bytes; at most {most:,} are read: "
                    "write row groups of fewer rows"
                )
            self.check(chunk, is_dictionary, values, size)
            chunk.next = begin + at

    @property
    def row_memory(self) -> int:
        """How many bytes the rows of a batch may take, beside the pages that they come from."""
        return self.limits.batch_memory // 4

    def check(self, chunk: Chunk, is_dictionary: bool, values: int, value_bytes: int) -> None:
        """Raise an error if rows of a page take too much memory.

        `value_bytes`: the mean of a value or, in a dictionary, the longest.
        """
        if chunk.is_bytes:
            chunk.value_bytes = max(chunk.value_bytes, value_bytes)
        if is_dictionary or chunk.path in self.reading.dictionaries:
            return
        if chunk.per_row > 1 and values * max(NUMBER_BYTES, chunk.value_bytes) > self.row_memory:
            if not chunk.is_bytes or values * NUMBER_BYTES > self.row_memory:
                raise pa.ArrowInvalid(f"a page of {chunk.path} has {values:,} values in lists, which is too many")
            self.reading.dictionaries.add(chunk.path)
            raise ReadAgainError
        row_bytes = sum(int(each.value_bytes * max(1.0, each.per_row)) for each in self.chunks or ())
        if self.reading.rows > 1 and self.reading.rows * row_bytes > self.row_memory:
            self.reading.rows = max(1, min(self.reading.rows // 2, self.row_memory // row_bytes))
            raise ReadAgainError

    def part(self, start: int, size: int) -> bytes:
        """A part of the file, read without moving on."""
        position = self.handle.tell()
        self.handle.seek(start)
        content = self.handle.read(size)
        self.handle.seek(position)
        return content


def longest_value(content: bytes | memoryview, unpacked: int, values: int) -> int:
    """The length of the longest value in the page of a dictionary, or of all of them if it can't be unpacked."""
    view, at, longest = memoryview(unpack(content, unpacked)), 0, 0
    if len(view) != unpacked:
        return unpacked
    for _ in range(values):
        if unpacked - at - 4 <= longest:
            break  # what is left is not longer
        [length] = struct.unpack_from("<I", view, at)
        longest, at = max(longest, length), at + 4 + length
    return longest


def unpack(content: bytes | memoryview, size: int) -> bytes | memoryview | pa.Buffer:
    """The `size` bytes of a page, or nothing. Tries each codec: to ask a damaged footer for it aborts the process."""
    if len(content) == size:
        return content
    for codec in CODECS:
        try:
            return pa.Codec(codec).decompress(pa.py_buffer(content), size)
        except (OSError, pa.ArrowException):
            continue
    return b""
