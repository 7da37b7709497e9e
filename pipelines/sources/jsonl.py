"""JSON lines: an object a line. A unit is a range of bytes, and the lines that begin in it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from pipelines.records import Reject
from pipelines.sources import lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.lines import Stream, line_ends, rejected
from pipelines.sources.objects import Listing, SourceObject, open_unchanged

BLANKS = b" \t\r\n"  # JSON's
READ = pa.json.ReadOptions(use_threads=False, block_size=(1 << 31) - 1)  # all that is given to it is one block


@dataclass(frozen=True)
class JsonLines:
    """The lines of some files."""

    listing: Listing
    schema: pa.Schema  # by the beginning of the first file, and the table
    record_bytes: float  # in a file, on average
    exact: bool = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns) -> JsonLines:
        """Look at the beginning of the first readable file; columns of the table `like` have its types.

        Those are columns even if the sample has none of them, since what is absent may be rare. Raises UsageError if
        no file is readable.
        """
        guess, record_bytes = lines.first_readable(listing, "JSON lines", sample)
        types = {field.name: field.type for field in guess} | lines.table_types(like, readable)
        named = (columns.id, columns.text, columns.image)  # of which the sample may have no value
        types |= {name: pa.string() for name in named if name in types and pa.types.is_null(types[name])}
        return cls(listing, pa.schema(list(types.items())), record_bytes)

    def objects(self) -> dict[str, SourceObject]:
        """The files listed."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> JsonLines:
        """The same, of which only these files are read."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> JsonLines:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied())

    def describe(self) -> str:
        """What was found."""
        return f"{len(self.listing.objects):,} JSON lines file(s), {self.listing.megabytes:,.2f} MB"

    def units(self) -> list[dict]:
        """A unit per range of 64 MB, or per compressed file."""
        with ThreadPoolExecutor(lines.FILE_THREADS) as pool:
            return [unit for units in pool.map(self.file_units, self.listing.objects) for unit in units]

    def file_units(self, item: SourceObject) -> list[dict]:
        """The units of one file."""
        if not item.size:
            return []
        with open_unchanged(item.uri, item.version) as handle:
            packed = handle.read(len(lines.GZIP)) == lines.GZIP
        cuts = [*range(0, item.size, item.size if packed else lines.RANGE_BYTES), item.size]
        units = lines.range_units(lines.new_unit(item) | {"packed": packed}, cuts, self.record_bytes)
        return [unit | {"stop": lines.ENDLESS} for unit in units] if packed else units

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of the lines that begin in the unit's range; of a key that a line lacks, null."""
        syntax = JsonSyntax(pa.schema([self.schema.field(name) for name in names]))
        start, stop = unit["first_row"], unit["stop"]
        with lines.open_unit(unit) as stream:
            if start:
                stream.seek(start - 1)
                start = next_line(stream, start - 1, stop)
                stream.seek(start)
            yield from lines.read_batches(lines.read_blocks(stream, start, stop, line_ends), syntax)


@dataclass(frozen=True)
class JsonSyntax:
    """How lines are parsed to the columns of `schema`."""

    schema: pa.Schema

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Blank lines, and those that are between braces.

        pyarrow ignores where lines end: `{"a":1}{"a":2}` are two rows, `{"a":` and `1}` are one, and at a `null` it
        crashes. When all lines begin and end with a brace and there are as many rows as lines, each line is a row.
        """
        data = np.frombuffer(content, np.uint8)
        sound = (data[starts] == ord("{")) & (data[ends - 2] == ord("}"))
        blank = np.zeros(len(starts), bool)
        for at in np.flatnonzero(~sound):
            line = content[starts[at] : ends[at]].strip(BLANKS)
            blank[at], sound[at] = not line, line.startswith(b"{") and line.endswith(b"}")
        return blank, sound

    def parse(self, text: memoryview) -> pa.Table:
        """A row per object."""
        options = pa.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore")
        table = pa.json.read_json(pa.BufferReader(text), READ, options)
        table.validate(full=True)  # strings may be anything but UTF-8
        return table

    def reject(self, record: bytes, error: str) -> Reject:
        """Python says of most lines what is wrong with them; else it is a value that doesn't fit its column."""
        try:
            value = json.loads(record.strip(BLANKS).decode())
        except UnicodeDecodeError as invalid:
            return rejected("text_not_utf8", str(invalid), record)
        except RecursionError:
            return rejected("line_unparsable", "nested too deeply", record)
        except ValueError as invalid:
            return rejected("line_unparsable", str(invalid), record)
        if not isinstance(value, dict):
            return rejected("line_unparsable", f"not a JSON object but a {type(value).__name__}", record)
        error = re.sub(r"^JSON parse error: | in row \d+$", "", error)
        broken = "specified twice" in error or "surrogate" in error
        return rejected("line_unparsable" if broken else "column_type", error, record)


def next_line(stream: Stream, position: int, stop: int) -> int:
    """Where the first line begins after a `stream` at `position`; somewhere behind `stop` if none does before."""
    while position < stop and (chunk := stream.read(lines.TAIL_BYTES)):
        if (found := chunk.find(b"\n")) >= 0:
            return position + found + 1
        position += len(chunk)
    return stop


def readable(kind: pa.DataType) -> bool:
    """Whether JSON can be read as a type."""
    try:
        return len(JsonSyntax(pa.schema([("", kind)])).parse(memoryview(b"{}"))) == 1
    except pa.ArrowNotImplementedError:
        return False


def sample(item: SourceObject) -> tuple[pa.Schema, float]:
    """The columns that a file's beginning has, and a line's mean size in bytes. Raises pa.ArrowInvalid if none has."""
    head = lines.read_head(item, lines.SAMPLE_BYTES, line_ends)
    records, bounds = [], [0, *head.ends[: lines.BATCH_ROWS].tolist()]
    for start, end in pairwise(bounds):
        record = parsed_object(head.content[start:end])
        if record is not None:
            records.append(record)
    if not records:
        raise pa.ArrowInvalid(
            "no line of its beginning is a JSON object (of a JSON array, `jq -c '.[]'` makes JSON lines)"
        )
    return pa.schema(type_of(records)), bounds[-1] * head.density / (len(bounds) - 1)


def parsed_object(line: bytes) -> dict | None:
    """The object that a line is, or None."""
    try:
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def type_of(values: list[Any]) -> pa.DataType:
    """The type that most of the values have which are not null; float64 for numbers of both kinds."""
    kinds = Counter(float if type(value) is int else type(value) for value in values if value is not None)
    if not kinds:
        return pa.null()
    kind = kinds.most_common(1)[0][0]
    alike = [value for value in values if (float if type(value) is int else type(value)) is kind]
    if kind is dict:
        names = dict.fromkeys(name for value in alike for name in value)
        return pa.struct([(name, type_of([value.get(name) for value in alike])) for name in names])
    if kind is list:
        return pa.list_(type_of([element for value in alike for element in value]))
    if kind is float:
        return type_of_numbers(alike)
    return {bool: pa.bool_(), str: pa.string()}[kind]


def type_of_numbers(values: list[int | float]) -> pa.DataType:
    """int64 for integers, uint64 if they need it, else float64."""
    if all(type(value) is int for value in values):
        low, high = min(values), max(values)
        if low >= -(1 << 63) and high < 1 << 63:
            return pa.int64()
        if low >= 0 and high < 1 << 64:
            return pa.uint64()
    return pa.float64()
