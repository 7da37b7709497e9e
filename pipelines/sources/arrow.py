"""Arrow IPC files: streams, as Hugging Face datasets stores them on disk, and files with a footer (Feather).

A unit is a file, read from front to back one record batch at a time, which is the smallest part that the format lets
one read. Both kinds contain a stream. The footer serves to check the number of batches, so that the rows of a file that
was cut off can still be read; only where there is no stream, as polars writes files, it says where the batches are.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, ClassVar, Self

import pyarrow as pa

from pipelines.reasons import OBJECT_UNREADABLE, Reject
from pipelines.sources.arrow_footer import InFooterOrder
from pipelines.sources.arrow_messages import batch_claims
from pipelines.sources.columns import Batch
from pipelines.sources.format import FILES_TRIED, FileFormat, checked, merged_readable
from pipelines.sources.limits import Limits
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage
from pipelines.storage.files import Listing, SourceFile, open_unchanged

FILE_MAGIC = b"ARROW1\0\0"  # of files with a footer; the stream follows it
FEATHER_1 = b"FEA1"
CACHE_PREFIX = "cache-"  # of files in which `Dataset.map` of Hugging Face caches its results
LONGEST_METADATA = 8 << 20  # of a message: about 30 bytes for each column
FEWEST_ROWS = 16  # in a batch, however large they are


@dataclass(frozen=True)
class ArrowFiles(FileFormat):
    """The rows of Arrow IPC files. The columns are those of a sample of the files."""

    caches: tuple[str, ...] = ()  # names of cache files in the folder, which are not read
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, limits: Limits) -> ArrowFiles:
        """Read the schemas of a sample of the files. Raises UsageError if none of them is readable."""
        caches = [] if is_cache(listing.uri) else [file for file in listing.files if is_cache(file.uri)]
        data = listing.of(file for file in listing.files if not is_cache(file.uri)) if caches else listing
        none = f"all files are called {CACHE_PREFIX}*; to read one, name it"
        look = partial(schema_of, limits=limits)
        schema, differences = merged_readable(data, "Arrow file", look, limits, none)
        return cls(data, limits, schema, tuple(file_name(file.uri) for file in caches), differences=differences)

    def without_listing(self) -> Self:
        """The same with an empty listing and without the names of cache files."""
        return dataclasses.replace(super().without_listing(), caches=())

    def describe(self) -> str:
        """How many files there are, their size, and which are not read."""
        said = self.summary("Arrow file")
        if self.caches:
            names = ", ".join(self.caches[:3]) + (", ..." if len(self.caches) > 3 else "")
            said += f" (skipped {len(self.caches):,} cache file(s) of `Dataset.map`: {names})"
        return said

    def units(self) -> list[FilePart]:
        """A unit for each file. `rows` is estimated from the size of the first batch's rows."""
        per_row = bytes_per_row(self.listing.files[:FILES_TRIED], self.limits)
        return [
            FilePart(uris=(file.uri,), version=file.version, rows=max(1, round(file.size / per_row)))
            for file in self.listing.files
        ]

    def batches(self, unit: FilePart, names: Sequence[str]) -> Iterator[Batch]:
        """The file's columns `names`, as far as it has them. Rows with invalid values are rejected."""
        row = count = 0
        with open_stream(unit.uri, unit.version, self.limits) as (file, reader):
            here = [reader.schema.names.index(name) for name in names if name in reader.schema.names]
            for batch in reader:
                count += 1
                file.check_rows(row + len(batch))  # also of a batch without a body, which pyarrow doesn't read
                for table, rejects in split(batch.select(here), self.limits):
                    yield Batch(table, range(row, row + len(table)), rejects)
                    row += len(table)
            file.check_end(count)


