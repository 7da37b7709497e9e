"""How lines of JSON are parsed: many at once by pyarrow, and those with a fault one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from pipelines.reasons import COLUMN_TYPE, LINE_UNPARSABLE, TEXT_NOT_UTF8, Reject
from pipelines.sources.json_types import exceeded
from pipelines.sources.json_values import (
    DECODER,
    EXACT,
    Fit,
    Repeated,
    as_id,
    as_text,
    fit_for,
    is_unicode,
    repeats,
    shown,
)
from pipelines.sources.limits import DEFAULTS, Limits
from pipelines.sources.lines import Mended, misfit, reject_of
from pipelines.sources.text_encoding import BOM, UTF8, not_text
from pipelines.sources.types import is_list, is_text
from pipelines.storage.errors import said

SHORTEST_FIELD = 5  # bytes: `"":1,`
BLANKS = b" \t\r\n"  # of JSON
ONE_BLOCK = pa.json.ReadOptions(use_threads=False, block_size=(1 << 31) - 1)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class JsonSyntax:
    """How lines are parsed to the columns of `schema`."""

    schema: pa.Schema
    limits: Limits = DEFAULTS
    roles: frozenset[str] = frozenset()  # columns that are embedded, or are ids
    key: str | None = None  # the id column
    encoding: str = UTF8  # of the file, whose lines are in UTF-8 here

    @cached_property
    def mended_schema(self) -> pa.Schema:
        """The schema of lines that are looked at one by one. Ids and texts are strings, so that numbers may be some."""
        return pa.schema([field.with_type(pa.string()) if self.is_text(field) else field for field in self.schema])

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """How the values of each column are fitted to it."""
        texts = {
            field.name: as_id if field.name == self.key else as_text for field in self.schema if self.is_text(field)
        }
        return {field.name: texts.get(field.name) or fit_for(field.type) for field in self.schema}

    @cached_property
    def as_struct(self) -> pa.DataType:
        """The type of a line's object."""
        return pa.struct(list(self.schema))

    @cached_property
    def is_nested(self) -> bool:
        """True if a column has parts, in which a key may be there twice."""
        return any(field.type.num_fields for field in self.schema)

    def is_text(self, field: pa.Field) -> bool:
        """True if a column holds ids or texts."""
        return field.name in self.roles and (is_text(field.type) or pa.types.is_integer(field.type))

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
            blank[at], parsable[at] = line in (b"", BOM), line.startswith(b"{") and line.endswith(b"}")
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
        """A row for each object. Raises pa.ArrowInvalid as well if a number may have been rounded."""
        table = read(text, self.schema)
        if any(may_be_rounded(column) for column in table.columns):
            raise pa.ArrowInvalid("an integer may have been rounded")
        return table

    def mend(self, records: list[bytes]) -> Mended:
        """A row for each line, with the values that fit their columns."""
        if max(map(len, records)) > self.limits.parsed_bytes:
            raise pa.ArrowInvalid("")
        rows, rejects, misfits = [], dict[int, Reject](), dict[int, dict[str, str]]()
        for at, line in enumerate(records):
            row, problems, reject = self.mended_row(line)
            if reject is not None:
                rejects[at] = reject
            elif problems:
                misfits[at] = problems
            rows.append(row)
        try:
            table = read_rows(rows, self.mended_schema)
        except pa.ArrowInvalid:  # a string is no date, or the like
            for at, row in enumerate(rows):
                for name, message in self.unread(row).items():
                    misfits.setdefault(at, {})[name] = message
                    row[name] = None
            table = read_rows(rows, self.mended_schema)
        return Mended(table, rejects, misfits)

    def mended_row(self, line: bytes) -> tuple[dict[str, Any], dict[str, str], Reject | None]:
        """What fits the columns of a line's object, why the rest doesn't, and why the line is rejected, if it is."""
        value = self.value_of(line)
        if isinstance(value, Reject):
            return {}, {}, value
        row, misfits = {}, {}
        for name, fit in self.fits.items():
            problems: list[str] = []
            row[name] = fit(value.get(name), name, problems)
            if problems:
                misfits[name] = "; ".join(problems[:2])
        for name in self.roles & misfits.keys():
            try:
                line.decode()
            except UnicodeDecodeError as invalid:
                return {}, {}, reject_of(TEXT_NOT_UTF8, not_text(invalid, self.encoding), line)
            return {}, {}, reject_of(COLUMN_TYPE, misfits[name], line)
        return row, misfits, None

    def value_of(self, line: bytes) -> dict[str, Any] | Reject:
        """The object on a line, or why there is none."""
        text = line.strip(BLANKS).removeprefix(BOM).strip(BLANKS)
        try:
            value = DECODER.decode(text.decode("utf-8", "surrogateescape"))
            excess = exceeded(value, self.limits) if self.excess(text) else ""
        except RecursionError:
            return reject_of(LINE_UNPARSABLE, "nested too deeply", line)
        except ValueError as invalid:
            return self.unparsable(text, str(invalid), line)
        if not isinstance(value, dict):
            return reject_of(LINE_UNPARSABLE, f"not a JSON object but a {type(value).__name__}", line)
        if excess:
            return reject_of(LINE_UNPARSABLE, excess, line)
        if (self.is_nested or isinstance(value, Repeated)) and repeats(value, self.as_struct):
            return reject_of(LINE_UNPARSABLE, "a key is specified twice", line)
        if SURROGATE.search(text) and not is_unicode(
            json.dumps(json.loads(text.decode("utf-8", "replace")), ensure_ascii=False)
        ):
            return reject_of(LINE_UNPARSABLE, "half of a surrogate pair, which is no character", line)
        return value

    def unparsable(self, text: bytes, error: str, line: bytes) -> Reject:
        """The reject of a line that is not JSON."""
        try:
            text.decode()
        except UnicodeDecodeError as invalid:
            return reject_of(TEXT_NOT_UTF8, not_text(invalid, self.encoding), line)
        return reject_of(LINE_UNPARSABLE, error, line)

    def unread(self, row: dict[str, Any]) -> dict[str, str]:
        """Why values of a row that only pyarrow can parse, such as dates, can't be read."""
        misfits = {}
        for field in self.mended_schema:
            if row.get(field.name) is not None and has_other(field.type):
                text = json.dumps(row[field.name])
                if not is_read(text, field.type):
                    misfits[field.name] = misfit(field.name, shown(row[field.name]), field.type)
        return misfits

    def reject(self, record: bytes, error: str) -> Reject:
        """What pyarrow says of a line that is too long for Python, or that only pyarrow can't read."""
        error = re.sub(r"^JSON parse error: | in row \d+$", "", error)
        return reject_of(LINE_UNPARSABLE, error or "it does not begin and end with a brace", record)


