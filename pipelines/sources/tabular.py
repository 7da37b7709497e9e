"""Catalogs whose records are rows with named columns, whatever format keeps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipelines.records import OBJECT, ROW, Reject, read_schema
from pipelines.sources.columns import Batch, Columns, Layout
from pipelines.sources.objects import READ_ERRORS, SourceObject, is_damage, printable

REJECT_ROWS = 4096  # in a batch


class Format(Protocol):
    """A way to keep rows in objects.

    A unit is a JSON value with `object` and `version` (which must still be that when it is read), `rows` (their number,
    or where `exact` is False a guess at it), `first_row`, `error` (why it can't be read, or empty), and whatever else
    the format needs to read it.
    """

    @property
    def schema(self) -> pa.Schema:
        """The columns, by what the first readable object has."""

    @property
    def exact(self) -> bool:
        """Whether units know their number of rows before they are read."""

    def objects(self) -> dict[str, SourceObject]:
        """What is listed by its name (`objects.printable`), in listing order."""

    def only(self, names: Container[str]) -> Format:
        """The same, of which only these objects are read."""

    def without_listing(self) -> Format:
        """What a worker needs to read a unit: the same, less all that grows with the source."""

    def describe(self) -> str:
        """What was found: how many objects of which kind and size."""

    def units(self) -> list[dict]:
        """The units of work, in listing order."""

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` of a unit, those that the object has, streamed in bounded batches.

        Raises one of objects.READ_ERRORS at damage, after all that could be read before it.
        """


@dataclass(frozen=True)
class Tabular:
    """Rows of a format, taken for records by a layout."""

    format: Format
    layout: Layout
    notes: tuple[str, ...] = ()  # for the user

    @classmethod
    def open(cls, kind: Format, columns: Columns, uri: str, notes: tuple[str, ...] = ()) -> Tabular:
        """Raises UsageError if the columns hold nothing to embed."""
        return cls(kind, Layout.of(kind.schema, columns, uri), notes)

    @property
    def extra(self) -> pa.Schema:
        """The columns beside id, text and image."""
        return self.layout.extra

    @property
    def has_ids(self) -> bool:
        """Whether there is an id column."""
        return self.layout.id is not None

    @property
    def has_uris(self) -> bool:
        """Whether an image has, or is, a path or URI."""
        return self.layout.elsewhere

    @property
    def elsewhere(self) -> bool:
        """Whether an image may have to be fetched."""
        return self.layout.elsewhere

    @property
    def exact(self) -> bool:
        """Whether units know their number of rows."""
        return self.format.exact

    @property
    def roles(self) -> dict[str, str | None]:
        """Which column is taken for what."""
        return {"id": self.layout.id, "text": self.layout.text, "image": self.layout.image}

    def objects(self) -> dict[str, SourceObject]:
        """The format's objects."""
        return self.format.objects()

    def only(self, names: Container[str]) -> Tabular:
        """The same source, of which only these objects are read."""
        return dataclasses.replace(self, format=self.format.only(names))

    def without_listing(self) -> Tabular:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, format=self.format.without_listing())

    def describe(self) -> list[str]:
        """What was found, and which column is taken for what."""
        return [self.format.describe(), *self.layout.describe(), *self.notes]

    def units(self) -> list[dict]:
        """The format's units."""
        return self.format.units()

    def read(self, unit: dict) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The records of a unit; what damage hides is rejected, row by row where it is known how many there are."""
        name, message = printable(unit["object"]), unit["error"]
        done, row = 0, unit["first_row"]
        batches = iter(()) if message else self.format.batches(unit, self.layout.used)
        while not message:
            try:
                batch = next(batches, None)
            except READ_ERRORS as error:
                if not is_damage(error):
                    raise
                message = str(error) or type(error).__name__
                break
            if batch is None:
                break
            yield self.layout.records(batch, name)
            if len(batch.rows):
                done, row = done + len(batch.rows), batch.rows[-1] + 1
        if self.exact:
            missing = range(row, unit["first_row"] + unit["rows"]) if done < unit["rows"] else range(0)
        else:
            missing = range(row, row + bool(message))
        for start in range(0, len(missing), REJECT_ROWS):
            yield self.unreadable(name, missing[start : start + REJECT_ROWS], message or "rows are missing")

    def unreadable(self, name: str, rows: range, message: str) -> tuple[pa.Table, dict[int, Reject]]:
        """Rows that are known to be there but can't be read."""
        values = {OBJECT: pa.repeat(name, len(rows)), ROW: pa.array(rows, pa.int64())}
        schema = read_schema(self.extra)
        columns = [values.get(field.name, pa.nulls(len(rows), field.type)) for field in schema]
        reject = Reject("read", "object_unreadable", f"{name}: {message}"[:500])
        return pa.table(columns, schema=schema), dict.fromkeys(range(len(rows)), reject)
