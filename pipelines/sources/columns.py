"""Finds the columns that serve as a record's id, text and image, and turns rows of a catalog into records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reasons import COLUMN_TYPE, TEXT_NOT_UTF8, Reject
from pipelines.records import ID, IMAGE, IMAGE_URI, OBJECT, RESERVED, ROW, TEXT, read_schema, replace_column
from pipelines.sources.image_cells import image_parts
from pipelines.sources.types import is_bytes, is_list, is_text, plain
from vista_core import UsageError

# Usual column names in tar shards, Hugging Face datasets and shop catalogs, the most likely first.
ID_NAMES = ("__key__", "id", "_id", "key", "uid", "uuid", "item_id", "product_id", "asin", "sku")
TEXT_NAMES = ("txt", "text", "caption", "title", "description", "name", "alt", "prompt", "cls")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "photo", "picture", "images")
# Columns of strings that hold an image's path or URI. Not `url`, which is as often that of the page with the image.
URI_NAMES = (
    *("image", "img", "image_uri", "image_url", "image_path", "image_file", "img_url", "photo", "picture", "file_name"),
    *("images", "image_uris", "image_urls", "image_paths"),
)

NOT_STORABLE = (
    *(pa.types.is_map, pa.types.is_null, pa.types.is_union, pa.types.is_run_end_encoded, pa.types.is_interval),
    *(pa.types.is_list_view, pa.types.is_large_list_view, pa.types.is_decimal32, pa.types.is_decimal64),
)
CAST_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)

Images = Literal["each", "first"]


@dataclass(frozen=True)
class Columns:
    """The columns that the user named; those that are None are found by their usual names and types."""

    id: str | None = None
    text: str | None = None
    image: str | None = None
    images: Images = "each"  # of a list: a record for each image, or for the first only
    strict: bool = False  # a value that doesn't fit its column rejects the record; else it becomes null
    encoding: str | None = None  # of text files; None: UTF-8, or what their byte order mark says

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that the user named."""
        return tuple(name for name in (self.id, self.text, self.image) if name is not None)


class Batch(NamedTuple):
    """Some rows of a file, in the columns that the file has."""

    table: pa.Table
    rows: Sequence[int]  # the position of each row in the file: its number or, in text files, the byte it starts at
    rejects: dict[int, Reject]  # rows of `table` that could not be read, and are null in it
    misfits: Mapping[int, Mapping[str, str]] = {}  # by row and column, why a value, now null, doesn't fit its column


