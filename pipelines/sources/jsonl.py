"""JSON lines: files with a JSON object on each line. A unit is a range of bytes: the lines that begin in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from pipelines.sources import lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.format import FileFormat, units_of
from pipelines.sources.heads import Reading, Size, continued, mean_size, not_utf8, read_head, roles_of, samples
from pipelines.sources.json_syntax import JsonSyntax, readable
from pipelines.sources.json_types import columns_of, exceeded, may_exceed, mixed, type_of, without_nulls
from pipelines.sources.json_values import DECODER, fit_for
from pipelines.sources.limits import Limits
from pipelines.sources.lines import ByteRange, line_ends
from pipelines.sources.roles import ID_NAMES
from pipelines.sources.text_encoding import BOM, Stream, named_encoding
from pipelines.sources.types import is_text
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile

FIRST_BYTES = 1 << 10  # which tell how a file is compressed and encoded

Record = dict[str, Any]


class Sample(NamedTuple):
    """The records at the beginning of a file."""

    records: list[Record]
    size: Size
    note: str  # for the user


@dataclass(frozen=True)
class JsonLines(FileFormat):
    """The lines of JSON lines files. The columns are those of a sample of the files, and of the table."""

    record_bytes: float  # in UTF-8, in the mean
    density: float = 1.0  # bytes of a compressed file per byte in UTF-8, in the mean
    roles: frozenset[str] = frozenset()  # columns that are embedded, or are ids
    key: str | None = None  # the id column
    encoding: str = ""  # of files without a byte order mark
    notes: tuple[str, ...] = ()  # for the user: what is not read, or changed
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns, limits: Limits) -> JsonLines:
        """Look at the beginnings of some files. Raises UsageError if none is readable.

        Columns of the table `like` have its types, or wider ones. They are columns even if the sample doesn't have
        them, since a key may be rare. If there are more keys than the limit of columns, the most frequent ones are
        read.
        """
        encoding = named_encoding(columns.encoding)
        look = partial(sample, reading=Reading(limits, encoding))
        found = samples(listing, "JSON lines file", look, limits)
        records = list(chain.from_iterable(each.records for each in found))
        schema, rare = columns_of(records, limits)
        schema, notes = settled(schema, records, like, columns)
        notes += [each.note for each in found if each.note][:1]
        size = mean_size(each.size for each in found)
        roles = roles_of(schema, columns, listing.uri)
        rare = tuple(name for name in rare if name not in schema.names)
        if rare:
            names = ", ".join(repr(name[: lines.SHOWN]) for name in rare[:3])
            notes.append(
                f"NOT READ, beyond the limit of {limits.columns:,} columns: {len(rare):,} of the rarer "
                f"keys: {names}{', ...' if len(rare) > 3 else ''}"
            )
        key = id_name(schema, columns)
        return cls(listing, limits, schema, size.record_bytes, size.density, roles, key, encoding, tuple(notes))

    def describe(self) -> str:
        """How many files there are, their size, and what is not read, or changed."""
        return "; ".join([self.summary("JSON lines file"), *self.notes])

    def units(self) -> list[FilePart]:
        """A unit for each range of `range_bytes` (16 MB), or for each file that is compressed or not in UTF-8."""
        return units_of(self.listing, self.file_units)

    def file_units(self, file: SourceFile) -> list[FilePart]:
        """The units of one file."""
        if not file.size:
            return []
        try:
            head = read_head(file, FIRST_BYTES, line_ends, 0, Reading(self.limits, self.encoding))
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            return [FilePart(uris=(file.uri,), version=file.version, rows=1, error=said(error))]
        record_bytes = self.record_bytes * (1.0 if head.is_plain else self.density if head.is_gzip else head.density)
        whole = ByteRange(
            uris=(file.uri,),
            version=file.version,
            rows=lines.estimated_rows(file.size, record_bytes),
            stop=lines.UNKNOWN_END,
            is_gzip=head.is_gzip,
            encoding=head.encoding,
        )
        cuts = [*range(0, file.size, self.limits.range_bytes), file.size]
        return [*lines.cut(whole, cuts, self.record_bytes)] if whole.is_plain else [whole]

    def batches(self, unit: ByteRange, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of the lines that begin in the unit's range. A key that a line lacks is null."""
        schema = pa.schema([self.schema.field(name) for name in names])
        syntax = JsonSyntax(schema, self.limits, self.roles, self.key, unit.encoding)
        start, stop = unit.first_row, unit.stop
        with lines.open_unit(unit, self.limits) as stream:
            if start:
                stream.seek(start - 1)
                start = next_line(stream, start - 1, stop, self.limits.tail_bytes)
                stream.seek(start)
            blocks = lines.read_blocks(stream, start, stop, line_ends, self.limits)
            yield from lines.read_batches(blocks, syntax, self.limits)


