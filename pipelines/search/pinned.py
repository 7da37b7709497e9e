"""A table as a search sees it: one version, with the columns, the indexes and the origin that it has there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import lance
import pyarrow as pa

from pipelines.records import ID, IMAGE_URI, LANCE_NAMES, OBJECT, RUN, TEXT
from pipelines.search.method import Method
from pipelines.sources.roles import ID_NAMES, IMAGE_NAMES, URI_NAMES, usual
from pipelines.sources.types import is_bytes, is_number, is_text
from pipelines.storage.uris import absolute
from pipelines.tables.dataset import PUBLISHED, open_dataset, published, table_uri
from pipelines.tables.default_column import default_column, searched_column
from pipelines.tables.origin import MARKER, encoder_files, vista_column
from pipelines.tables.publish import in_ranges
from pipelines.tables.vector_column import (
    EncoderFiles,
    VectorColumn,
    fingerprint_column,
    names_encoder,
    vector_columns,
    why_incomplete,
)
from vista_core import UsageError

SCORE: Final = "score"
OWN: Final = (ID, SCORE)  # columns of results; a table's own columns of these names are renamed
TEXT_INDEX: Final = "Inverted"  # Lance's name for the type of a full-text index
BLOB: Final = b"lance-encoding:blob"  # metadata of a column whose bytes Lance reads in another way
DISTANCES: Final = {"_distance", "_score"}  # the names of what Lance's searches add to the table's columns


@dataclass(frozen=True)
class Asked:
    """What of a table is to be searched."""

    column: str | None = None  # the vector column; None: the version's default
    version: int | str | None = None  # a number or a tag; None: the one that is published
    allow_incomplete: bool = False  # also a column that a backfill has not filled yet


@dataclass(frozen=True)
class Origins:
    """Where a table's encoder comes from, as far as the table says."""

    model: str | None = None
    files: EncoderFiles = field(default_factory=EncoderFiles)


@dataclass(frozen=True)
class PinnedTable:
    """One version of a table, and what a search needs to know of it."""

    name: str  # for messages
    dataset: lance.LanceDataset
    asked: Asked
    vector: str  # name of the vector column
    column: VectorColumn | None  # None if the column does not name its encoder
    origin: Origins
    method: Method
    id: str | None  # name of the column with the ids; None: the address of a row in this version is its id
    text: str | None  # name of the column for keyword search: one with a full-text index

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.dataset.schema.field(self.vector).type.list_size)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns that results have beside id and score, by their names there: neither vectors nor images.

        A column of the table that is named like one of a result's is renamed.
        """
        schema = self.dataset.schema
        vectors = set(vector_columns(schema))
        hidden = {*vectors, *map(fingerprint_column, vectors), OBJECT, RUN, *LANCE_NAMES}
        hidden |= {field.name for field in schema if is_image(field)}
        shown = [name for name in schema.names if name not in hidden and (name != ID or self.id != ID)]
        return {renamed(name, schema.names) if name in OWN else name: name for name in shown}

    @property
    def image(self) -> str | None:
        """Name of the column with the bytes of images, if they are stored."""
        found = usual(self.dataset.schema, IMAGE_NAMES, is_bytes)
        return None if found is None or BLOB in (self.dataset.schema.field(found).metadata or {}) else found

    @property
    def image_uri(self) -> str | None:
        """Name of the column with paths or URIs of images, if there is one."""
        return usual(self.dataset.schema, (IMAGE_URI, *URI_NAMES), is_text)


def open_table(db: str, table: str, asked: Asked) -> PinnedTable:
    """The table at a version, by number or tag; None: the published one or, of a table that vista didn't make and
    nobody published, the latest.

    Raises UsageError if there is no such table, version or vector column, or if the column is incomplete.
    """
    db = absolute(db)
    dataset = open_dataset(table_uri(db, table))
    if dataset is None:
        raise UsageError(f"there is no table {table} in {db}")
    return pin(at_version(dataset, version_of(dataset, table, asked.version)), table, asked)


def repinned(table: PinnedTable) -> PinnedTable:
    """The table on the version that is published now (or that its tag names now); itself if it is this one.

    Without a column that was asked for, it is that version's default column.
    """
    version = version_of(table.dataset, table.name, table.asked.version)
    if version == table.dataset.version:
        return table
    return pin(at_version(table.dataset, version), table.name, table.asked)


def pin(dataset: lance.LanceDataset, name: str, asked: Asked) -> PinnedTable:
    """What a search needs to know of a version of a table. Raises UsageError if it can't be searched."""
    if clash := DISTANCES.intersection(dataset.schema.names):
        raise UsageError(
            f"{dataset.uri} has a column `{clash.pop()}`, which is what Lance calls a column of its own. Rename it"
        )
    vector = choose_column(dataset, asked.column)
    vector_column = column_of(dataset, vector)
    if vector_column is not None and vector_column.filling and not asked.allow_incomplete:
        raise UsageError(f"{dataset.uri}: {why_incomplete(vector)}; --allow-incomplete searches what is there")
    indexed_texts = [each.field_names[0] for each in dataset.describe_indices() if each.index_type == TEXT_INDEX]
    return PinnedTable(
        name=name,
        dataset=dataset,
        asked=asked,
        vector=vector,
        column=vector_column,
        origin=origin_of(dataset, vector_column),
        method=Method.of(dataset, vector, is_ours=vector_column is not None),
        id=usual(dataset.schema, (ID, *ID_NAMES), lambda kind: is_text(kind) or is_number(kind)),
        text=next(iter(sorted(indexed_texts, key=lambda name: name != TEXT)), None),
    )


