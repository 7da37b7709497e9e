"""CSV with a header and any of the usual delimiters. A unit is a range of bytes that holds whole records."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.sources import lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.csv_dialect import UNNAMED, Dialect, Header, HeaderError, head_ends, header_of, record_ends
from pipelines.sources.csv_syntax import CsvSyntax, readable
from pipelines.sources.csv_types import cast, common_type, has_decimal_commas, type_of
from pipelines.sources.format import FileFormat, units_of
from pipelines.sources.heads import Reading, Size, continued, mean_size, not_utf8, read_head, roles_of, samples
from pipelines.sources.limits import Limits
from pipelines.sources.lines import SHOWN, ByteRange
from pipelines.sources.roles import ID_NAMES, TEXT_NAMES, URI_NAMES
from pipelines.sources.text_encoding import named_encoding
from pipelines.sources.types import is_number
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged

NAMES_SHOWN = 10  # columns in a message

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CsvRange(ByteRange):
    """A range of a CSV file, with what its header says."""

    columns: tuple[str, ...]
    dialect: Dialect
    header: bytes


class Sample(NamedTuple):
    """The records at the beginning of a file, whose values are strings."""

    header: Header
    table: pa.Table
    size: Size
    notes: tuple[str, ...]  # for the user


class Values(NamedTuple):
    """The values of a column in the sample, without nulls."""

    german: pa.ChunkedArray  # of files with semicolons, in which numbers may have a decimal comma
    others: pa.ChunkedArray
    has_commas: bool

    @property
    def type(self) -> pa.DataType:
        """The type that holds all of them."""
        return common_type([pa.float64() if self.has_commas else type_of(self.german), type_of(self.others)])

    def fit(self, kind: pa.DataType) -> bool:
        """True if all values are of a type. `007` is no number here, as it may be part of a code."""
        if is_number(kind) and not (is_number(self.type) or pa.types.is_null(self.type)):
            return False
        parts = ((self.german, self.has_commas), (self.others, False))
        return not any(cast(part.combine_chunks(), kind, comma)[1].any() for part, comma in parts)


@dataclass(frozen=True)
class Csv(FileFormat):
    """The records of CSV files. The columns are those of a sample of the files."""

    record_bytes: float  # in UTF-8, in the mean
    density: float = 1.0  # bytes of a compressed file per byte in UTF-8, in the mean
    roles: frozenset[str] = frozenset()  # columns that are embedded, or are ids
    commas: frozenset[str] = frozenset()  # columns whose numbers have a decimal comma in files with semicolons
    encoding: str = ""  # of files without a byte order mark
    escapes: bool = False  # a backslash escapes a quote, in files of which the beginning doesn't tell
    notes: tuple[str, ...] = ()  # for the user: what is not read, or changed
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns, limits: Limits) -> Csv:
        """Look at the beginnings of some files. Raises UsageError if none is readable.

        Columns of the table `like` have its types, or wider ones. Columns that may be ids, texts or paths are strings.
        """
        encoding = named_encoding(columns.encoding)
        found = samples(listing, "CSV file", partial(sample, reading=Reading(limits, encoding)), limits)
        strings = {*ID_NAMES, *TEXT_NAMES, *URI_NAMES, *columns.named}
        before = lines.table_types(like, readable)
        types: dict[str, pa.DataType] = {}
        commas, notes = set(), []
        for name in dict.fromkeys(name for each in found for name in each.header.columns if name not in UNNAMED):
            values = values_of(found, name)
            kind = pa.string() if name in strings else values.type
            kind = pa.string() if name in columns.named else continued(kind, before.get(name), values.fit)
            types[name] = pa.string() if pa.types.is_null(kind) else kind
            if values.has_commas and pa.types.is_floating(types[name]):
                commas.add(name)
            if not values.fit(types[name]):
                notes.append(f"column {name[:SHOWN]!r} has values that are not {types[name]}: these become null")
        if commas:
            notes.append(f"read as numbers with a decimal comma: {', '.join(sorted(commas)[:NAMES_SHOWN])}")
        schema = checked_columns(types, limits, notes)
        notes += list(dict.fromkeys(note for each in found for note in each.notes))[:NAMES_SHOWN]
        escapes = any(each.header.dialect.escapes for each in found)
        if escapes:
            notes.append("a backslash before a quote is read as an escape, as Spark writes it")
        size, roles = mean_size(each.size for each in found), roles_of(schema, columns, listing.uri)
        rest = (roles, frozenset(commas), encoding, escapes, tuple(notes))
        return cls(listing, limits, schema, size.record_bytes, size.density, *rest)

    def describe(self) -> str:
        """How many files there are, their size, and what is not read, or changed."""
        return "; ".join([self.summary("CSV file"), *self.notes])

    def units(self) -> list[FilePart]:
        """A unit for each range of about `range_bytes` (16 MB), or for each file that is compressed or not in UTF-8.

        Reads files that are longer than a range, since whether a line break is inside of quotes can only be told by
        reading from the beginning. A file without a usable header is one unit with the error.
        """
        units = units_of(self.listing, self.file_units)
        names = {name for unit in units if isinstance(unit, CsvRange) for name in unit.columns if name not in UNNAMED}
        if unread := sorted(names - set(self.schema.names)):
            more = f" and {len(unread) - NAMES_SHOWN:,} more" if len(unread) > NAMES_SHOWN else ""
            log.warning(
                f"NOT READ, columns that only files beyond the sample have: {', '.join(unread[:NAMES_SHOWN])}{more}. "
                "Give the first file these columns to read them"
            )
        return units

    def file_units(self, file: SourceFile) -> list[FilePart]:
        """The units of one file."""
        try:
            head = read_head(file, self.limits.header_bytes, head_ends, 1, Reading(self.limits, self.encoding))
            header = header_of(head, self.limits, self.escapes)
            if header is None:
                return []
            factor = 1.0 if head.is_plain else self.density if head.is_gzip else head.density
            rows = lines.estimated_rows(max(0, file.size - round(header.end * factor)), self.record_bytes * factor)
            whole = CsvRange(
                uris=(file.uri,),
                version=file.version,
                rows=rows,
                first_row=header.end,
                stop=lines.UNKNOWN_END,
                is_gzip=head.is_gzip,
                encoding=head.encoding,
                columns=header.columns,
                dialect=header.dialect,
                header=header.line,
            )
            if not whole.is_plain:
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
        commas = self.commas if unit.dialect.delimiter == ";" else frozenset()
        syntax = CsvSyntax(unit.columns, unit.dialect, types, self.roles, commas, unit.header, unit.encoding)
        ends_of = partial(record_ends, dialect=unit.dialect)
        with lines.open_unit(unit, self.limits) as stream:
            blocks = lines.read_blocks(stream, unit.first_row, unit.stop, ends_of, self.limits)
            yield from lines.read_batches(blocks, syntax, self.limits)


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
    ends_of = partial(record_ends, dialect=header.dialect)
    with open_unchanged(file.uri, file.version) as handle:
        handle.seek(header.end)
        for block in lines.read_blocks(handle, header.end, file.size, ends_of, limits):
            starts = block.start + block.ends
            first = (block.start // size + 1) * size
            yield from starts[np.searchsorted(starts, np.arange(first, starts[-1] + 1, size))].tolist()


def sample(file: SourceFile, size: int, reading: Reading) -> Sample:
    """The records of a file's beginning. Raises pa.ArrowInvalid if the header can't be used, or no record be read."""
    head = read_head(file, size, head_ends, 2, reading)
    try:
        header = header_of(head, reading.limits)
    except HeaderError as error:
        raise pa.ArrowInvalid(str(error)) from error
    if header is None or len(head.ends) < 2:
        raise pa.ArrowInvalid("it has no rows")
    types = {name: pa.string() for name in header.columns if name not in UNNAMED}
    syntax = CsvSyntax(header.columns, header.dialect, types, header=header.line, encoding=head.encoding)
    ends_of = partial(record_ends, dialect=header.dialect)
    content = head.content[header.end :]
    ends = ends_of(content)
    stop = header.end + (int(ends[-1]) if len(ends) else len(content))
    blocks = lines.read_blocks(BytesIO(content), header.end, stop, ends_of, reading.limits)
    batch = next(lines.read_batches(blocks, syntax, reading.limits), None)
    if batch is None or len(batch.rejects) == len(batch.rows):
        raise pa.ArrowInvalid("it has no rows" if batch is None else batch.rejects[0].message)
    notes = [f"left out of {file.uri}: {each}" for each in header.left_out] + [not_utf8(file, head)]
    record_bytes = (stop - header.end) / max(1, len(ends))
    return Sample(header, batch.table, Size(record_bytes, head.density, head.is_gzip), tuple(filter(None, notes)))


def values_of(found: list[Sample], name: str) -> Values:
    """The values of a column in a sample of the files."""
    parts: dict[bool, list[pa.Array]] = {True: [], False: []}
    for each in found:
        if name in each.table.column_names:
            parts[each.header.dialect.delimiter == ";"] += each.table[name].drop_null().chunks
    german, others = (pa.chunked_array(parts[key], pa.string()) for key in (True, False))
    has_commas = has_decimal_commas(german) and (not len(others) or is_number(type_of(others)))
    return Values(german, others, has_commas)


def checked_columns(types: dict[str, pa.DataType], limits: Limits, notes: list[str]) -> pa.Schema:
    """The columns of the files up to the limit of columns; beyond it, those of the first files are read."""
    if len(types) > limits.columns:
        notes.append(
            f"NOT READ, beyond the limit of {limits.columns:,} columns: {len(types) - limits.columns:,} of them"
        )
    return pa.schema(list(types.items())[: limits.columns])
