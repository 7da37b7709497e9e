"""A source whose records are rows with named columns, in any format."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.cluster.child import Child, ChildDiedError, ProcessLimits
from pipelines.reasons import OBJECT_UNREADABLE, Reject
from pipelines.records import OBJECT, ROW, read_schema
from pipelines.sources.columns import Batch, Columns, Layout, roles_as_stored
from pipelines.sources.expansion import bounded
from pipelines.sources.format import FILES_TRIED, Format, unreadable_part
from pipelines.sources.partitions import NO_PARTITIONS, Partitions
from pipelines.sources.roles import Roles
from pipelines.sources.scope import Batches
from pipelines.sources.units import FilePart, Unit
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import SourceFile, by_name
from pipelines.storage.local import Folders, leads_out
from pipelines.storage.uris import printable

ROWS_LOOKED_AT = 64


@dataclass(frozen=True)
class Tabular:
    """The rows of a format, read as records according to a layout of columns."""

    format: Format[Any]
    layout: Layout
    notes: tuple[str, ...] = ()  # for the user
    unreadable: tuple[SourceFile, ...] = ()  # files and folders of which nothing can be read, each with its error
    folders: Folders | None = None  # where files of a disk must really be
    partitions: Partitions = NO_PARTITIONS
    child_limits: ProcessLimits | None = None  # of the child process that parses units, if one does

    @classmethod
    def open(
        cls,
        rows: Format[Any],
        columns: Columns,
        uri: str,
        like: pa.Schema | None = None,
        partitions: Partitions = NO_PARTITIONS,
    ) -> Tabular:
        """`like` has the columns of the table that the records go to. Raises UsageError as `Layout.of`."""
        look = functools.partial(first_rows, rows)
        layout = Layout.of(partitions.beside(rows.schema), columns, uri, look, like)
        return cls(rows, layout, tuple(partitions.describe(rows.schema)), partitions=partitions)

    def noted(self, *notes: str, folders: Folders | None) -> Tabular:
        """The same with more lines for the user, and the folders where its files must be."""
        return dataclasses.replace(self, notes=(*self.notes, *notes), folders=folders)

    @property
    def extra(self) -> pa.Schema:
        """The columns beside id, text and image."""
        return self.layout.extra

    @property
    def has_ids(self) -> bool:
        """True if there is an id column."""
        return self.layout.id is not None

    @property
    def has_uris(self) -> bool:
        """True if an image has, or is, a path or URI."""
        return self.layout.external_images

    @property
    def external_images(self) -> bool:
        """True if an image can be given by its path or URI alone, and has to be fetched."""
        return self.layout.external_images

    @property
    def exact(self) -> bool:
        """True if a unit's `rows` is the number of its records, False if it is an estimate."""
        return self.format.exact

    @property
    def roles(self) -> dict[str, Any]:
        """The columns that serve as `id`, `text` (several as a list) and `image`."""
        layout = self.layout
        return roles_as_stored(Roles(layout.id, layout.text, layout.image), layout.cells)

    def files(self) -> dict[str, SourceFile]:
        """The source files by printable URI, in listing order."""
        return self.format.files() | by_name(self.unreadable)

    def only(self, names: Container[str]) -> Tabular:
        """The same source with only these files."""
        unreadable = tuple(file for file in self.unreadable if printable(file.uri) in names)
        return dataclasses.replace(self, format=self.format.only(names), unreadable=unreadable)

    def without_listing(self) -> Tabular:
        """What a worker needs to read a unit."""
        partitions = self.partitions.without_values()
        return dataclasses.replace(self, format=self.format.without_listing(), unreadable=(), partitions=partitions)

    def apart(self, limits: ProcessLimits) -> Tabular:
        """The same source, which parses files in a child process: what ends that is damage of the file."""
        return dataclasses.replace(self, child_limits=limits)

    def describe(self) -> list[str]:
        """What was found, and which column serves as what."""
        return [self.format.describe(), *self.format.differences, *self.layout.describe(), *self.notes]

    def units(self) -> list[Unit]:
        """The units of work, in listing order."""
        values = self.partitions.values
        units = self.format.units()
        if self.partitions.schema:
            units = [dataclasses.replace(unit, partition=values[unit.uri]) for unit in units]
        return [*units, *(unreadable_part(file, file.error) for file in self.unreadable)]

    def read(self, unit: FilePart) -> Batches:
        """The records of a unit. Rows that can't be read because of damage are rejected.

        If it is known which rows they are, each is a reject, unless the file claims more of them than
        `unreadable_rows`. Else one reject stands for all of them.
        """
        name, message = printable(unit.uri), unit.error
        if not message and self.folders is not None:
            message = leads_out(unit.uri, self.folders)  # it may have become a link since it was listed
        done, row = 0, unit.first_row
        parts = iter(()) if message else self.parts(unit)
        while not message:
            try:
                batch = next(parts, None)
                records = None if batch is None else self.layout.records(batch, name)
            except READ_ERRORS as error:
                if not is_damage(error):
                    raise
                message = said(error)
                break
            if batch is None or records is None:
                break
            yield records
            if len(batch.rows):
                done, row = done + len(batch.rows), int(batch.rows[-1]) + 1
        missing = range(row, unit.first_row + unit.rows) if self.exact and done < unit.rows else range(0)
        message = message or ("rows are missing" if missing else "")
        if len(missing) > self.format.limits.unreadable_rows:
            message = f"the {len(missing):,} rows from row {row:,} on, which it claims to have: {message}"
            missing = missing[:1]
        if not self.exact:
            missing = range(row, row + bool(message))
        at_once = self.format.limits.reject_rows
        for start in range(0, len(missing), at_once):
            yield unreadable_rows(self.extra, name, missing[start : start + at_once], message)

    def parts(self, unit: FilePart) -> Iterator[Batch]:
        """The batches of a unit, divided so that records made of them are within the limits."""
        for batch in self.batches(unit):
            yield from bounded(self.layout.split(batch), self.layout, self.format.limits)

    def batches(self, unit: FilePart) -> Iterator[Batch]:
        """The columns of a unit as its file has them. Raises one of errors.READ_ERRORS at damage."""
        names = [name for name in self.layout.used if name in self.format.schema.names]
        parse = functools.partial(self.format.batches, unit, names)
        for batch in parse() if self.child_limits is None else parsed_apart(parse, self.child_limits):
            yield batch._replace(table=self.partitions.added_to(batch.table, unit.partition))


