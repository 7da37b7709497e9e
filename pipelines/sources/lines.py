"""Files of text records: cut into byte ranges, read in whole records, each of them parsed or rejected by itself."""

from __future__ import annotations

import gzip
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.records import RESERVED, Reject
from pipelines.sources.columns import Batch
from pipelines.sources.objects import READ_ERRORS, Listing, SourceObject, is_damage, open_unchanged
from vista_core import UsageError

RANGE_BYTES = 16 << 20  # of a file in a unit: some 10^5 records, which the fetch stage is to share out
READ_BYTES = 8 << 20  # at once
BLOCK_BYTES = 1 << 20  # looked through at once: more is slower, since it outgrows the processor's cache
TAIL_BYTES = 256 << 10  # read at once to find a range's first record, and the end of its last
RECORD_BYTES = 64 << 20  # in the longest record
SAMPLE_BYTES = 1 << 20
SAMPLE_FILES = 8
BATCH_ROWS = 4096  # and in a sample
PARTS = 8  # into which records are divided that can't be parsed together
FILE_THREADS = 16
SHOWN = 80  # characters of a record in a message

LF, CR = 10, 13
GZIP, BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
ENDLESS = sys.maxsize  # the end of a compressed file is not known

Ends = Callable[[bytes], np.ndarray]  # the positions behind the whole records of a text that begins with one
Found = TypeVar("Found")


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


class Syntax(Protocol):
    """How the records of one format are told apart and parsed."""

    @property
    def schema(self) -> pa.Schema:
        """Of what `parse` returns."""

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per record: is it blank, and may it be parsed?"""

    def parse(self, text: memoryview) -> pa.Table:
        """A row per record, blank ones left out. Raises pa.ArrowInvalid if any of them is not as it should be."""

    def reject(self, record: bytes, error: str) -> Reject:
        """Why a record can't be read; `error` is what came of parsing it, or empty."""


class Head(NamedTuple):
    """The beginning of a file."""

    content: bytes  # unpacked
    ends: np.ndarray  # of the whole records in it
    packed: bool
    density: float  # bytes of the file per byte of content


class Block(NamedTuple):
    """Some whole records of a stream."""

    start: int  # in the stream
    content: bytes
    ends: np.ndarray  # in `content`
    problem: str  # with the only record, or empty


@dataclass(frozen=True)
class Records:
    """The records of a block that are not blank."""

    content: bytes
    starts: np.ndarray
    ends: np.ndarray
    sound: np.ndarray  # may be parsed
    problem: str

    def text(self, first: int, last: int) -> memoryview:
        """The records from `first` to before `last`."""
        return memoryview(self.content)[self.starts[first] : self.ends[last - 1]]


class Unpacked:
    """What a gzip file holds. Damage is raised after all that comes before it was read."""

    def __init__(self, packed: IO[bytes]) -> None:
        self.file = gzip.GzipFile(fileobj=packed)
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
def open_unit(unit: dict) -> Iterator[Any]:
    """The stream that a unit is part of, at the unit's start."""
    with open_unchanged(unit["object"], unit["version"]) as handle:
        if not unit["packed"]:
            handle.seek(unit["first_row"])
            yield handle
        else:
            # gzip asks for 8 kB at a time, each of which would be a request to a store.
            unpacked = Unpacked(io.BufferedReader(handle, READ_BYTES))  # type: ignore[type-var]
            unpacked.read(unit["first_row"])
            yield unpacked


def read_head(item: SourceObject, size: int, ends_of: Ends, records: int = 1) -> Head:
    """The first `size` bytes of a file, or as much more as its first `records` need."""
    while True:
        with open_unchanged(item.uri, item.version) as handle:
            start = handle.read(size)
        packed, source = start.startswith(GZIP), io.BytesIO(start)
        content = Unpacked(source).read(size) if packed else start
        density = source.tell() / max(1, len(content)) if packed else 1.0
        whole = len(start) == item.size and not (packed and len(content) == size)
        content = without_bom(content) + b"\n" * whole
        ends = ends_of(content)
        if len(ends) >= records or whole or size > RECORD_BYTES:
            return Head(content, ends, packed, density)
        size *= 8


def without_bom(content: bytes) -> bytes:
    """A file's beginning with blanks for the byte order mark: offsets stay what they are."""
    return b"   " + content[3:] if content.startswith(BOM) else content


def line_ends(content: bytes) -> np.ndarray:
    """The positions behind line feeds."""
    return np.flatnonzero(np.frombuffer(content, np.uint8) == LF) + 1


def starts_of(ends: np.ndarray) -> np.ndarray:
    """The positions at which records begin that end at `ends`."""
    return np.concatenate([np.zeros(len(ends[:1]), np.int64), ends[:-1]])


def read_chunks(stream: Stream, length: int) -> Iterator[bytes]:
    """`length` bytes of a stream in pieces, then what comes behind them, then, for ever, nothing."""
    while content := stream.read(min(READ_BYTES, length) if length > 0 else TAIL_BYTES):
        length -= len(content)
        yield from (content[start : start + BLOCK_BYTES] for start in range(0, len(content), BLOCK_BYTES))
    yield from itertools.repeat(b"")


