"""Parquet files with inline image bytes: plain binary, or the {bytes, path} struct of Hugging Face datasets.

A unit is a row group, streamed in batches of bounded size.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.records import ID as ID_FIELD
from pipelines.records import IMAGE, IMAGE_URI, OBJECT, RESERVED, ROW, TEXT, Reject, read_schema
from pipelines.sources.objects import Listing, SourceError, SourceObject, open_unchanged, printable
from vista_core import UsageError

if TYPE_CHECKING:
    from pipelines.sources import Columns

BATCH_BYTES = 32 << 20  # of encoded images at once in a worker
BATCH_ROWS = 4096
FOOTER_THREADS = 16
READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)  # `is_damage` tells them apart

ID_NAMES = ("id", "_id", "key", "uid", "uuid", "item_id", "product_id", "asin", "sku")
TEXT_NAMES = ("text", "caption", "title", "description", "name", "alt", "prompt")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "photo", "picture")


@dataclass(frozen=True)
class Parquet:
    """The row groups of some Parquet files."""

    listing: Listing
    schema: pa.Schema  # of the first file; the others are read as if they had it
    id_column: str | None
    text_column: str | None
    image_column: str | None
    extra: pa.Schema
    left_out: tuple[str, ...]  # columns that the table cannot hold

    @classmethod
    def open(cls, listing: Listing, columns: Columns) -> Parquet:
        """Find the columns in the first readable footer. Raises UsageError if there is nothing to embed."""
        schema = pa.schema([field.with_type(plain(field.type)) for field in first_schema(listing)])
        id_column = pick(schema, "--id-column", columns.id, ID_NAMES, is_key)
        text_column = pick(schema, "--text-column", columns.text, TEXT_NAMES, is_text)
        image_column = pick(schema, "--image-column", columns.image, IMAGE_NAMES, is_image)
        if image_column is None:
            candidates = [field.name for field in schema if is_image(field.type)]
            image_column = candidates[0] if len(candidates) == 1 else None
        if text_column is None and image_column is None:
            raise UsageError(
                f"--source {listing.uri}: no column of text or image bytes found among {describe_columns(schema)}. "
                "Name them with --text-column and --image-column"
            )
        others = [field for field in schema if field.name not in (id_column, text_column, image_column)]
        extra = pa.schema([field.remove_metadata().with_nullable(True) for field in others if storable(field)])
        left_out = tuple(field.name for field in others if not storable(field))
        return cls(listing, schema, id_column, text_column, image_column, extra, left_out)

    @property
    def has_ids(self) -> bool:
        """Whether the files have an id column."""
        return self.id_column is not None

    @property
    def has_uris(self) -> bool:
        """Whether an image comes with the path that a Hugging Face struct keeps."""
        return self.image_column is not None and pa.types.is_struct(self.schema.field(self.image_column).type)

    @property
    def roles(self) -> dict[str, str | None]:
        """Which column is taken for what."""
        return {"id": self.id_column, "text": self.text_column, "image": self.image_column}

    def without_listing(self) -> Parquet:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=dataclasses.replace(self.listing, objects=()))

    def describe(self) -> list[str]:
        """What was found, and which column is taken for what."""
        lines = [
            f"{len(self.listing.objects):,} Parquet file(s), {sum(o.size for o in self.listing.objects) / 1e6:,.2f} MB",
            f"id: {self.id_column or 'hash of the content'}, text: {self.text_column or 'none'}, "
            f"image: {self.image_column or 'none'}, passed through: {', '.join(self.extra.names) or 'none'}",
        ]
        if self.left_out:
            lines.append(
                f"left out, since a table has these names itself or cannot store them: {', '.join(self.left_out)}"
            )
        return lines

    def units(self) -> list[dict]:
        """A unit a row group; a file whose footer can't be read is one unit that says so."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            return [unit for units in pool.map(file_units, self.listing.objects) for unit in units]

    def read(self, unit: dict) -> Iterator[tuple[pa.Table, dict[int, Reject]]]:
        """The records of a row group; where it is damaged, the rest of its rows are rejected, each by number."""
        done, message = 0, unit["error"] or "rows are missing"
        try:
            if not unit["error"]:
                for batch in self.batches(unit):
                    records = self.records(batch, unit, done)
                    yield records, images_elsewhere(records)
                    done += len(batch)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            message = str(error)
        for start in range(done, unit["rows"], BATCH_ROWS):
            yield self.unreadable(unit, range(start, min(start + BATCH_ROWS, unit["rows"])), message)

    def batches(self, unit: dict) -> Iterator[pa.Table]:
        """The row group's columns that are used, as they are in the file."""
        used = {self.id_column, self.text_column, self.image_column, *self.extra.names}
        with open_unchanged(unit["object"], unit["version"]) as handle:
            file = pq.ParquetFile(handle, buffer_size=8 << 20)
            names = [name for name in file.schema_arrow.names if name in used]
            for batch in file.iter_batches(unit["batch_rows"], row_groups=[unit["index"]], columns=names):
                yield pa.table(batch)

    def records(self, batch: pa.Table, unit: dict, done: int) -> pa.Table:
        """One batch in the order and types of `records.read_schema`."""
        image, uri = image_parts(column_or_nulls(batch, self.image_column))
        first = unit["first_row"] + done
        values = {
            ID_FIELD: column_or_nulls(batch, self.id_column),
            TEXT: column_or_nulls(batch, self.text_column),
            IMAGE: image,
            IMAGE_URI: uri,
            OBJECT: pa.repeat(printable(unit["object"]), len(batch)),
            ROW: pa.array(range(first, first + len(batch)), pa.int64()),
        } | {name: column_or_nulls(batch, name) for name in self.extra.names}
        schema = read_schema(self.extra)
        return pa.table([read_as(field, values[field.name], unit["object"]) for field in schema], schema=schema)

    def unreadable(self, unit: dict, rows: range, message: str) -> tuple[pa.Table, dict[int, Reject]]:
        """Rows of the unit that are known to be there but can't be read."""
        name = printable(unit["object"])
        numbers = pa.array([unit["first_row"] + row for row in rows], pa.int64())
        values = {OBJECT: pa.repeat(name, len(rows)), ROW: numbers}
        schema = read_schema(self.extra)
        columns = [values.get(field.name, pa.nulls(len(rows), field.type)) for field in schema]
        reject = Reject("read", "object_unreadable", f"{name}: {message}"[:500])
        return pa.table(columns, schema=schema), dict.fromkeys(range(len(rows)), reject)