def first_rows(rows: Format[Any], names: Sequence[str]) -> pa.Table:
    """The first rows of the first file that has some, in the columns `names`; none if the first files are damaged."""
    for file in [*rows.files()][:FILES_TRIED]:
        try:
            for unit in rows.only({file}).units()[:1]:
                for batch in rows.batches(unit, names):
                    return batch.table.slice(0, ROWS_LOOKED_AT)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
    return pa.table({})


def unreadable_rows(extra: pa.Schema, name: str, rows: range, message: str) -> tuple[pa.Table, dict[int, Reject]]:
    """Rows that a file must have but that can't be read; `extra` are the source's own columns."""
    values = {OBJECT: pa.repeat(name, len(rows)), ROW: pa.array(rows, pa.int64())}
    schema = read_schema(extra)
    columns = [values.get(field.name, pa.nulls(len(rows), field.type)) for field in schema]
    reject = OBJECT_UNREADABLE.reject(f"{name}: {message}")
    return pa.table(columns, schema=schema), dict.fromkeys(range(len(rows)), reject)


def parsed_apart(parse: Callable[[], Iterator[Batch]], limits: ProcessLimits) -> Iterator[Batch]:
    """The batches of `parse()`, which is called in a child process. Raises pa.ArrowInvalid if it dies.

    A crash counts if the next child dies before the same batch, since something else may have killed the first one.
    """
    child, done, died_at = Child(functools.partial(sound_batches, parse), limits), 0, -1
    while True:
        try:
            for batch in child.call(done):
                yield batch
                done += 1
            child.close()
            return
        except ChildDiedError as death:
            if death.timed_out or died_at == done:
                raise pa.ArrowInvalid(f"while this part was read, {death}") from death
            died_at = done


def sound_batches(parse: Callable[[], Iterator[Batch]], done: int) -> Iterator[Batch]:
    """Runs in the child: the batches behind the first `done`. Raises pa.ArrowInvalid if values are damaged."""
    for batch in itertools.islice(parse(), done, None):
        batch.table.validate(full=True)  # a wrong offset would crash whoever reads the value
        yield batch
