"""Text formats: files are cut into byte ranges and read in whole records, each of which is parsed or rejected alone."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.reasons import Reason, Reject
from pipelines.records import RESERVED
from pipelines.sources.columns import Batch
from pipelines.sources.limits import Limits
from pipelines.sources.text_encoding import BOM, UTF8, Stream, opened
from pipelines.sources.types import plain
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS
from pipelines.storage.files import open_unchanged
from pipelines.storage.uris import redacted_text

PARTS = 8  # into which records are divided that can't be parsed together
MENDED = 512  # records, at most, that are looked at one by one
SHOWN = 80  # characters of a record in a message

LF, CR = 10, 13
LINE_END = re.compile(rb"\r\n?|\n")
GZIP = b"\x1f\x8b"
UNKNOWN_END = sys.maxsize  # of a file that is compressed or in another encoding, which is read to its end

RecordEnds = Callable[[bytes], np.ndarray]  # from text that begins with a record to the positions after each record
RangeT = TypeVar("RangeT", bound="ByteRange")


@dataclass(frozen=True, kw_only=True)
class ByteRange(FilePart):
    """The records that begin in the bytes from `first_row` to before `stop` of a file, decompressed and in UTF-8."""

    stop: int
    is_gzip: bool
    encoding: str = UTF8

    @property
    def is_plain(self) -> bool:
        """True if the file's own bytes are read, so that it can be cut into ranges."""
        return not self.is_gzip and self.encoding == UTF8


class Syntax(Protocol):
    """How the records of one format are parsed."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of the tables that `parse` returns."""

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each record: is it blank, and may it be given to `parse`?"""

    def parse(self, text: memoryview) -> pa.Table:
        """A row for each record that is not blank. Raises pa.ArrowInvalid if a record is invalid or doesn't fit."""

    def mend(self, records: list[bytes]) -> Mended:
        """A row for each record, with what can be read of it. Raises pa.ArrowInvalid if they must be read apart.

        Columns that are embedded may have another type than in `schema`, as any value can be an id or a text.
        """

    def reject(self, record: bytes, error: str) -> Reject:
        """Why a record can't be read. `error` says why, if it is known."""


class Mended(NamedTuple):
    """Records of which some can't be read, or have values that don't fit their columns."""

    table: pa.Table
    rejects: dict[int, Reject]
    misfits: dict[int, dict[str, str]]


class Block(NamedTuple):
    """Some whole records of a stream."""

    start: int  # in the stream
    content: bytes
    ends: np.ndarray  # in `content`
    problem: str  # with the block's only record, or empty


@dataclass(frozen=True)
class Records:
    """The records of a block that are not blank."""

    content: bytes
    starts: np.ndarray
    ends: np.ndarray
    parsable: np.ndarray  # may be given to the parser
    problem: str

    def text(self, first: int, last: int) -> memoryview:
        """The records from number `first` to before number `last`."""
        return memoryview(self.content)[self.starts[first] : self.ends[last - 1]]