def read_blocks(stream: Stream, start: int, stop: int, ends_of: Ends) -> Iterator[Block]:
    """The records that begin in [start, stop) of a stream that is at `start`, where one begins.

    A record that is as long as the file or RECORD_BYTES because a quote is never closed is its first line, and costs
    no other. Raises pa.ArrowInvalid at a line that is longer than RECORD_BYTES.
    """
    rest, at, chunks = b"", start, read_chunks(stream, stop - start)
    while at < stop and ((chunk := next(chunks)) or rest):
        rest += chunk or b"\n"
        ends, problem = ends_of(rest), ""
        if not len(ends) and (not chunk or len(rest) > RECORD_BYTES):
            ends, problem = line_ends(rest)[:1], "a quote is opened and never closed"
            if not len(ends):
                raise pa.ArrowInvalid(f"the line at byte {at} is longer than {RECORD_BYTES / 1e6:,.0f} MB")
        if len(ends):
            ends = ends[: 1 + np.searchsorted(ends[:-1], stop - at)]
            yield Block(at, rest if at else without_bom(rest), ends, problem)
            rest, at = rest[ends[-1] :], at + int(ends[-1])


def read_batches(blocks: Iterator[Block], syntax: Syntax) -> Iterator[Batch]:
    """The rows of `blocks`, at most BATCH_ROWS at once; a record that can't be parsed is a null row and a reject."""
    for block in blocks:
        starts = starts_of(block.ends)
        blank, sound = syntax.look(block.content, starts, block.ends)
        kept = np.flatnonzero(~blank)
        records = Records(block.content, starts[kept], block.ends[kept], sound[kept], block.problem)
        for first in range(0, len(kept), BATCH_ROWS):
            last = min(first + BATCH_ROWS, len(kept))
            table, rejects = parsed(records, first, last, syntax)
            yield Batch(table, (block.start + records.starts[first:last]).tolist(), rejects)


def parsed(records: Records, first: int, last: int, syntax: Syntax) -> tuple[pa.Table, dict[int, Reject]]:
    """The rows of some records, and why some are null."""
    parts = list(salvaged(records, first, last, syntax))
    rejects = {at - first: part for at, part in parts if isinstance(part, Reject)}
    table = pa.concat_tables([syntax.schema.empty_table(), *(part for _, part in parts if isinstance(part, pa.Table))])
    if rejects:
        bad = np.isin(np.arange(last - first), list(rejects))
        table = table.take(pa.array(np.cumsum(~bad) - 1, mask=bad))
    return table, rejects


def salvaged(records: Records, first: int, last: int, syntax: Syntax) -> Iterator[tuple[int, pa.Table | Reject]]:
    """Tables of the records that can be parsed, and why each of the others can't, with the record it begins with.

    What can't be parsed together is divided until single records are left. Where all are bad that takes a call of
    pyarrow for each: of such, 6,000 are read in a second, of good ones with one bad in a hundred 60,000.
    """
    error = records.problem
    if not error and records.sound[first:last].all():
        try:
            table = syntax.parse(records.text(first, last))
            if len(table) == last - first:
                yield first, table
                return
            error = f"{len(table)} records instead of {last - first}"
        except pa.ArrowInvalid as invalid:
            error = str(invalid)
    if last - first == 1:
        yield first, syntax.reject(bytes(records.text(first, last)), error)
        return
    step = -(-(last - first) // PARTS)
    for start in range(first, last, step):
        yield from salvaged(records, start, min(start + step, last), syntax)


def rejected(reason: str, why: str, record: bytes) -> Reject:
    """A record that can't be read, with its beginning."""
    return Reject("read", reason, f"{why[:300]}: {record[: 4 * SHOWN].decode('utf-8', 'replace').strip()[:SHOWN]}")


def first_readable(listing: Listing, kind: str, look: Callable[[SourceObject], Found]) -> Found:
    """What `look` finds in the first file of several that is not damaged. Raises UsageError if there is none."""
    errors = []
    for item in [item for item in listing.objects if item.size][:SAMPLE_FILES]:
        try:
            return look(item)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            errors.append(f"{item.uri}: {error}")
    raise UsageError(f"--source {listing.uri}: no readable {kind} file: {(errors or ['all are empty'])[0]}")


def table_types(like: pa.Schema | None, readable: Callable[[pa.DataType], bool]) -> dict[str, pa.DataType]:
    """The types of a table's columns that come from the source, where its format can be read as such."""
    return {field.name: field.type for field in like or () if field.name not in RESERVED and readable(field.type)}


def new_unit(item: SourceObject) -> dict:
    """A unit of a file that says nothing yet of what it covers."""
    return {"object": item.uri, "version": item.version, "error": "", "rows": 1, "first_row": 0}


def range_units(unit: dict, cuts: list[int], record_bytes: float) -> list[dict]:
    """`unit` for each range between `cuts`, with a guess at how many records begin there."""
    return [
        unit | {"first_row": start, "stop": stop, "rows": max(1, round((stop - start) / record_bytes))}
        for start, stop in itertools.pairwise(cuts)
    ]