def version_of(dataset: lance.LanceDataset, name: str, asked: int | str | None) -> int:
    """The number of the version that is asked for. Raises UsageError if there is no such tag, or none is published."""
    if isinstance(asked, int):
        return asked
    if asked is None:
        version = published(dataset)
        if version is None and MARKER in (dataset.schema.metadata or {}):
            raise UsageError(f"{dataset.uri} was never published: no run has succeeded yet, {name}_runs says why")
        return int(dataset.latest_version) if version is None else version
    tags = dataset.tags.list()
    if asked in tags:
        return int(tags[asked]["version"])
    if asked.isascii() and asked.isdigit():
        return int(asked)
    known = ", ".join(sorted(tags)) or f"none ({PUBLISHED} will be one)"
    raise UsageError(f"--version {asked}: {dataset.uri} has no such tag. Tags: {known}. A number is a version")


def at_version(dataset: lance.LanceDataset, version: int) -> lance.LanceDataset:
    """The dataset at a version. Raises UsageError, which says what exists, if there is no such version.

    Versions share their caches: most of the next night's indexes are in memory already, and each takes no memory anew.
    """
    if version == dataset.version:
        return dataset
    there = open_dataset(dataset.uri, version, dataset.session()) if version > 0 else None
    if there is None:
        versions = in_ranges([each["version"] for each in dataset.versions()])
        raise UsageError(
            f"{dataset.uri}: version {version} does not exist, or was removed. Versions that exist: {versions}"
        )
    return there


def choose_column(dataset: lance.LanceDataset, asked: str | None) -> str:
    """The vector column: the one asked for, else the default, else the only one. Raises UsageError if there is none."""
    if asked is None and MARKER in (dataset.schema.metadata or {}):
        return default_column(dataset)
    found, column = vector_columns(dataset.schema), asked or searched_column(dataset)
    if column is None or column not in found:
        what = f"--column {asked}: no such vector column" if asked else "which vector column? Name it: --column"
        raise UsageError(f"{dataset.uri}: {what}. Vector columns: {', '.join(found) or 'none'}")
    return column


def column_of(dataset: lance.LanceDataset, name: str) -> VectorColumn | None:
    """The column with its encoder; None if it has vectors whose encoder is not known."""
    if MARKER in (dataset.schema.metadata or {}) and name == default_column(dataset):
        return vista_column(dataset, name)
    field = dataset.schema.field(name)
    return VectorColumn.of(dataset.schema, name) if names_encoder(field) else None


def origin_of(dataset: lance.LanceDataset, column: VectorColumn | None) -> Origins:
    """Where the encoder of a column comes from."""
    if column is None:
        return Origins()
    return Origins(column.identity.model, encoder_files(dataset, column))


def is_image(field: pa.Field) -> bool:
    """True for bytes of images, and for bytes that Lance keeps in files of their own."""
    return is_bytes(field.type) and (field.name in IMAGE_NAMES or BLOB in (field.metadata or {}))


def renamed(name: str, names: Sequence[str]) -> str:
    """Another name for a table's column that is named like one of a result's, which none of `names` is."""
    while name in names:
        name = f"{name}_in_table"
    return name