class Gunzip(gzip.GzipFile):
    """A gzip file. Raises BadGzipFile where it unpacks to far more than its size, which no catalog does."""

    def __init__(self, compressed: IO[bytes], limits: Limits) -> None:
        super().__init__(fileobj=compressed)
        self.compressed, self.limits = compressed, limits

    def read(self, size: int | None = -1) -> bytes:
        """As in GzipFile."""
        return self.checked(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        """As in GzipFile."""
        return self.checked(super().read1(size))

    def checked(self, content: bytes) -> bytes:
        """`content`, if what was unpacked so far is not too much."""
        most = self.limits.gzip_bytes + self.limits.gzip_ratio * self.compressed.tell()
        if self.tell() > most:
            raise gzip.BadGzipFile(f"it unpacks to more than {self.limits.gzip_ratio} times its size")
        return content


class Decompressed:
    """The content of a gzip file. Damage is raised after everything before it was read."""

    def __init__(self, compressed: IO[bytes], limits: Limits) -> None:
        self.file = Gunzip(compressed, limits)
        self.error: Exception | None = None

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""
        parts: list[bytes] = []
        while size and not self.error:
            try:
                part = self.file.read1(size)  # `read` drops what it has when it fails
            except READ_ERRORS as error:
                self.error = error
                break
            if not part:
                break
            parts.append(part)
            size -= len(part)
        if self.error and not parts:
            raise self.error
        return b"".join(parts)


@contextmanager
def open_unit(unit: ByteRange, limits: Limits) -> Iterator[Any]:
    """The stream of a unit, positioned at its start."""
    with open_unchanged(unit.uri, unit.version) as handle:
        if unit.is_plain:
            handle.seek(unit.first_row)
            yield handle
        else:
            stream: Any = handle
            if unit.is_gzip:  # it reads 8 kB at a time, each of which would be a request to the store
                stream = Decompressed(io.BufferedReader(handle, limits.read_bytes), limits)  # type: ignore[type-var]
            stream = opened(stream, unit.encoding)
            stream.read(unit.first_row)
            yield stream


def without_bom(content: bytes) -> bytes:
    """A file's beginning with spaces in place of the byte order mark, which keeps offsets as they are."""
    return b"   " + content[3:] if content.startswith(BOM) else content


def line_ends(content: bytes) -> np.ndarray:
    """The positions after line feeds."""
    return np.flatnonzero(np.frombuffer(content, np.uint8) == LF) + 1


def starts_of(ends: np.ndarray) -> np.ndarray:
    """The positions at which the records begin that end at `ends`."""
    return np.concatenate([np.zeros(len(ends[:1]), np.int64), ends[:-1]])


def read_chunks(stream: Stream, length: int, limits: Limits) -> Iterator[bytes]:
    """`length` bytes of a stream in blocks, then what follows them in smaller reads, and then empty bytes forever."""
    while content := stream.read(min(limits.read_bytes, length) if length > 0 else limits.tail_bytes):
        length -= len(content)
        yield from (content[at : at + limits.block_bytes] for at in range(0, len(content), limits.block_bytes))
    yield from itertools.repeat(b"")


def read_blocks(stream: Stream, start: int, stop: int, ends_of: RecordEnds, limits: Limits) -> Iterator[Block]:
    """The records that begin in [start, stop) of a stream, which is at `start`, where a record begins.

    If a quote is never closed, the record that it opens ends at the end of the file or exceeds `record_bytes`. Then
    only its first line is taken for a record, with a problem, and reading goes on after that line. Raises
    pa.ArrowInvalid at a line that is longer than `record_bytes`.
    """
    rest, at, chunks = b"", start, read_chunks(stream, stop - start, limits)
    while at < stop and ((chunk := next(chunks)) or rest):
        rest += chunk or b"\n"
        ends, problem = ends_of(rest), ""
        if not len(ends) and (not chunk or len(rest) > limits.record_bytes):
            line, problem = LINE_END.search(rest), "a quote is opened and never closed"
            ends = np.array([line.end()] if line else [], np.int64)
            if line is None:
                raise pa.ArrowInvalid(f"the line at byte {at} is longer than {limits.record_bytes / 1e6:,.0f} MB")
        if len(ends):
            ends = ends[: 1 + np.searchsorted(ends[:-1], stop - at)]
            yield Block(at, rest if at else without_bom(rest), ends, problem)
            rest, at = rest[ends[-1] :], at + int(ends[-1])


def read_batches(blocks: Iterator[Block], syntax: Syntax, limits: Limits) -> Iterator[Batch]:
    """The rows of `blocks`, at most `batch_rows` at once. A record that can't be parsed is a null row and a reject."""
    for block in blocks:
        starts = starts_of(block.ends)
        blank, parsable = syntax.look(block.content, starts, block.ends)
        kept = np.flatnonzero(~blank)
        records = Records(block.content, starts[kept], block.ends[kept], parsable[kept], block.problem)
        for first in range(0, len(kept), limits.batch_rows):
            last = min(first + limits.batch_rows, len(kept))
            table, rejects, misfits = parsed(records, first, last, syntax)
            yield Batch(table, block.start + records.starts[first:last], rejects, misfits)


def parsed(records: Records, first: int, last: int, syntax: Syntax) -> Mended:
    """The rows of some records, why some of them are null, and which of their values don't fit."""
    parts = list(parse_or_divide(records, first, last, syntax))
    rejects = {at - first + row: reject for at, part in parts for row, reject in part.rejects.items()}
    misfits = {at - first + row: misfit for at, part in parts for row, misfit in part.misfits.items()}
    tables = [part.table for _, part in parts]
    mended = {table.schema: table.schema for table in tables if table.schema != syntax.schema}
    schema = next(iter(mended), syntax.schema)
    table = pa.concat_tables([table if table.schema == schema else table.cast(schema) for table in tables])
    if rejects:
        bad = np.isin(np.arange(last - first), list(rejects))
        table = table.take(pa.array(np.arange(last - first), mask=bad))
        misfits = {row: misfit for row, misfit in misfits.items() if row not in rejects}
    return Mended(table, rejects, misfits)


def parse_or_divide(records: Records, first: int, last: int, syntax: Syntax) -> Iterator[tuple[int, Mended]]:
    """The rows of records, in parts that were parsed together, each with the number of its first record.

    Records that can't be parsed together are divided until few are left, and these are mended. If that fails, single
    records are rejected, which takes two calls of pyarrow for each: some 5,000 records a second.
    """
    error = records.problem
    if not error and records.parsable[first:last].all():
        try:
            table = syntax.parse(records.text(first, last))
            if len(table) == last - first:
                yield first, Mended(table, {}, {})
                return
            error = f"{len(table)} records instead of {last - first}"
        except pa.ArrowInvalid as invalid:
            error = str(invalid)
    if not records.problem and last - first <= MENDED:
        try:
            yield first, syntax.mend([bytes(records.text(at, at + 1)) for at in range(first, last)])
            return
        except pa.ArrowInvalid as invalid:
            error = error or str(invalid)
    if last - first == 1:
        reject = syntax.reject(bytes(records.text(first, last)), error)
        yield first, Mended(nulls(syntax.schema, 1), {0: reject}, {})
        return
    step = -(-(last - first) // PARTS)
    for start in range(first, last, step):
        yield from parse_or_divide(records, start, min(start + step, last), syntax)


def nulls(schema: pa.Schema, rows: int) -> pa.Table:
    """Rows without values."""
    return pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema)


def misfit(column: str, value: str, kind: pa.DataType | str) -> str:
    """The message of a value, given by its text, that doesn't fit its column."""
    text = redacted_text(value[: 4 * SHOWN])[:SHOWN].encode("utf-8", "replace").decode()
    return f"{column[:SHOWN]} is {text}, which can't be read as {kind}"


def reject_of(reason: Reason, why: str, record: bytes) -> Reject:
    """The reject of a record, whose message shows the record's beginning."""
    shown = record[: 4 * SHOWN].decode("utf-8", "replace").strip()
    return reason.reject(f"{why[:300]}: {redacted_text(shown)[:SHOWN]}")


def table_types(like: pa.Schema | None, readable: Callable[[pa.DataType], bool]) -> dict[str, pa.DataType]:
    """The types of the table's columns that come from the source, as far as its format can be read with them."""
    types = {field.name: plain(field.type) for field in like or () if field.name not in RESERVED}
    return {name: kind for name, kind in types.items() if readable(kind)}


def estimated_rows(size: int, record_bytes: float) -> int:
    """About how many records there are in `size` bytes of a file."""
    return max(1, round(size / record_bytes))


def cut(unit: RangeT, cuts: list[int], record_bytes: float) -> list[RangeT]:
    """`unit` for each range between `cuts`."""
    return [
        dataclasses.replace(unit, first_row=start, stop=stop, rows=estimated_rows(stop - start, record_bytes))
        for start, stop in itertools.pairwise(cuts)
    ]
