"""Arrow IPC files: streams, as Hugging Face datasets keep them on disk, and files with a footer (Feather).

A unit is a file, read from front to back one record batch at a time, which is the least that the format lets one
read. Both kinds are a stream; the footer only says how many batches are in it, so a file that was cut off has rows.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

import pyarrow as pa

from pipelines.records import Reject
from pipelines.sources.columns import Batch, is_list
from pipelines.sources.objects import READ_ERRORS, Listing, SourceObject, is_damage, open_unchanged
from vista_core import UsageError

BATCH_BYTES = 32 << 20  # of encoded images at once in a worker
BATCH_ROWS = 4096
READ_BYTES = 8 << 20  # fetched at once, since a store is asked for each read
FILE_MAGIC = b"ARROW1\0\0"  # of the kind with a footer; the stream follows it
LEFTOVER = "cache-"  # how the names of files begin in which the `map` of Hugging Face datasets keeps results


@dataclass(frozen=True)
class ArrowFiles:
    """The rows of some Arrow IPC files."""

    listing: Listing
    leftovers: tuple[str, ...]  # names of files beside them that are no data
    schema: pa.Schema  # of the first file; the others are read as if they had it
    exact: bool = False

    @classmethod
    def open(cls, listing: Listing) -> ArrowFiles:
        """Read the first readable schema. Raises UsageError if there is none."""
        asked_for = file_name(listing.uri).startswith(LEFTOVER)
        left = [not asked_for and file_name(item.uri).startswith(LEFTOVER) for item in listing.objects]
        leftovers = tuple(file_name(item.uri) for item, is_left in zip(listing.objects, left, strict=True) if is_left)
        kept = tuple(item for item, is_left in zip(listing.objects, left, strict=True) if not is_left)
        listing = dataclasses.replace(listing, objects=kept)
        return cls(listing, leftovers, first_schema(listing))

    def objects(self) -> dict[str, SourceObject]:
        """The files listed."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> ArrowFiles:
        """The same, of which only these files are read."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> ArrowFiles:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied(), leftovers=())

    def describe(self) -> str:
        """What was found."""
        said = f"{len(self.listing.objects):,} Arrow file(s), {self.listing.megabytes:,.2f} MB"
        if self.leftovers:
            names = ", ".join(self.leftovers[:3]) + (", ..." if len(self.leftovers) > 3 else "")
            said += f" (not read, being what datasets' map left behind: {len(self.leftovers):,} file(s), {names})"
        return said

    def units(self) -> list[dict]:
        """A unit a file; `rows` supposes that all rows are as large as those of the first batch."""
        per_row = bytes_per_row(self.listing.objects)
        return [
            {
                "object": item.uri,
                "version": item.version,
                "rows": max(1, round(item.size / per_row)),
                "first_row": 0,
                "error": "",
            }
            for item in self.listing.objects
        ]

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The file's columns `names`, those that it has; rows with values that can't be are rejected."""
        row = count = 0
        with open_stream(unit["object"], unit["version"]) as (file, reader):
            here = [reader.schema.names.index(name) for name in names if name in reader.schema.names]
            for batch in reader:
                count += 1
                for table, rejects in parts(batch.select(here)):
                    yield Batch(table, range(row, row + len(table)), rejects)
                    row += len(table)
            file.check_end(count)


class FrontToBack:
    """A file of either kind read once, from the stream's start, which knows whether more was asked than there was."""

    closed = False  # pyarrow asks

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle = handle
        self.left = handle.seek(0, io.SEEK_END)
        self.cut = False
        handle.seek(0)
        self.file = io.BufferedReader(handle, READ_BYTES)  # type: ignore[type-var]
        self.has_footer = self.file.peek(len(FILE_MAGIC)).startswith(FILE_MAGIC)
        if self.has_footer:
            self.read(len(FILE_MAGIC))

    def read(self, size: int) -> bytearray:
        """At most `size` bytes; a damaged length must not make room for more than there are."""
        content, filled = bytearray(min(size, self.left)), 0
        with memoryview(content) as view:  # filled piece by piece: a whole record batch at once would be there twice
            while count := self.file.readinto(view[filled : filled + READ_BYTES]):
                filled += count
        self.left -= filled
        self.cut |= filled < size
        return content[:filled] if filled < len(content) else content

    def check_end(self, batches: int) -> None:
        """Raise pa.ArrowInvalid if the file has more than the `batches` that were read: pyarrow may take a cut for the
        end, and zeros among damage for its marker.
        """
        if self.has_footer:
            expected = pa.ipc.open_file(self.handle).num_record_batches
            if batches != expected:
                raise pa.ArrowInvalid(f"{batches:,} of its {expected:,} record batches could be read")
        elif self.cut:
            raise pa.ArrowInvalid(
                "it has no end-of-stream marker: it was cut off, or if its writer leaves that out all was read"
            )
        elif self.left:
            raise pa.ArrowInvalid(f"{self.left:,} bytes follow its end-of-stream marker, which can't be read")


