"""CSV, with any of the usual delimiters and a header. A unit is a range of bytes that begins and ends with a record."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import re
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO, StringIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.records import Reject
from pipelines.sources import lines
from pipelines.sources.columns import ID_NAMES, TEXT_NAMES, URI_NAMES, Batch, Columns
from pipelines.sources.lines import CR, LF, Head, rejected
from pipelines.sources.objects import READ_ERRORS, Listing, SourceObject, is_damage, open_unchanged
from vista_core import UsageError, VistaError

QUOTE = ord('"')
DELIMITERS = (",", ";", "\t", "|")
HEAD_BYTES = 64 << 10
READ_BYTES = (1 << 31) - 1  # all that is given to pyarrow is one block
# What only a number looks like: a leading zero, a plus or an exponent may be part of a code.
INTEGER = r"^(0|-?[1-9]\d*)$"
DECIMAL = r"^(0|-?[1-9]\d*|-?(0|[1-9]\d*)\.\d+)$"
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")


class HeaderError(VistaError):
    """A header that doesn't give each column a name of its own."""


@dataclass(frozen=True)
class Header:
    """What a file's first record says."""

    columns: list[str]
    delimiter: str
    end: int  # where the records start
    packed: bool


@dataclass(frozen=True)
class Csv:
    """The records of some files."""

    listing: Listing
    schema: pa.Schema  # by the beginning of the first file, and the table
    record_bytes: float  # in a file, on average
    exact: bool = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns) -> Csv:
        """Look at the beginning of the first readable file.

        Columns of the table `like` have its types, those that may be ids, texts and paths are strings. Raises
        UsageError if no file is readable, or a column has no name of its own.
        """
        names, types, record_bytes = lines.first_readable(listing, "CSV", sample)
        asked = (columns.id, columns.text, columns.image)
        types |= dict.fromkeys((*ID_NAMES, *TEXT_NAMES, *URI_NAMES), pa.string())
        types |= lines.table_types(like, readable) | dict.fromkeys(filter(None, asked), pa.string())
        return cls(listing, pa.schema([(name, types[name]) for name in names]), record_bytes)

    def objects(self) -> dict[str, SourceObject]:
        """The files listed."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> Csv:
        """The same, of which only these files are read."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> Csv:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied())

    def describe(self) -> str:
        """What was found."""
        return f"{len(self.listing.objects):,} CSV file(s), {self.listing.megabytes:,.2f} MB"

    def units(self) -> list[dict]:
        """A unit per range of about 64 MB, or per compressed file; a file without a usable header is one that says so.

        Reads files that are longer than a range, since only from the beginning can be told what is inside quotes.
        """
        with ThreadPoolExecutor(lines.FILE_THREADS) as pool:
            return [unit for units in pool.map(self.file_units, self.listing.objects) for unit in units]

    def file_units(self, item: SourceObject) -> list[dict]:
        """The units of one file."""
        unit = lines.new_unit(item)
        try:
            header = header_of(lines.read_head(item, HEAD_BYTES, head_ends))
            if header is None:
                return []
            cuts = [min(header.end, item.size), item.size] if header.packed else range_cuts(item, header)
        except HeaderError as error:
            return [unit | {"error": str(error)}]
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            return [unit | {"error": f"the CSV header cannot be read: {error}"}]
        unit |= {"packed": header.packed, "columns": header.columns, "delimiter": header.delimiter}
        units = lines.range_units(unit, cuts, self.record_bytes)
        return [unit | {"first_row": header.end, "stop": lines.ENDLESS} for unit in units] if header.packed else units

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of the unit's records, those that the file has; an empty field is null."""
        types = {name: self.schema.field(name).type for name in unit["columns"] if name in names}
        syntax = CsvSyntax(unit["columns"], unit["delimiter"], types)
        ends = partial(record_ends, delimiter=unit["delimiter"])
        with lines.open_unit(unit) as stream:
            blocks = lines.read_blocks(stream, unit["first_row"], unit["stop"], ends)
            yield from lines.read_batches(blocks, syntax)