def next_line(stream: Stream, position: int, stop: int, read_bytes: int) -> int:
    """Where the first line begins after a `stream` at `position`; `stop` or later if none does before."""
    while position < stop and (chunk := stream.read(read_bytes)):
        if (found := chunk.find(b"\n")) >= 0:
            return position + found + 1
        position += len(chunk)
    return stop


def settled(
    schema: pa.Schema, records: list[Record], like: pa.Schema | None, columns: Columns
) -> tuple[pa.Schema, list[str]]:
    """The columns of the sample and of the table `like`, and lines for the user on types that change values."""
    types, notes = {field.name: field.type for field in schema}, []
    if (key := id_name(schema, columns)) is not None:
        types[key] = id_type(types[key], [record.get(key) for record in records])
    before = lines.table_types(like, readable)
    for name, kind in types.items():
        values = [record[name] for record in records if record.get(name) is not None]
        as_text = pa.types.is_null(kind) if name == key else name in columns.named and not kind.num_fields
        found = pa.string() if as_text else kind
        types[name] = without_nulls(continued(found, before.get(name), partial(fit, values)))
        if name == key or not values:
            continue
        if is_text(types[name]) and (kinds := mixed(values)):
            notes.append(f"column {name[: lines.SHOWN]!r} has {kinds}: all are read as strings, in their JSON text")
        elif not fit(values, types[name]):
            notes.append(f"column {name[: lines.SHOWN]!r} has values that are not {types[name]}: these become null")
    return pa.schema(list((types | {name: kind for name, kind in before.items() if name not in types}).items())), notes


def id_name(schema: pa.Schema, columns: Columns) -> str | None:
    """The column that is the id, if the schema has one."""
    return columns.id or next((name for name in ID_NAMES if name in schema.names), None)


def id_type(kind: pa.DataType, values: list[Any]) -> pa.DataType:
    """The type in which ids are read: integers, also if some are written as 3.0, or strings."""
    if kind != pa.float64():
        return kind
    whole = [int(value) if type(value) is float and value.is_integer() else value for value in values]
    found = type_of(whole)
    return pa.string() if found == pa.float64() else found


def fit(values: list[Any], kind: pa.DataType) -> bool:
    """True if all values fit a type."""
    problems: list[str] = []
    each = fit_for(kind)
    return all(each(value, "", problems) is not None and not problems for value in values)


def sample(file: SourceFile, size: int, reading: Reading) -> Sample:
    """The records of a file's beginning. Raises pa.ArrowInvalid if no line is an object within the limits."""
    limits = reading.limits
    head = read_head(file, size, line_ends, 1, reading)
    records, bounds = [], [0, *head.ends[: limits.batch_rows].tolist()]
    for start, end in pairwise(bounds):
        record = parsed_object(head.content[start:end], limits)
        if record is not None:
            records.append(record)
    if not records:
        raise pa.ArrowInvalid(
            f"no line of its beginning is a JSON object of at most {limits.columns:,} keys, nested at most "
            f"{limits.depth} deep (`jq -c '.[]'` turns a JSON array into JSON lines)"
        )
    return Sample(records, Size(bounds[-1] / (len(bounds) - 1), head.density, head.is_gzip), not_utf8(file, head))


def parsed_object(line: bytes, limits: Limits) -> Record | None:
    """The object on a line, or None if there is no valid one within the limits."""
    if len(line) > limits.parsed_bytes:
        return None
    try:
        value = DECODER.decode(line.removeprefix(BOM).decode().strip())
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair, which is no character
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or (may_exceed(line, limits) and exceeded(value, limits)):
        return None
    return value