def first_schema(listing: Listing) -> pa.Schema:
    """The schema of the first file whose footer can be read."""
    errors = []
    for item in listing.objects[:8]:
        try:
            with open_unchanged(item.uri, item.version) as handle:
                return pq.read_schema(handle)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            errors.append(f"{item.uri}: {error}")
    raise UsageError(f"--source {listing.uri}: no readable Parquet file: {errors[0]}")


def file_units(item: SourceObject) -> list[dict]:
    """The row groups of one file."""
    unit = {"object": item.uri, "version": item.version, "error": "", "rows": 1, "first_row": 0}
    try:
        with open_unchanged(item.uri, item.version) as handle:
            metadata = pq.read_metadata(handle)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if sum(group.num_rows for group in groups) != metadata.num_rows:
            raise pa.ArrowInvalid("its numbers of rows contradict each other")
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        return [unit | {"error": f"the Parquet footer cannot be read: {error}"}]
    units = []
    for index, group in enumerate(groups):
        per_row = max(1, group.total_byte_size // max(1, group.num_rows))
        batch_rows = max(16, min(BATCH_ROWS, BATCH_BYTES // per_row))
        if group.num_rows:
            units.append(unit | {"index": index, "rows": group.num_rows, "batch_rows": batch_rows})
        unit = unit | {"first_row": unit["first_row"] + group.num_rows}  # type: ignore[operator]
    return units


def is_damage(error: Exception) -> bool:
    """Damaged content, which a retry won't mend; pyarrow also raises OSError for it, but without an errno."""
    return not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)


def pick(schema: pa.Schema, option: str, named: str | None, usual: tuple[str, ...], fits: Callable) -> str | None:
    """The column that the user named, checked, or the first of the usual names that fits, or None."""
    if named is None:
        return next((name for name in usual if name in schema.names and fits(schema.field(name).type)), None)
    if named not in schema.names:
        raise UsageError(f"{option} {named}: no such column; there are {describe_columns(schema)}")
    if not fits(schema.field(named).type):
        raise UsageError(f"{option} {named}: a column of type {schema.field(named).type} can't serve as this")
    return named


def column_or_nulls(batch: pa.Table, name: str | None) -> pa.ChunkedArray:
    """A column, or nulls where this file doesn't have it."""
    return batch[name] if name in batch.column_names else pa.chunked_array([pa.nulls(len(batch))])


def image_parts(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | pa.Array, pa.ChunkedArray | pa.Array]:
    """An image column's bytes and, where a Hugging Face struct has one, the path."""
    nulls = pa.nulls(len(column))
    if not pa.types.is_struct(column.type):
        return column, nulls
    parts = dict(zip((field.name for field in column.type), column.combine_chunks().flatten(), strict=True))
    return parts.get("bytes", nulls), parts.get("path", nulls)


def images_elsewhere(records: pa.Table) -> dict[int, Reject]:
    """Records whose image is named but not inside: to embed them by their text alone would be a quiet loss."""
    elsewhere = pc.and_(pc.is_null(records[IMAGE]), pc.is_valid(records[IMAGE_URI])).to_pylist()
    reject = Reject("read", "image_not_inline", "the file holds the image's path, not its bytes")
    return {row: reject for row, value in enumerate(elsewhere) if value}


def read_as(field: pa.Field, column: pa.ChunkedArray | pa.Array, uri: str) -> pa.ChunkedArray | pa.Array:
    """A column in the type that the first file gives it. Raises SourceError if its values don't fit that."""
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"{uri}: its column for {field.name!r} is {column.type}, which can't be read as {field.type}, as in the "
            f"first file: {error}"
        ) from error


def plain(kind: pa.DataType) -> pa.DataType:
    """The type that a column is read as: a categorical as its values, a view as what it views."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def storable(field: pa.Field) -> bool:
    """Whether a table can hold the column: Lance takes no maps, and no dots or backticks in a name."""
    named = field.name not in RESERVED and re.fullmatch(r"[^.`]+", field.name) is not None
    return named and is_storable(field.type)


def is_storable(kind: pa.DataType) -> bool:
    """Neither a map, nor without a type since all its values are null, nor made of such."""
    if pa.types.is_map(kind) or pa.types.is_null(kind):
        return False
    return all(is_storable(kind.field(part).type) for part in range(kind.num_fields))


def describe_columns(schema: pa.Schema) -> str:
    """Names and types, for an error message."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"


def is_text(kind: pa.DataType) -> bool:
    """Strings of either width."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_key(kind: pa.DataType) -> bool:
    """Strings and integers."""
    return is_text(kind) or pa.types.is_integer(kind)


def is_image(kind: pa.DataType) -> bool:
    """Bytes, or a struct that has them."""
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind] and is_image(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
