"""The layout of a source: which of its columns serve as a record's id, text and image, and which pass through."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import COLUMN_TYPE, TEXT_NOT_UTF8, Reject
from pipelines.records import ID, IMAGE, IMAGE_URI, MISFITS, OBJECT, RESERVED, ROW, TEXT, read_schema, replace_column
from pipelines.sources.beginnings import one_array
from pipelines.sources.casting import NOT_UTF8, cast, ids, numbered, plain_column, texts, without_invalid_text
from pipelines.sources.image_cells import has_several, image_parts, split_cells
from pipelines.sources.roles import Look, Modality, Roles, element, find_roles, no_rows
from pipelines.sources.types import is_list, is_text, merged, plain
from pipelines.tables.widening import can_widen

NOT_STORABLE = (pa.types.is_null, pa.types.is_union, pa.types.is_interval)

Found = TypeVar("Found")
Images = Literal["each", "first"]


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; those that are None are found by their usual names and types."""

    id: str | None = None
    text: tuple[str, ...] = ()  # joined in this order
    image: str | None = None
    images: Images = "each"  # of a list: a record for each image, or for the first only
    cells: bool | None = None  # True if a cell of strings is a list of paths or URIs; None: if the first rows have some
    strict: bool = False  # a value that doesn't fit its column rejects the record; else it becomes null
    encoding: str | None = None  # of text files; None: UTF-8, or what their byte order mark says
    only: Modality | None = None  # what is embedded of a record that has both

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that the user named."""
        return tuple(name for name in (self.id, *self.text, self.image) if name is not None)

    @property
    def roles(self) -> dict[str, Any]:
        """The columns by role, as they are stored with a table (`Source.roles`)."""
        return roles_as_stored(Roles(self.id, self.text, self.image), self.cells)

    def with_roles(self, roles: Mapping[str, Any]) -> Columns:
        """The same with the columns of `roles`."""
        text = roles["text"]
        texts = (text,) if isinstance(text, str) else tuple(text or ())
        return dataclasses.replace(self, id=roles["id"], text=texts, image=roles["image"], cells="cells" in roles)


class Batch(NamedTuple):
    """Some rows of a file, in the columns that the file has."""

    table: pa.Table
    rows: Sequence[int] | np.ndarray  # where each row is in the file: its number or, in text files, its first byte
    rejects: Mapping[int, Reject]  # rows of `table` that could not be read, and are null in it
    misfits: Mapping[int, Mapping[str, str]] = {}  # by row and column, why a value, now null, doesn't fit its column


@dataclass(frozen=True)
class Layout:
    """Which columns of a source become which columns of its records."""

    schema: pa.Schema  # of the source, in plain types
    id: str | None
    text: tuple[str, ...]
    image: str | None
    images: Images
    cells: bool  # True if a cell of the image column is a list of paths or URIs, written as a string
    extra: pa.Schema  # the columns that are passed through, in the types that the table has or gets
    strict: bool = False
    left_out: tuple[str, ...] = ()  # columns that a table cannot hold
    notes: tuple[str, ...] = ()  # for the user

    @classmethod
    def of(
        cls, schema: pa.Schema, columns: Columns, uri: str, look: Look = no_rows, like: pa.Schema | None = None
    ) -> Layout:
        """Find the columns that the user didn't name.

        `look` gives some of the first rows, for columns whose type leaves open what they are. `like` has the columns of
        the table that the records go to: a column keeps its type, or gets a wider one. Raises UsageError if there is
        nothing to embed, or if a column with the name of an id can't serve as one.
        """
        twice = [name for name, number in Counter(schema.names).items() if number > 1]
        schema = pa.schema([(field.name, plain(field.type)) for field in schema if field.name not in twice])
        roles = find_roles(schema, Roles(columns.id, columns.text, columns.image), look, uri, columns.only)
        cells = columns.cells
        if cells is None:
            cells = has_several_in_a_cell(schema, roles.image, look)
        if cells and roles.image is not None:
            at = schema.get_field_index(roles.image)
            schema = schema.set(at, pa.field(roles.image, pa.list_(pa.string())))
        # One text column is the record's text; of several, each is kept beside the text that is made of them.
        used = {roles.id, roles.image, *(roles.text if len(roles.text) == 1 else ())}
        extra, notes = with_table_types([field for field in schema if field.name not in used], like or pa.schema([]))
        kept = pa.schema([field for field in extra if storable(field)])
        left_out = (*(field.name for field in extra if not storable(field)), *twice)
        return cls(schema, *roles, columns.images, cells, kept, columns.strict, left_out, tuple(notes))

    @property
    def used(self) -> list[str]:
        """The columns to read, in the source's order."""
        wanted = {self.id, *self.text, self.image, *self.extra.names}
        return [name for name in self.schema.names if name in wanted]

    @cached_property
    def record_schema(self) -> pa.Schema:
        """The schema of records."""
        return read_schema(self.extra)

    @property
    def image_type(self) -> pa.DataType | None:
        """The type of one image: bytes, a struct that has them, or the string of a path or URI."""
        return None if self.image is None else element(self.schema.field(self.image).type)

    @property
    def external_images(self) -> bool:
        """True if an image can be given by its path or URI alone, and has to be fetched."""
        kind = self.image_type
        return kind is not None and (is_text(kind) or (pa.types.is_struct(kind) and kind.get_field_index("path") >= 0))

    @property
    def several(self) -> bool:
        """True if a record has a list of images."""
        return self.image is not None and is_list(self.schema.field(self.image).type)

    def describe(self) -> list[str]:
        """Lines for the user: which column serves as what."""
        image = self.image or "none"
        if self.several:
            image += ", the first of each list" if self.images == "first" else ", a list (records ID#0, ID#1, ...)"
        if self.image_type is not None and is_text(self.image_type):
            image += f", paths or URIs to fetch{', several in a cell' if self.cells else ''}"
        lines = [
            f"id: {self.id or 'hash of the content'}, text: {' + '.join(self.text) or 'none'}, image: {image}, "
            f"passed through: {', '.join(self.extra.names) or 'none'}"
        ]
        if self.left_out:
            lines.append(
                "left out, as the name is reserved or ambiguous, there is no value, or Lance cannot store it: "
                f"{', '.join(self.left_out)}"
            )
        return [*lines, *self.notes]

    def split(self, batch: Batch) -> Batch:
        """`batch` with lists of paths or URIs in place of cells that have several, if that is how they are read."""
        at = batch.table.schema.get_field_index(self.image) if self.cells and self.image else -1
        if at < 0 or not is_text(batch.table.schema.field(at).type):
            return batch
        return batch._replace(table=batch.table.set_column(at, self.image, split_cells(batch.table.column(at))))

    def records(self, batch: Batch, file: str) -> tuple[pa.Table, dict[int, Reject]]:
        """`batch` as records with the schema `record_schema`.

        A value that passes through and doesn't fit its column is null, and named in MISFITS; with `strict` its row is
        rejected.
        """
        table, rows = batch.table, np.asarray(batch.rows, np.int64)
        owners, columns = np.arange(len(table)), dict(zip(table.column_names, table.columns, strict=True))
        images = plain_column(columns.pop(self.image, pa.nulls(len(table))))
        if self.several:
            owners, numbers, images = each_image(images, self.images)
            columns, rows = {name: column.take(pa.array(owners)) for name, column in columns.items()}, rows[owners]
        nulls = pa.nulls(len(rows))  # of columns that this file doesn't have
        keys, bad_ids = ids(columns.get(self.id, nulls))
        if self.several and self.images == "each":
            keys = numbered(keys, numbers)
        text, bad_texts = texts([columns.get(name, nulls) for name in self.text] or [nulls])
        content, uris, bad_images = image_parts(images)
        values = {ID: keys, TEXT: text, IMAGE: content, IMAGE_URI: uris, OBJECT: pa.repeat(file, len(rows))}
        values |= {ROW: pa.array(rows), MISFITS: nulls}
        values |= {name: columns.get(name, nulls) for name in self.extra.names}
        misfits = {at: {**found} for at, found in of_owners(batch.misfits, owners)}
        records = self.fitted(values, misfits, {OBJECT, ROW, MISFITS} if bad_texts else {TEXT, OBJECT, ROW, MISFITS})
        embedded = {ID, TEXT, IMAGE, IMAGE_URI, self.id, *self.text, self.image} - {*self.extra.names}
        unfit = {at: found for at, found in misfits.items() if self.strict or not embedded.isdisjoint(found)}
        rejects = {at: unfit_record(found) for at, found in unfit.items()} | bad_images | bad_texts | bad_ids
        rejects |= of_owners(batch.rejects, owners)
        return with_misfits(records, {at: misfits[at] for at in misfits.keys() - unfit.keys()}), rejects

    def fitted(self, values: Mapping[str, Any], misfits: dict[int, dict[str, str]], valid: Container[str]) -> pa.Table:
        """The columns of records in their types, of which `valid` are known to be valid text.

        Values that don't fit are null, and are added to `misfits`.
        """
        columns = []
        for field in self.record_schema:
            column, unfit = cast(values[field.name], field.type)
            columns.append(column)
            for row, message in unfit.items():
                misfits.setdefault(row, {})[field.name] = message
        records, invalid = without_invalid_text(pa.table(columns, schema=self.record_schema), valid)
        for row, names in invalid.items():
            misfits[row] = names | misfits.get(row, {})
        return records