@dataclass(frozen=True)
class Layout:
    """Which columns of a source become which columns of its records."""

    schema: pa.Schema  # of the source, with the types in which its columns are read
    id: str | None
    text: str | None
    image: str | None
    images: Images
    extra: pa.Schema  # the other columns, which are passed through
    left_out: tuple[str, ...]  # columns that a table cannot hold

    @classmethod
    def of(cls, schema: pa.Schema, columns: Columns, uri: str) -> Layout:
        """Find the columns that the user didn't name. Raises UsageError if there is nothing to embed."""
        named = {columns.id, columns.text, columns.image}
        twice = [name for name, number in Counter(schema.names).items() if number > 1]
        fields = [field.with_type(plain(field.type)) for field in schema if field.name not in twice]
        # A named column without a value in the first records has no type there. It is read as strings.
        empty = {field.name for field in fields if field.name in named and pa.types.is_null(field.type)}
        schema = pa.schema([field.with_type(pa.string()) if field.name in empty else field for field in fields])
        free = pa.schema([field for field in schema if field.name not in named])
        key = pick(schema, "--id-column", columns.id, is_key) or usual(free, ID_NAMES, is_key)
        text = pick(schema, "--text-column", columns.text, is_text) or usual(free, TEXT_NAMES, is_text)
        image = pick(schema, "--image-column", columns.image, is_image) or usual_image(free, text)
        if text is None and image is None:
            raise UsageError(
                f"--source {uri}: no column of text or images found among {describe_columns(schema)}. "
                "Name them with --text-column and --image-column"
            )
        others = [field for field in schema if field.name not in (key, text, image)]
        extra = pa.schema([field.remove_metadata().with_nullable(True) for field in others if storable(field)])
        left_out = (*(field.name for field in others if not storable(field)), *twice)
        return cls(schema, key, text, image, columns.images, extra, left_out)

    @property
    def used(self) -> list[str]:
        """The columns to read, in the source's order."""
        wanted = {self.id, self.text, self.image, *self.extra.names}
        return [name for name in self.schema.names if name in wanted]

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
            image += ", paths or URIs to fetch"
        lines = [
            f"id: {self.id or 'hash of the content'}, text: {self.text or 'none'}, image: {image}, "
            f"passed through: {', '.join(self.extra.names) or 'none'}"
        ]
        if self.left_out:
            lines.append(
                f"left out, as the name is reserved or ambiguous or Lance cannot store it: {', '.join(self.left_out)}"
            )
        return lines

    def records(self, batch: Batch, file: str) -> tuple[pa.Table, dict[int, Reject]]:
        """`batch` as records with the schema `records.read_schema`. A value that doesn't fit rejects its row."""
        table, rows, rejects = batch.table, np.asarray(batch.rows, np.int64), dict(batch.rejects)
        images = column_or_nulls(table, self.image)
        values = {name: column_or_nulls(table, column) for name, column in ((ID, self.id), (TEXT, self.text))}
        values |= {name: column_or_nulls(table, name) for name in self.extra.names}
        if self.several:
            owners, numbers, images = each_image(images, self.images)
            values = {name: column.take(owners) for name, column in values.items()}
            if self.images == "each":
                texts = [pc.cast(part, pa.string()) for part in (values[ID], pa.array(numbers))]
                values[ID] = pc.binary_join_element_wise(*texts, "#")
            rejects = {at: rejects[row] for at, row in enumerate(owners.tolist()) if row in rejects}
            rows = rows[owners]
        values[IMAGE], values[IMAGE_URI], broken = image_parts(images)
        rejects = broken | rejects
        values |= {OBJECT: pa.repeat(file, len(rows)), ROW: pa.array(rows)}
        schema = read_schema(self.extra)
        columns = []
        for field in schema:
            column, misfits = read_as(field, values[field.name])
            columns.append(column)
            rejects = misfits | rejects
        records, bad_text = without_invalid_text(pa.table(columns, schema=schema))
        return records, bad_text | rejects


def pick(schema: pa.Schema, option: str, named: str | None, fits: Callable[[pa.DataType], bool]) -> str | None:
    """The column that the user named, if any. Raises UsageError if it is missing or has an unsuitable type."""
    if named is None:
        return None
    if named not in schema.names:
        raise UsageError(f"{option} {named}: no such column; there are {describe_columns(schema)}")
    if not fits(schema.field(named).type):
        raise UsageError(f"{option} {named}: a column of type {schema.field(named).type} can't serve as this")
    return named


def usual(schema: pa.Schema, names: Sequence[str], fits: Callable[[pa.DataType], bool]) -> str | None:
    """The first of `names` that is a column of a suitable type."""
    return next((name for name in names if name in schema.names and fits(schema.field(name).type)), None)


def usual_image(schema: pa.Schema, text: str | None) -> str | None:
    """The image column: bytes with a usual name, else the only bytes, else paths or URIs with a usual name."""
    if found := usual(schema, IMAGE_NAMES, has_bytes):
        return found
    candidates = [field.name for field in schema if has_bytes(field.type)]
    if len(candidates) == 1:
        return candidates[0]
    return usual(schema, [name for name in URI_NAMES if name != text], lambda kind: is_text(element(kind)))


def column_or_nulls(table: pa.Table, name: str | None) -> pa.ChunkedArray:
    """A column, or nulls if this file doesn't have it."""
    return table[name] if name in table.column_names else pa.chunked_array([pa.nulls(len(table))])