@dataclass(frozen=True)
class CsvSyntax:
    """How records of `columns` are parsed to those that have one of `types`."""

    columns: list[str]
    delimiter: str
    types: dict[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """The columns of `types`; where there are none the first as it is, so that rows are counted."""
        return pa.schema(list((self.types or {self.columns[0]: pa.binary()}).items()))

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Blank lines; pyarrow and `record_ends` agree on what a record is, so that all may be parsed."""
        first = np.frombuffer(content, np.uint8)[starts]
        return (first == LF) | (first == CR), np.ones(len(starts), bool)

    def parse(self, text: memoryview) -> pa.Table:
        """A row per record."""
        schema = self.schema
        return pa.csv.read_csv(
            pa.BufferReader(text),
            pa.csv.ReadOptions(use_threads=False, block_size=READ_BYTES, column_names=self.columns),
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
        """What pyarrow said, with the column's name for its number."""
        try:
            record.decode()
        except UnicodeDecodeError as invalid:
            return rejected("text_not_utf8", str(invalid), record)
        if misfit := re.match(r"In CSV column #(\d+): Row #\d+: (?:CSV )?(.*)", error, re.DOTALL):
            return rejected("column_type", f"column {self.columns[int(misfit[1])]!r}: {misfit[2]}", record)
        count = re.search(r"Expected \d+ columns, got \d+", error)
        return rejected("line_unparsable", count[0] if count else error, record)


def record_ends(content: bytes, delimiter: str) -> np.ndarray:
    """The positions behind the line breaks of `content`, which begins with a record, that are not inside quotes.

    As pyarrow sees it: a quote opens where a field begins, elsewhere it is a character like any; inside, two are one
    character, and one closes. So of quotes that stand together an even number changes nothing; an odd number where a
    field seems to begin opens or closes; an odd number elsewhere closes, or does nothing outside.
    """
    data = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero((data == LF) | (data == CR) | (data == QUOTE))
    marks = marks[: len(marks) - content.endswith(b"\r")]  # which a line feed may follow
    kinds = data[marks]
    breaks = kinds == LF
    returns = np.flatnonzero(kinds == CR)  # each a line break by itself
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
    """The positions behind the records of a file's beginning, the header's being the first."""
    start = len(content) - len(content.lstrip(b" \r\n"))
    return start + record_ends(content[start:], delimiter_of(content[start:]))


def delimiter_of(content: bytes) -> str:
    """The delimiter that the first record has most of outside quotes."""
    line = re.split(rb"[\r\n]", re.sub(rb'"[^"]*"', b"", content[:HEAD_BYTES]), maxsplit=1)[0]
    return max(DELIMITERS, key=lambda delimiter: line.count(delimiter.encode()))


def header_of(head: Head) -> Header | None:
    """The header of a file, or None if it is blank. Raises HeaderError if it doesn't give each column a name."""
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
    twice = sorted({repr(name) for name in names if name and names.count(name) > 1})
    unnamed = [str(number) for number, name in enumerate(names, 1) if not name]
    if twice or unnamed:
        said = [f"names {', '.join(twice)} more than once"] * bool(twice)
        said += [f"has no name for column {', '.join(unnamed)}"] * bool(unnamed)
        raise HeaderError(f"the header {' and '.join(said)}; give each column a name of its own")
    return Header(names, delimiter, end, head.packed)


def range_cuts(item: SourceObject, header: Header) -> list[int]:
    """Where ranges of a file begin, and the last one ends: with the first records at or after each RANGE_BYTES."""
    size, cuts = item.size, [header.end]
    if size - header.end > lines.RANGE_BYTES:
        with contextlib.suppress(pa.ArrowInvalid):  # an endless line, which will be rejected when it is read
            cuts.extend(record_starts(item, header))
    return [*dict.fromkeys(cut for cut in cuts if cut < size), size]


def record_starts(item: SourceObject, header: Header) -> Iterator[int]:
    """The first positions at or after each multiple of RANGE_BYTES where a record of a file begins."""
    ends_of = partial(record_ends, delimiter=header.delimiter)
    with open_unchanged(item.uri, item.version) as handle:
        handle.seek(header.end)
        for block in lines.read_blocks(handle, header.end, item.size, ends_of):
            starts = block.start + block.ends
            first = (block.start // lines.RANGE_BYTES + 1) * lines.RANGE_BYTES
            yield from starts[np.searchsorted(starts, np.arange(first, starts[-1] + 1, lines.RANGE_BYTES))].tolist()


def readable(kind: pa.DataType) -> bool:
    """Whether CSV can be read as a type."""
    try:
        return len(CsvSyntax(["x"], ",", {"x": kind}).parse(memoryview(b'""\n'))) == 1
    except pa.ArrowNotImplementedError:
        return False


def sample(item: SourceObject) -> tuple[list[str], dict[str, pa.DataType], float]:
    """A file's columns, their types by its beginning, and a record's mean size in bytes.

    Raises UsageError for a header that is wrong, pa.ArrowInvalid if no record can be read.
    """
    head = lines.read_head(item, lines.SAMPLE_BYTES, head_ends, records=2)
    try:
        header = header_of(head)
    except HeaderError as error:
        raise UsageError(f"{item.uri}: {error}") from error
    if header is None or len(head.ends) < 2:
        raise pa.ArrowInvalid("it has no rows")
    strings = CsvSyntax(header.columns, header.delimiter, dict.fromkeys(header.columns, pa.string()))
    stream, stop = BytesIO(head.content[header.end :]), int(head.ends[-1])
    ends = partial(record_ends, delimiter=header.delimiter)
    batch = next(lines.read_batches(lines.read_blocks(stream, header.end, stop, ends), strings), None)
    if batch is None or len(batch.rejects) == len(batch.rows):
        raise pa.ArrowInvalid("it has no rows" if batch is None else batch.rejects[0].message)
    types = {name: type_of(batch.table[name].drop_null()) for name in header.columns}
    return header.columns, types, (stop - header.end) * head.density / (len(head.ends) - 1)


def type_of(values: pa.ChunkedArray) -> pa.DataType:
    """The type that all of some strings look like, else string."""
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
    """Whether all values do."""
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