def read(text: memoryview | bytes, schema: pa.Schema) -> pa.Table:
    """A row for each object."""
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    table = pa.json.read_json(pa.BufferReader(text), ONE_BLOCK, options)
    table.validate(full=True)  # pyarrow accepts strings that are not UTF-8
    return table


def read_rows(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A row for each object of fitting values. Raises pa.ArrowInvalid if a string is no date, or the like."""
    table = read("\n".join(map(json.dumps, rows)).encode(), schema)
    if len(table) != len(rows):
        raise pa.ArrowInvalid(f"{len(table)} records instead of {len(rows)}")
    return table


@lru_cache(maxsize=4096)
def is_read(text: str, kind: pa.DataType) -> bool:
    """True if pyarrow reads a JSON text as a type."""
    try:
        read(b'{"":%b}' % text.encode(), pa.schema([("", kind)]))
    except pa.ArrowInvalid:
        return False
    return True


def has_other(kind: pa.DataType) -> bool:
    """True if a type has parts, at any depth, that are no numbers, strings or booleans."""
    if kind.num_fields:
        return any(has_other(kind.field(part).type) for part in range(kind.num_fields))
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return not (is_number or is_text(kind) or pa.types.is_boolean(kind))


def may_be_rounded(column: pa.ChunkedArray) -> bool:
    """True if a float, at any depth, is so large that it may be an integer which no float holds."""
    return any(beyond(part) for chunk in column.chunks for part in floats(chunk))


def floats(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of floats in an array, at any depth."""
    if pa.types.is_floating(array.type):
        yield array
    elif pa.types.is_struct(array.type):
        for part in array.flatten():
            yield from floats(part)
    elif is_list(array.type):
        yield from floats(array.flatten())


def beyond(array: pa.Array) -> bool:
    """True if a value is 2^53 or larger."""
    bounds = pc.min_max(array)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return low is not None and not -EXACT < low <= high < EXACT


def readable(kind: pa.DataType) -> bool:
    """True if pyarrow can read JSON values as this type."""
    try:
        return len(read(b"{}", pa.schema([("", kind)]))) == 1
    except pa.ArrowNotImplementedError:
        return False