def roles_as_stored(roles: Roles, cells: bool | None) -> dict[str, Any]:
    """Roles as JSON has them: a single text column as a string, and `cells` only if they are lists."""
    text = [*roles.text] if len(roles.text) > 1 else next(iter(roles.text), None)
    return {"id": roles.id, "text": text, "image": roles.image} | ({"cells": True} if cells else {})


def has_several_in_a_cell(schema: pa.Schema, image: str | None, look: Look) -> bool:
    """True if the first rows have strings with several paths or URIs of images."""
    if image is None or not is_text(schema.field(image).type):
        return False
    rows = look([image])
    return image in rows.column_names and is_text(rows[image].type) and has_several(rows[image])


def of_owners(by_row: Mapping[int, Found], owners: np.ndarray) -> Iterator[tuple[int, Found]]:
    """What is known of some rows, for each record that is made of one of them; `owners` are the records' rows."""
    for at, row in enumerate(owners.tolist() if by_row else ()):
        if row in by_row:
            yield at, by_row[row]


def unfit_record(columns: Mapping[str, str]) -> Reject:
    """The reject of a record with values that don't fit their columns."""
    reason = TEXT_NOT_UTF8 if NOT_UTF8 in columns.values() else COLUMN_TYPE
    return reason.reject("; ".join(f"{name}: {message}" for name, message in columns.items()))