@contextmanager
def open_stream(uri: str, version: str) -> Iterator[tuple[FrontToBack, pa.RecordBatchStreamReader]]:
    """A file, and the reader of its record batches."""
    with open_unchanged(uri, version) as handle:
        file = FrontToBack(handle)
        yield file, pa.ipc.open_stream(pa.PythonFile(file, mode="r"))


def first_schema(listing: Listing) -> pa.Schema:
    """The schema of the first file that has a readable one, without extension types."""
    errors = [] if listing.objects else [f"all files are called {LEFTOVER}*, name one to read it"]
    for item in listing.objects[:8]:
        try:
            with open_stream(item.uri, item.version) as (_, reader):
                return stored_schema(reader.schema)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            errors.append(f"{item.uri}: {error}")
    raise UsageError(f"--source {listing.uri}: no readable Arrow file: {errors[0]}")


def bytes_per_row(objects: Sequence[SourceObject]) -> float:
    """How much of a file a row takes, by the first batch of the first file that has one; infinity if none has."""
    for item in objects[:8]:
        try:
            with open_stream(item.uri, item.version) as (file, reader):
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


def parts(batch: pa.RecordBatch) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
    """A record batch in parts of at most 32 MB and 4096 rows. Raises pa.ArrowInvalid if it is not what it says."""
    batch.validate()
    sound = not damage(batch)
    per_row = max(1, batch.get_total_buffer_size() // max(1, len(batch)))
    rows = max(16, min(BATCH_ROWS, BATCH_BYTES // per_row))
    for start in range(0, len(batch), rows):
        part = pa.Table.from_batches([batch.slice(start, rows)])
        table, rejects = (part, {}) if sound else without_damage(part)
        yield as_stored(table), rejects


def damage(rows: pa.RecordBatch | pa.Array) -> str:
    """What is wrong with values as they are stored, or nothing. To compute with such values could end the process."""
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        return str(error)
    return ""


def without_damage(part: pa.Table) -> tuple[pa.Table, dict[int, Reject]]:
    """`part` with nulls for the rows that hold damaged values, and why they do."""
    columns = [leaf for column in part.columns for chunk in column.chunks for leaf in leaves(chunk)]
    nothing = pa.table([pa.nulls(1, kind) for kind in part.schema.types], schema=part.schema)
    rows, rejects = [], {}
    for row in range(len(part)):
        message = next(filter(None, (damage(column.slice(row, 1)) for column in columns)), "")
        if message:
            rejects[row] = Reject("read", "object_unreadable", f"its values are damaged: {message}"[:500])
        rows.append(nothing if message else part.slice(row, 1))
    return pa.concat_tables(rows).combine_chunks(), rejects


def leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays that an array of structs consists of: it would be judged by all of them, whatever slice is asked."""
    if not pa.types.is_struct(array.type):
        yield array
    else:
        for part in array.flatten():
            yield from leaves(part)


def as_stored(table: pa.Table) -> pa.Table:
    """`table` without extension types."""
    return table.cast(stored_schema(table.schema))


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` with the types that extension types are stored as; writers may be wrong about what is never null."""
    return pa.schema([field.with_type(stored(field.type)).with_nullable(True) for field in schema])


def stored(kind: pa.DataType) -> pa.DataType:
    """What a type is stored as, also deep in lists and structs."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, stored(part.type)) for part in kind])
    if is_list(kind):
        part = kind.value_field.with_type(stored(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(part, kind.list_size)
        return pa.large_list(part) if pa.types.is_large_list(kind) else pa.list_(part)
    return kind


def file_name(uri: str) -> str:
    """The last part of a URI."""
    return PurePosixPath(uri).name