def each_image(lists: pa.ChunkedArray, images: Images) -> tuple[np.ndarray, np.ndarray, pa.Array | pa.ChunkedArray]:
    """Lists of images, flattened: for each image its row, its number in the list, and the image (null for no image)."""
    if not is_list(lists.type):  # this file has one image in each record, although the first file has lists
        return np.arange(len(lists)), np.zeros(len(lists), np.int64), lists
    array = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.maximum(lengths, 1) if images == "each" else np.ones(len(lengths), np.int64)
    owners = np.repeat(np.arange(len(lengths)), counts)
    numbers = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.cumsum(lengths) - lengths  # in the flattened values, which have none of null lists
    at = pa.array(starts[owners] + numbers, pa.int64(), mask=lengths[owners] == 0)
    return owners, numbers, array.flatten().take(at)


def read_as(
    field: pa.Field, column: pa.ChunkedArray | pa.Array
) -> tuple[pa.ChunkedArray | pa.Array, dict[int, Reject]]:
    """A column, cast to the type of `field`. Values that can't be cast become null and reject their row."""
    try:
        return column.cast(field.type), {}
    except CAST_ERRORS:
        kept, rejects = [], {}
        for row in range(len(column)):
            value = column.take([row])
            try:
                kept.append(pa.nulls(1, field.type) if value.null_count else value.cast(field.type))
            except CAST_ERRORS as misfit:
                message = f"{field.name} is {value.type} here and {field.type} in the rest: {misfit}"
                rejects[row] = COLUMN_TYPE.reject(message)
                kept.append(pa.nulls(1, field.type))
        return pa.chunked_array([c for part in kept for c in chunks(part)], field.type), rejects


def without_invalid_text(records: pa.Table) -> tuple[pa.Table, dict[int, Reject]]:
    """Replaces strings that are not UTF-8, also nested ones, by null, and rejects their rows.

    Parquet and Lance don't check what they write, so readers of the table would fail.
    """
    rejects: dict[int, Reject] = {}
    for name in records.schema.names:
        column = records[name]
        if is_valid(column):
            continue
        rows = range(len(column))
        bad = {row for row in rows if not is_valid(column.take([row]))}
        rejects |= dict.fromkeys(bad, TEXT_NOT_UTF8.reject(f"column {name}"))
        kept = pa.array([None if row in bad else row for row in rows], pa.int64())
        records = replace_column(records, name, column.take(kept))
    return records, rejects


def is_valid(column: pa.ChunkedArray) -> bool:
    """True if all values are valid for their type, such as strings in UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    """The arrays of a column."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def element(kind: pa.DataType) -> pa.DataType:
    """The element type of a list, or the type itself."""
    return kind.value_type if is_list(kind) else kind


def storable(field: pa.Field) -> bool:
    """True if a table can have this column: its name is not reserved, without dots and backticks, and its type fits."""
    named = field.name not in RESERVED and re.fullmatch(r"[^.`]+", field.name) is not None
    return named and is_storable(field.type)


def is_storable(kind: pa.DataType) -> bool:
    """True if Lance can store this type at any depth: for example no maps, unions, intervals and empty structs."""
    if any(fits(kind) for fits in NOT_STORABLE) or (pa.types.is_struct(kind) and not kind.num_fields):
        return False
    return all(is_storable(kind.field(part).type) for part in range(kind.num_fields))


def describe_columns(schema: pa.Schema) -> str:
    """Names and types, for an error message."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"


def is_key(kind: pa.DataType) -> bool:
    """True for strings and integers."""
    return is_text(kind) or pa.types.is_integer(kind)


def has_bytes(kind: pa.DataType) -> bool:
    """True for bytes, a struct with a field `bytes`, or a list of either."""
    kind = element(kind)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
    return is_bytes(kind)


def is_image(kind: pa.DataType) -> bool:
    """True for image bytes, paths or URIs of images, or a list of either."""
    return has_bytes(kind) or is_text(element(kind))