def with_misfits(records: pa.Table, misfits: Mapping[int, Mapping[str, str]]) -> pa.Table:
    """`records` with what didn't fit, by row and column, in MISFITS."""
    if not misfits:
        return records
    listed: list[list[dict[str, str]] | None] = [None] * len(records)
    for row, columns in misfits.items():
        listed[row] = [{"column": name, "message": message} for name, message in columns.items()]
    return replace_column(records, MISFITS, pa.array(listed, records.schema.field(MISFITS).type))


def with_table_types(fields: Sequence[pa.Field], table: pa.Schema) -> tuple[pa.Schema, list[str]]:
    """Columns that pass through, each in the type that the table has or, if that can't hold its values, a wider one.

    Also lines for the user about types that differ in kind.
    """
    found, notes = [], []
    for field in fields:
        kind = field.type
        if field.name in table.names:
            stored = table.field(field.name).type
            wider = merged(plain(stored), kind)
            keeps = wider in (None, plain(stored)) or not can_widen(stored, wider)
            kind = stored if keeps else wider
            if keeps and wider != plain(stored):
                notes.append(
                    f"column {field.name} is {field.type} here and {stored} in the table: what doesn't fit is null"
                )
        found.append(pa.field(field.name, kind))
    return pa.schema(found), notes


def each_image(lists: pa.ChunkedArray, images: Images) -> tuple[np.ndarray, np.ndarray, pa.Array | pa.ChunkedArray]:
    """Lists of images, flattened: for each image its row, its number in the list, and the image (null for no image)."""
    if not is_list(lists.type):  # this file has one image in each record, although the first file has lists
        return np.arange(len(lists)), np.zeros(len(lists), np.int64), lists
    array = one_array(lists)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.maximum(lengths, 1) if images == "each" else np.ones(len(lengths), np.int64)
    owners = np.repeat(np.arange(len(lengths)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.cumsum(lengths) - lengths  # in the flattened values, which have none of null lists
    at = pa.array(starts[owners] + numbers, pa.int64(), mask=lengths[owners] == 0)
    return owners, numbers, array.flatten().take(at)


def storable(field: pa.Field) -> bool:
    """True if a table can have this column: its name is not reserved, without dots and backticks, and its type fits."""
    named = field.name not in RESERVED and re.fullmatch(r"[^.`]+", field.name) is not None
    return named and is_storable(field.type)


def is_storable(kind: pa.DataType) -> bool:
    """True if Lance can store this type at any depth: for example no unions, intervals and empty structs."""
    if any(fits(kind) for fits in NOT_STORABLE) or (pa.types.is_struct(kind) and not kind.num_fields):
        return False
    return all(is_storable(kind.field(part).type) for part in range(kind.num_fields))
