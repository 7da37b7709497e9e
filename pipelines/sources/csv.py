"""CSV with a header and any of the usual delimiters. A unit is a range of bytes that holds whole records."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.reasons import COLUMN_TYPE, LINE_UNPARSABLE, TEXT_NOT_UTF8, Reject
from pipelines.sources import lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.format import FileFormat, units_of
from pipelines.sources.limits import Limits
from pipelines.sources.lines import CR, LF, ByteRange, Head, reject_of
from pipelines.sources.roles import ID_NAMES, TEXT_NAMES, URI_NAMES
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged
from vista_core import VistaError

QUOTE = ord('"')
DELIMITERS = (",", ";", "\t", "|")
LONGEST_HEADER = 64 << 10  # bytes in which the delimiter is looked for
ONE_BLOCK = (1 << 31) - 1  # bytes, so that pyarrow takes everything for one block
# Patterns that only numbers match: a leading zero, a plus or an exponent may be part of a code.
INTEGER = r"^(0|-?[1-9]\d*)$"
DECIMAL = r"^(0|-?[1-9]\d*|-?(0|[1-9]\d*)\.\d+)$"
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")


class HeaderError(VistaError):
    """A header that doesn't give each column a unique name, or names too many."""


@dataclass(frozen=True)
class Header:
    """The first record of a file, which names its columns."""

    columns: tuple[str, ...]
    delimiter: str
    end: int  # the byte at which the records start
    is_gzip: bool


@dataclass(frozen=True, kw_only=True)
class CsvRange(ByteRange):
    """A range of a CSV file, with what its header says."""

    columns: tuple[str, ...]
    delimiter: str