class FrontToBack:
    """An Arrow file of either kind, read once from the start of its stream.

    Knows whether pyarrow asked for more bytes than the file has.
    """

    closed = False  # pyarrow asks

    def __init__(self, handle: IO[bytes], limits: Limits) -> None:
        self.handle = handle
        self.limits = limits
        self.size = self.left = handle.seek(0, io.SEEK_END)  # of the file, and how much of the stream is left
        self.previous: bytes | bytearray = b""  # what was read last: before the body of a message, its metadata
        self.rows = 0  # that the batches so far claim to have
        self.cut = False
        handle.seek(0)
        self.file = io.BufferedReader(handle, limits.read_bytes)  # type: ignore[type-var]
        self.has_footer = self.file.peek(len(FILE_MAGIC)).startswith(FILE_MAGIC)
        if self.has_footer:
            self.read(len(FILE_MAGIC))

    def follow_footer(self) -> None:
        """Begin again with the schema, the dictionaries and batches that the footer names."""
        self.file.detach()  # else it would close the file with itself
        stream = InFooterOrder(self.handle)
        self.left, self.rows, self.previous, self.cut = stream.size, 0, b"", False
        self.file = io.BufferedReader(stream, self.limits.read_bytes)  # type: ignore[assignment]

    def read(self, size: int) -> bytearray:
        """At most `size` bytes. Allocates no more than the file has, since a damaged length can be anything.

        Raises pa.ArrowInvalid for a record batch that takes too much memory, or claims too many rows.
        """
        self.check_memory(size)
        content, filled = bytearray(min(size, self.left)), 0
        with memoryview(content) as view:  # filled in pieces, since reading it at once would hold it twice
            while count := self.file.readinto(view[filled : filled + self.limits.read_bytes]):
                filled += count
        self.left -= filled
        self.cut |= filled < size
        content = content[:filled] if filled < len(content) else content
        self.check_body(content)
        self.previous = content if filled <= LONGEST_METADATA else b""
        return content

    def check_memory(self, size: int) -> None:
        """Raise pa.ArrowInvalid if a part of a message has too many bytes."""
        most = self.limits.batch_stored
        if min(size, self.left) > most:
            raise pa.ArrowInvalid(
                f"a record batch has {size:,} bytes; at most {most:,} are read: write smaller batches"
            )

    def check_body(self, body: bytes | bytearray) -> None:
        """Raise pa.ArrowInvalid if the body of a batch unpacks to too many bytes, or the batch claims too many rows."""
        claims = batch_claims(self.previous, body)
        if claims is None:
            return
        self.rows += claims.rows
        if claims.unpacked > (most := self.limits.unpacked_bytes(len(body))):
            raise pa.ArrowInvalid(
                f"a record batch unpacks to {claims.unpacked:,} bytes; at most {most:,} are read: write smaller batches"
            )
        self.check_rows(self.rows)

    def check_rows(self, rows: int) -> None:
        """Raise pa.ArrowInvalid if a file of this size can't have so many rows."""
        most = self.limits.rows_per_byte * self.size
        if rows > most:
            raise pa.ArrowInvalid(f"it claims {rows:,} rows; a file of {self.size:,} bytes can have {most:,} at most")

    def check_end(self, batches: int) -> None:
        """Raise pa.ArrowInvalid if the file has more batches than the `batches` that were read.

        pyarrow may take a cut for the end of the stream, and damage with zeros for its end marker.
        """
        if self.has_footer:
            expected = pa.ipc.open_file(self.handle).num_record_batches
            if batches != expected:
                raise pa.ArrowInvalid(f"{batches:,} of its {expected:,} record batches could be read")
        elif self.cut:
            raise pa.ArrowInvalid(
                "it has no end-of-stream marker: it was cut off, unless its writer omits the marker; then all was read"
            )
        elif self.left:
            raise pa.ArrowInvalid(f"{self.left:,} bytes follow its end-of-stream marker and can't be read")


@contextmanager
def open_stream(uri: str, version: str, limits: Limits) -> Iterator[tuple[FrontToBack, pa.RecordBatchStreamReader]]:
    """A file, and the reader of its record batches."""
    with open_unchanged(uri, version) as handle:
        file = FrontToBack(handle, limits)
        if file.file.peek(len(FEATHER_1)).startswith(FEATHER_1):
            raise pa.ArrowInvalid("it is of Feather version 1, which isn't read: write it anew as version 2")
        try:
            reader = pa.ipc.open_stream(pa.PythonFile(file, mode="r"))
        except (pa.ArrowInvalid, OSError) as error:
            if not (file.has_footer and is_damage(error)):
                raise
            file.follow_footer()
            reader = pa.ipc.open_stream(pa.PythonFile(file, mode="r"))
        yield file, reader


def schema_of(file: SourceFile, limits: Limits) -> pa.Schema:
    """The schema of a file."""
    with open_stream(file.uri, file.version, limits) as (_, reader):
        return checked(reader.schema, limits)


def bytes_per_row(files: Sequence[SourceFile], limits: Limits) -> float:
    """The size of a row in a file, by the first batch of the first file that has one; infinity if none has."""
    for item in files:
        try:
            with open_stream(item.uri, item.version, limits) as (file, reader):
                before = file.left
                while True:
                    batch = reader.read_next_batch()
                    if len(batch):
                        return (before - file.left) / len(batch)
        except StopIteration:
            continue
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
    return float("inf")


def split(batch: pa.RecordBatch, limits: Limits) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
    """A record batch in parts within the limits. Raises pa.ArrowInvalid if its structure is damaged."""
    batch.validate()
    sound = not damage(batch)
    per_row = max(1, batch.get_total_buffer_size() // max(1, len(batch)))
    rows = max(FEWEST_ROWS, min(limits.batch_rows, limits.batch_bytes // per_row))
    for start in range(0, len(batch), rows):
        part = pa.Table.from_batches([batch.slice(start, rows)])
        yield (part, {}) if sound else without_damage(part)


def damage(rows: pa.RecordBatch | pa.Array) -> str:
    """What is wrong with the stored values, or "". Computing with invalid values could crash the process."""
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        return str(error)
    return ""


def without_damage(part: pa.Table) -> tuple[pa.Table, dict[int, Reject]]:
    """`part` with nulls in place of rows that have invalid values, and a reject for each of these rows."""
    columns = [leaf for column in part.columns for chunk in column.chunks for leaf in leaves(chunk)]
    nothing = pa.table([pa.nulls(1, kind) for kind in part.schema.types], schema=part.schema)
    rows, rejects = [], {}
    for row in range(len(part)):
        message = next(filter(None, (damage(column.slice(row, 1)) for column in columns)), "")
        if message:
            rejects[row] = OBJECT_UNREADABLE.reject(f"its values are damaged: {message}")
        rows.append(nothing if message else part.slice(row, 1))
    return pa.concat_tables(rows).combine_chunks(), rejects


def leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays inside of an array of structs, at any depth, or the array itself.

    A slice of an array of structs is validated with all of its fields' values, not only those of the slice.
    """
    if not pa.types.is_struct(array.type):
        yield array
    else:
        for part in array.flatten():
            yield from leaves(part)


def is_cache(uri: str) -> bool:
    """True if a file's name is that of a cache file."""
    return file_name(uri).startswith(CACHE_PREFIX)


def file_name(uri: str) -> str:
    """The last part of a URI."""
    return PurePosixPath(uri).name
