"""How records of CSV are parsed: many at once by pyarrow, and those with a fault column by column."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.reasons import LINE_UNPARSABLE, TEXT_NOT_UTF8, Reject
from pipelines.sources.csv_dialect import EMPTY, UNNAMED, Dialect, doubling
from pipelines.sources.csv_types import FALSE, TRUE, cast, is_beyond, with_points
from pipelines.sources.lines import CR, LF, Mended, misfit, reject_of
from pipelines.sources.text_encoding import BOM, UTF8, not_text

CODE = r"^\s*[-+]?0[0-9xX]"  # what is written like a number but is none, since its zeros count
ONE_BLOCK = (1 << 31) - 1  # bytes, so that pyarrow takes everything for one block


@dataclass(frozen=True)
class CsvSyntax:
    """How records with `columns` are parsed to those of them that have one of `types`."""

    columns: tuple[str, ...]  # "" for one that is not read
    dialect: Dialect
    types: dict[str, pa.DataType]
    roles: frozenset[str] = frozenset()  # columns that are embedded, or are ids
    commas: frozenset[str] = frozenset()  # columns of numbers with decimal commas
    header: bytes = b""
    encoding: str = UTF8  # of the file, whose records are in UTF-8 here

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of `types`. If there are none it is the first column, so that rows are counted."""
        return pa.schema(list((self.types or {self.names[0]: pa.binary()}).items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns, with numbers for those that are not read."""
        return tuple(name or f"\0{at}" for at, name in enumerate(self.columns))

    @cached_property
    def as_read(self) -> pa.Schema:
        """The schema in which pyarrow reads records that have no fault."""
        commas = {name for name in self.commas if name in self.types and pa.types.is_floating(self.types[name])}
        return pa.schema([field.with_type(pa.string()) if field.name in commas else field for field in self.schema])

    @property
    def ends_empty(self) -> bool:
        """True if records end with a delimiter, so that they seem to have a column more."""
        return self.columns[-1:] == (EMPTY,)

    def with_empty(self, schema: pa.Schema) -> pa.Schema:
        """`schema` with the column that has to be empty, if there is one."""
        return schema.append(pa.field(EMPTY, pa.binary())) if self.ends_empty else schema

    def look(self, content: bytes, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which records are blank, and which may be parsed: all but those that begin with a byte order mark, or that
        repeat the header, where files were put together."""
        first = np.frombuffer(content, np.uint8)[starts]
        parsable, length = np.ones(len(starts), bool), len(self.header)
        for at in np.flatnonzero(first == BOM[0]):
            parsable[at] = not content.startswith(BOM, starts[at])
        if length:
            alike = (first == self.header[0]) & (ends - starts > length) & (ends - starts <= length + 2)
            for at in np.flatnonzero(alike):
                parsable[at] = not content.startswith(self.header, starts[at])
        return (first == LF) | (first == CR), parsable

    def parse(self, text: memoryview) -> pa.Table:
        """A row for each record. Raises pa.ArrowInvalid as well if a number is not what the text says."""
        table = self.read(text, self.with_empty(self.as_read))
        if self.ends_empty:
            if table[EMPTY].null_count < len(table):
                raise pa.ArrowInvalid("a record has a value behind its last column")
            table = table.drop_columns([EMPTY])
        integers = pa.schema([(field.name, pa.string()) for field in self.schema if pa.types.is_integer(field.type)])
        look = integers and may_have_codes(text, self.dialect.delimiter)
        if look and any(pc.any(pc.match_substring_regex(each, CODE)).as_py() for each in self.read(text, integers)):
            raise pa.ArrowInvalid("a number with a leading zero is a code")
        if self.as_read != self.schema:
            for at, field in enumerate(self.schema):
                if self.as_read.field(at).type != field.type:
                    table = table.set_column(at, field, with_points(table[field.name]).cast(field.type))
        if any(pa.types.is_floating(column.type) and is_beyond(column) for column in table.columns):
            raise pa.ArrowInvalid("an integer may have been rounded")
        return table

    def read(
        self, text: bytes | memoryview, schema: pa.Schema, invalid: Callable[[Any], str] | None = None
    ) -> pa.Table:
        """The rows of a text with the types of `schema`; `invalid` gets records with another number of fields."""
        if self.dialect.escapes:
            text = doubling(bytes(text), self.dialect)
        return pa.csv.read_csv(
            pa.BufferReader(text),
            pa.csv.ReadOptions(use_threads=False, block_size=ONE_BLOCK, column_names=list(self.names)),
            pa.csv.ParseOptions(delimiter=self.dialect.delimiter, newlines_in_values=True, invalid_row_handler=invalid),
            pa.csv.ConvertOptions(
                column_types=schema,
                include_columns=schema.names,
                null_values=[""],
                strings_can_be_null=True,
                true_values=TRUE,
                false_values=FALSE,
            ),
        )

    def mend(self, records: list[bytes]) -> Mended:
        """A row for each record, read as strings that are cast column by column."""
        rejects: dict[int, Reject] = {}
        for at, record in enumerate(records):
            if record.startswith(BOM):
                records[at] = record.removeprefix(BOM)
            if self.header and records[at].rstrip(b"\r\n") == self.header:
                rejects[at] = LINE_UNPARSABLE.reject("it repeats the header")
        wrong: list[Any] = []

        def invalid(row: Any) -> str:
            wrong.append(row)
            return "skip"

        strings = pa.schema([(field.name, pa.binary()) for field in self.schema])
        table = self.read(b"".join(records), self.with_empty(strings), invalid)
        if len(table) + len(wrong) != len(records):
            raise pa.ArrowInvalid(f"{len(table) + len(wrong)} records instead of {len(records)}")
        if wrong:
            table = self.with_invalid(table, records, wrong, rejects)
        for row in np.flatnonzero(table[EMPTY].is_valid()).tolist() if self.ends_empty else ():
            message = f"Expected {len(self.columns) - 1} columns, got {len(self.columns)}"
            rejects.setdefault(row, self.reject(records[row], message))
        misfits: dict[int, dict[str, str]] = {}
        columns = []
        for field in self.schema:
            values, unfit = self.column(field, table[field.name].combine_chunks())
            columns.append(values)
            for row, message in unfit.items():
                if field.name in self.roles:
                    rejects.setdefault(row, reject_of(TEXT_NOT_UTF8, message, records[row]))
                else:
                    misfits.setdefault(row, {})[field.name] = message
        return Mended(pa.table(columns, schema=self.schema), rejects, misfits)

    def with_invalid(
        self, table: pa.Table, records: list[bytes], wrong: list[Any], rejects: dict[int, Reject]
    ) -> pa.Table:
        """`table` with a row for each record with a wrong number of fields: null, and a reject.

        Fields beyond the last column that are empty are no fault, nor are missing ones of columns without a name.
        """
        needed = max(at for at, name in enumerate(self.columns, 1) if name not in UNNAMED)
        rows = np.array([row.number - 1 for row in wrong])
        good = np.setdiff1d(np.arange(len(records)), rows)
        at = np.full(len(records), len(table))
        at[good] = np.arange(len(good))
        extra: list[dict[str, bytes | None]] = []
        for number, row in zip(rows.tolist(), wrong, strict=True):
            found = self.fields(records[number])
            if found is None or any(found[len(self.columns) :]) or len(found) < needed:
                message = f"Expected {row.expected_columns} columns, got {row.actual_columns}"
                rejects.setdefault(number, self.reject(records[number], message))
                continue
            at[number] = len(table) + len(extra)
            values = dict(zip(self.names, found, strict=False))
            extra.append({name: values.get(name, "").encode() or None for name in table.column_names})
        rows_after = pa.Table.from_pylist([*extra, dict.fromkeys(table.column_names)], schema=table.schema)
        at[list(rejects)] = len(table) + len(extra)
        return pa.concat_tables([table, rows_after]).take(pa.array(at))

    def fields(self, record: bytes) -> list[str] | None:
        """The fields of a record, as Python's parser finds them; None if they are not UTF-8."""
        try:
            text = doubling(record, self.dialect).decode()
            return next(csv.reader(StringIO(text, newline=""), delimiter=self.dialect.delimiter), None)
        except (UnicodeDecodeError, csv.Error):
            return None

    def column(self, field: pa.Field, values: pa.Array) -> tuple[pa.Array, dict[int, str]]:
        """The bytes of a column as its type, and why some of them, now null, don't fit."""
        if pa.types.is_binary(field.type):
            return values, {}
        problems: dict[int, str] = {}
        try:
            texts = values.cast(pa.string())
        except pa.ArrowInvalid:
            decoded: list[str | None] = []
            for row, value in enumerate(values.to_pylist()):
                try:
                    decoded.append(value if value is None else value.decode())
                except UnicodeDecodeError as invalid:
                    decoded.append(None)
                    problems[row] = not_text(invalid, self.encoding)
            texts = pa.array(decoded, pa.string())
        found, unfit = cast(texts, field.type, field.name in self.commas)
        for row in np.flatnonzero(unfit).tolist():
            problems[row] = misfit(field.name, repr(texts[row].as_py()), field.type)
        return found, problems

    def reject(self, record: bytes, error: str) -> Reject:
        """Why a record can't be parsed."""
        try:
            record.decode()
        except UnicodeDecodeError as invalid:
            return reject_of(TEXT_NOT_UTF8, not_text(invalid, self.encoding), record)
        count = re.search(r"Expected \d+ columns, got \d+", error)
        return reject_of(LINE_UNPARSABLE, count[0] if count else error, record)


def may_have_codes(text: memoryview, delimiter: str) -> bool:
    """True if a field begins with a zero and another digit, as 007 does, which pyarrow reads as 7."""
    data = np.frombuffer(text, np.uint8)
    zeros = np.flatnonzero((data[:-1] == ord("0")) & (data[1:] >= ord("0")) & (data[1:] <= ord("x")))
    before = data[zeros[zeros > 0] - 1]
    return bool((len(zeros) and zeros[0] == 0) or np.isin(before, list(f'{delimiter}\n\r" \t'.encode())).any())


def readable(kind: pa.DataType) -> bool:
    """True if pyarrow can read CSV fields as this type."""
    try:
        return len(CsvSyntax(("x",), Dialect(), {"x": kind}).parse(memoryview(b'""\n'))) == 1
    except pa.ArrowNotImplementedError:
        return False