@dataclass(frozen=True)
class Csv(FileFormat):
    """The records of CSV files. The columns are those of the first file."""

    record_bytes: float  # of a file, in the mean
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns, limits: Limits) -> Csv:
        """Look at the beginning of the first readable file.

        Columns of the table `like` have its types. Columns that may be ids, texts or paths are strings. Raises
        UsageError if no file is readable.
        """
        names, types, record_bytes = lines.first_sample(listing, "CSV file", partial(sample, limits=limits))
        asked = columns.named
        types |= dict.fromkeys((*ID_NAMES, *TEXT_NAMES, *URI_NAMES), pa.string())
        types |= lines.table_types(like, readable) | dict.fromkeys(filter(None, asked), pa.string())
        return cls(listing, limits, pa.schema([(name, types[name]) for name in names]), record_bytes)

    def describe(self) -> str:
        """How many files there are, and their size."""
        return self.summary("CSV file")

    def units(self) -> list[FilePart]:
        """A unit for each range of about `range_bytes` (16 MB), or for each compressed file.

        Reads files that are longer than a range, since whether a line break is inside of quotes can only be told by
        reading from the beginning. A file without a usable header is one unit with the error.
        """
        return units_of(self.listing, self.file_units)

    def file_units(self, file: SourceFile) -> list[FilePart]:
        """The units of one file."""
        try:
            header = header_of(lines.read_head(file, self.limits.header_bytes, head_ends, 1, self.limits), self.limits)
            if header is None:
                return []
            whole = CsvRange(
                uris=(file.uri,),
                version=file.version,
                rows=lines.estimated_rows(max(0, file.size - header.end), self.record_bytes),
                first_row=header.end,
                stop=lines.UNKNOWN_END,
                is_gzip=header.is_gzip,
                columns=header.columns,
                delimiter=header.delimiter,
            )
            if header.is_gzip:
                return [whole]
            return [*lines.cut(whole, range_cuts(file, header, self.limits), self.record_bytes)]
        except HeaderError as error:
            message = str(error)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            message = f"the CSV header cannot be read: {said(error)}"
        return [FilePart(uris=(file.uri,), version=file.version, rows=1, error=message)]

    def batches(self, unit: CsvRange, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of the unit's records, as far as the file has them. An empty field is null."""
        types = {name: self.schema.field(name).type for name in unit.columns if name in names}
        syntax = CsvSyntax(unit.columns, unit.delimiter, types)
        ends_of = partial(record_ends, delimiter=unit.delimiter)
        with lines.open_unit(unit, self.limits) as stream:
            blocks = lines.read_blocks(stream, unit.first_row, unit.stop, ends_of, self.limits)
            yield from lines.read_batches(blocks, syntax, self.limits)


@dataclass(frozen=True)
class CsvSyntax:
    """How records with `columns` are parsed to those of them that have one of `types`."""

    columns: tuple[str, ...]
    delimiter: str
    types: dict[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """The columns of `types`. If there are none it is the first column, so that rows are counted."""
        return pa.schema(list((self.types or {self.columns[0]: pa.binary()}).items()))

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which records are blank. All may be parsed, since pyarrow and `record_ends` agree on what a record is."""
        first = np.frombuffer(content, np.uint8)[starts]
        return (first == LF) | (first == CR), np.ones(len(starts), bool)

    def parse(self, text: memoryview) -> pa.Table:
        """A row for each record."""
        schema = self.schema
        return pa.csv.read_csv(
            pa.BufferReader(text),
            pa.csv.ReadOptions(use_threads=False, block_size=ONE_BLOCK, column_names=list(self.columns)),
            pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            pa.csv.ConvertOptions(
                column_types=schema,
                include_columns=schema.names,
                null_values=[""],
                strings_can_be_null=True,
                true_values=TRUE,
                false_values=FALSE,
            ),
        )

    def reject(self, record: bytes, error: str) -> Reject:
        """The message of pyarrow, with the column's name instead of its number."""
        try:
            record.decode()
        except UnicodeDecodeError as invalid:
            return reject_of(TEXT_NOT_UTF8, str(invalid), record)
        if misfit := re.match(r"In CSV column #(\d+): Row #\d+: (?:CSV )?(.*)", error, re.DOTALL):
            return reject_of(COLUMN_TYPE, f"column {self.columns[int(misfit[1])]!r}: {misfit[2]}", record)
        count = re.search(r"Expected \d+ columns, got \d+", error)
        return reject_of(LINE_UNPARSABLE, count[0] if count else error, record)


def record_ends(content: bytes, delimiter: str) -> np.ndarray:
    """The positions after the line breaks outside of quotes in `content`, which begins with a record.

    Follows pyarrow's rules. A quote at the beginning of a field opens; elsewhere outside of quotes it is an ordinary
    character. Inside of quotes, two quotes stand for one, and a single one closes. So an even number of quotes in a row
    changes nothing. An odd number toggles if it comes after a delimiter or line break. An odd number elsewhere closes
    if a quote is open, and else does nothing.
    """
    data = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero((data == LF) | (data == CR) | (data == QUOTE))
    marks = marks[: len(marks) - content.endswith(b"\r")]  # a line feed may follow it
    kinds = data[marks]
    breaks = kinds == LF
    returns = np.flatnonzero(kinds == CR)  # line breaks, unless a line feed follows
    breaks[returns] = data[marks[returns] + 1] != LF
    ends, quotes = marks[breaks] + 1, marks[kinds == QUOTE]
    if not len(quotes):
        return ends
    groups = np.flatnonzero(np.diff(quotes, prepend=-2) > 1)
    odd = np.diff(groups, append=len(quotes)) & 1
    quotes = quotes[groups[odd.astype(bool)]]
    before = data[quotes - 1]
    flips = (before == ord(delimiter)) | (before == LF) | (before == CR) | (quotes == 0)
    count = np.cumsum(flips)
    inside = (count - np.maximum.accumulate(count * ~flips)) & 1
    return ends[np.append(0, inside)[np.searchsorted(quotes, ends)] == 0]


def head_ends(content: bytes) -> np.ndarray:
    """The positions after the records of a file's beginning, of which the header is the first."""
    start = len(content) - len(content.lstrip(b" \r\n"))
    return start + record_ends(content[start:], delimiter_of(content[start:]))


def delimiter_of(content: bytes) -> str:
    """The delimiter that is most frequent in the first record, outside of quotes."""
    line = re.split(rb"[\r\n]", re.sub(rb'"[^"]*"', b"", content[:LONGEST_HEADER]), maxsplit=1)[0]
    return max(DELIMITERS, key=lambda delimiter: line.count(delimiter.encode()))


def header_of(head: Head, limits: Limits) -> Header | None:
    """The header of a file; None if the file is blank. Raises HeaderError if it can't be used."""
    content = head.content.lstrip(b" \r\n")
    if not content:
        return None
    if not len(head.ends):
        raise HeaderError("a quote in the header is never closed")
    end, delimiter = int(head.ends[0]), delimiter_of(content)
    try:
        text = content[: end - len(head.content) + len(content)].decode()
        names = [name.strip() for name in next(csv.reader(StringIO(text, newline=""), delimiter=delimiter))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise HeaderError(f"the header is not CSV in UTF-8: {error}") from error
    if len(names) > limits.columns:
        raise HeaderError(f"the header names {len(names):,} columns; at most {limits.columns:,} are read")
    twice = sorted({repr(name) for name in names if name and names.count(name) > 1})
    unnamed = [str(number) for number, name in enumerate(names, 1) if not name]
    if twice or unnamed:
        said = [f"names {', '.join(twice)} more than once"] * bool(twice)
        said += [f"has no name for column {', '.join(unnamed)}"] * bool(unnamed)
        raise HeaderError(f"the header {' and '.join(said)}; give each column a unique name")
    return Header(tuple(names), delimiter, end, head.is_gzip)


def range_cuts(file: SourceFile, header: Header, limits: Limits) -> list[int]:
    """Where ranges of a file begin, and where the last one ends: at the first record after each `range_bytes`."""
    cuts = [header.end]
    if file.size - header.end > limits.range_bytes:
        with contextlib.suppress(pa.ArrowInvalid):  # a line that is too long, which is rejected when it is read
            cuts.extend(record_starts(file, header, limits))
    return [*dict.fromkeys(cut for cut in cuts if cut < file.size), file.size]


def record_starts(file: SourceFile, header: Header, limits: Limits) -> Iterator[int]:
    """The first positions at or after each multiple of `range_bytes` where a record of a file begins."""
    size = limits.range_bytes
    ends_of = partial(record_ends, delimiter=header.delimiter)
    with open_unchanged(file.uri, file.version) as handle:
        handle.seek(header.end)
        for block in lines.read_blocks(handle, header.end, file.size, ends_of, limits):
            starts = block.start + block.ends
            first = (block.start // size + 1) * size
            yield from starts[np.searchsorted(starts, np.arange(first, starts[-1] + 1, size))].tolist()


def readable(kind: pa.DataType) -> bool:
    """True if pyarrow can read CSV fields as this type."""
    try:
        return len(CsvSyntax(("x",), ",", {"x": kind}).parse(memoryview(b'""\n'))) == 1
    except pa.ArrowNotImplementedError:
        return False


def sample(file: SourceFile, limits: Limits) -> tuple[tuple[str, ...], dict[str, pa.DataType], float]:
    """A file's columns, their types in its beginning, and a record's mean size in bytes.

    Raises pa.ArrowInvalid if the header can't be used, or no record can be read.
    """
    head = lines.read_head(file, limits.sample_bytes, head_ends, 2, limits)
    try:
        header = header_of(head, limits)
    except HeaderError as error:
        raise pa.ArrowInvalid(str(error)) from error
    if header is None or len(head.ends) < 2:
        raise pa.ArrowInvalid("it has no rows")
    strings = CsvSyntax(header.columns, header.delimiter, dict.fromkeys(header.columns, pa.string()))
    stream, stop = BytesIO(head.content[header.end :]), int(head.ends[-1])
    ends_of = partial(record_ends, delimiter=header.delimiter)
    blocks = lines.read_blocks(stream, header.end, stop, ends_of, limits)
    batch = next(lines.read_batches(blocks, strings, limits), None)
    if batch is None or len(batch.rejects) == len(batch.rows):
        raise pa.ArrowInvalid("it has no rows" if batch is None else batch.rejects[0].message)
    types = {name: type_of(batch.table[name].drop_null()) for name in header.columns}
    return header.columns, types, (stop - header.end) * head.density / (len(head.ends) - 1)


def type_of(values: pa.ChunkedArray) -> pa.DataType:
    """int64, float64 or bool if all of the strings are such values, else string; null if there are none."""
    if not len(values):
        return pa.null()
    if matches(values, INTEGER):
        try:
            return values.cast(pa.int64()).type
        except pa.ArrowInvalid:
            return pa.string()
    if matches(values, DECIMAL):
        return pa.float64()
    return pa.bool_() if matches(values, rf"^({'|'.join(TRUE + FALSE)})$") else pa.string()


def matches(values: pa.ChunkedArray, pattern: str) -> bool:
    """True if all values match."""
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
