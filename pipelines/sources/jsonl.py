"""JSON lines: files with a JSON object on each line. A unit is a range of bytes: the lines that begin in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.json

from pipelines.reasons import COLUMN_TYPE, LINE_UNPARSABLE, TEXT_NOT_UTF8, Reject
from pipelines.sources import lines
from pipelines.sources.columns import Batch, Columns
from pipelines.sources.format import FileFormat, units_of
from pipelines.sources.json_types import columns_of, exceeded, may_exceed
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.lines import ByteRange, Stream, line_ends, reject_of
from pipelines.sources.units import FilePart
from pipelines.storage.errors import said
from pipelines.storage.files import Listing, SourceFile, open_unchanged

SHORTEST_FIELD = 5  # bytes: `"":1,`
BLANKS = b" \t\r\n"  # of JSON
ONE_BLOCK = pa.json.ReadOptions(use_threads=False, block_size=(1 << 31) - 1)


@dataclass(frozen=True)
class JsonLines(FileFormat):
    """The lines of JSON lines files. The columns are those of the first file's beginning and of the table."""

    record_bytes: float  # of a file, in the mean
    rare: tuple[str, ...] = ()  # keys beyond the limit of columns, which are not read
    exact: ClassVar[bool] = False

    @classmethod
    def open(cls, listing: Listing, like: pa.Schema | None, columns: Columns, limits: Limits) -> JsonLines:
        """Look at the beginning of the first readable file. Raises UsageError if there is none.

        Columns of the table `like` have its types. They are columns even if the sample doesn't have them, since a key
        may be rare. If the sample has more keys than the limit of columns, the most frequent ones are read.
        """
        found, rare, record_bytes = lines.first_sample(listing, "JSON lines file", partial(sample, limits=limits))
        types = {field.name: field.type for field in found} | lines.table_types(like, readable)
        named = columns.named  # of which the sample may have no value
        types |= {name: pa.string() for name in named if name in types and pa.types.is_null(types[name])}
        rare = tuple(name for name in rare if name not in types)
        return cls(listing, limits, pa.schema(list(types.items())), record_bytes, rare)

    def describe(self) -> str:
        """How many files there are, their size, and which keys are not read."""
        said = self.summary("JSON lines file")
        if self.rare:
            shown = ", ".join(repr(name[: lines.SHOWN]) for name in self.rare[:3])
            said += (
                f"; NOT READ, beyond the limit of {self.limits.columns:,} columns: {len(self.rare):,} of the rarer "
                f"keys: {shown}{', ...' if len(self.rare) > 3 else ''}"
            )
        return said

    def units(self) -> list[FilePart]:
        """A unit for each range of `range_bytes` (16 MB), or for each compressed file."""
        return units_of(self.listing, self.file_units)

    def file_units(self, file: SourceFile) -> list[ByteRange]:
        """The units of one file."""
        if not file.size:
            return []
        with open_unchanged(file.uri, file.version) as handle:
            is_gzip = handle.read(len(lines.GZIP)) == lines.GZIP
        rows = lines.estimated_rows(file.size, self.record_bytes)
        whole = ByteRange(uris=(file.uri,), version=file.version, rows=rows, stop=lines.UNKNOWN_END, is_gzip=is_gzip)
        cuts = [*range(0, file.size, self.limits.range_bytes), file.size]
        return [whole] if is_gzip else lines.cut(whole, cuts, self.record_bytes)

    def batches(self, unit: ByteRange, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of the lines that begin in the unit's range. A key that a line lacks is null."""
        syntax = JsonSyntax(pa.schema([self.schema.field(name) for name in names]), self.limits)
        start, stop = unit.first_row, unit.stop
        with lines.open_unit(unit, self.limits) as stream:
            if start:
                stream.seek(start - 1)
                start = next_line(stream, start - 1, stop, self.limits.tail_bytes)
                stream.seek(start)
            blocks = lines.read_blocks(stream, start, stop, line_ends, self.limits)
            yield from lines.read_batches(blocks, syntax, self.limits)


@dataclass(frozen=True)
class JsonSyntax:
    """How lines are parsed to the columns of `schema`."""

    schema: pa.Schema
    limits: Limits = DEFAULTS

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which lines are blank, and which begin and end with a brace and so may be parsed.

        pyarrow ignores line ends: it reads `{"a":1}{"a":2}` as two rows and the lines `{"a":` and `1}` as one, and
        crashes at `null`. If all lines begin and end with a brace and there are as many rows as lines, each line is
        one row.
        """
        data = np.frombuffer(content, np.uint8)
        parsable = (data[starts] == ord("{")) & (data[ends - 2] == ord("}"))
        blank = np.zeros(len(starts), bool)
        for at in np.flatnonzero(~parsable):
            line = content[starts[at] : ends[at]].strip(BLANKS)
            blank[at], parsable[at] = not line, line.startswith(b"{") and line.endswith(b"}")
        for at in np.flatnonzero(parsable & (ends - starts > SHORTEST_FIELD * self.limits.columns)):
            parsable[at] = not self.excess(content[starts[at] : ends[at]])
        return blank, parsable

    def excess(self, line: bytes) -> str:
        """Which limit a long line exceeds, or "". Its keys would be ignored, as no column is made of them."""
        if len(line) > self.limits.parsed_bytes or line.count(b":") <= self.limits.columns:
            return ""
        try:
            return exceeded(json.loads(line), self.limits)
        except (ValueError, RecursionError) as invalid:
            return said(invalid)

    def parse(self, text: memoryview) -> pa.Table:
        """A row for each object."""
        options = pa.json.ParseOptions(explicit_schema=self.schema, unexpected_field_behavior="ignore")
        table = pa.json.read_json(pa.BufferReader(text), ONE_BLOCK, options)
        table.validate(full=True)  # pyarrow accepts strings that are not UTF-8
        return table

    def reject(self, record: bytes, error: str) -> Reject:
        """Python's parser says what is wrong with most lines. If it accepts one, a value doesn't fit its column."""
        error = re.sub(r"^JSON parse error: | in row \d+$", "", error)
        if len(record) > self.limits.parsed_bytes:
            return reject_of(LINE_UNPARSABLE, error or "it does not begin and end with a brace", record)
        try:
            value = json.loads(record.strip(BLANKS).decode())
        except UnicodeDecodeError as invalid:
            return reject_of(TEXT_NOT_UTF8, str(invalid), record)
        except RecursionError:
            return reject_of(LINE_UNPARSABLE, "nested too deeply", record)
        except ValueError as invalid:
            return reject_of(LINE_UNPARSABLE, str(invalid), record)
        if not isinstance(value, dict):
            return reject_of(LINE_UNPARSABLE, f"not a JSON object but a {type(value).__name__}", record)
        if not error:
            return reject_of(LINE_UNPARSABLE, exceeded(value, self.limits), record)
        is_invalid = "specified twice" in error or "surrogate" in error
        return reject_of(LINE_UNPARSABLE if is_invalid else COLUMN_TYPE, error, record)


def next_line(stream: Stream, position: int, stop: int, read_bytes: int) -> int:
    """Where the first line begins after a `stream` at `position`; `stop` or later if none does before."""
    while position < stop and (chunk := stream.read(read_bytes)):
        if (found := chunk.find(b"\n")) >= 0:
            return position + found + 1
        position += len(chunk)
    return stop


def readable(kind: pa.DataType) -> bool:
    """True if pyarrow can read JSON values as this type."""
    try:
        return len(JsonSyntax(pa.schema([("", kind)])).parse(memoryview(b"{}"))) == 1
    except pa.ArrowNotImplementedError:
        return False


def sample(file: SourceFile, limits: Limits) -> tuple[pa.Schema, tuple[str, ...], float]:
    """The columns of a file's beginning, rarer keys beyond the limit of columns, and a line's mean size in bytes.

    Raises pa.ArrowInvalid if no line is an object within the limits.
    """
    head = lines.read_head(file, limits.sample_bytes, line_ends, 1, limits)
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
    return *columns_of(records, limits), bounds[-1] * head.density / (len(bounds) - 1)


def parsed_object(line: bytes, limits: Limits) -> dict | None:
    """The object on a line, or None if there is no valid one within the limits."""
    if len(line) > limits.parsed_bytes:
        return None
    try:
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair, which is no character
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or (may_exceed(line, limits) and exceeded(value, limits)):
        return None
    return value
