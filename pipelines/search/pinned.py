"""A table as a search sees it: one version, with the columns, the indexes and the origin that it has there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from pipelines.tables.origin import MADE_FROM, MARKER, Origin, vista_column
from pipelines.tables.publish import in_ranges
from pipelines.tables.vector_column import DEFAULT, VectorColumn, fingerprint_column, names_encoder
from vista_core import UsageError

SCORE: Final = "score"
OWN: Final = (ID, SCORE)  # columns of results; a table's own columns of these names are renamed
TEXT_INDEX: Final = "Inverted"  # Lance's name for the type of a full-text index
BLOB: Final = b"lance-encoding:blob"  # metadata of a column whose bytes Lance reads in another way
DISTANCES: Final = {"_distance", "_score"}  # the names of what Lance's searches add to the table's columns


@dataclass(frozen=True)
class Origins:
    """Where a table's encoder comes from, as far as the table says."""

    model: str | None = None
    weights: str | None = None
    from_pretrained: str | None = None


@dataclass(frozen=True)
class PinnedTable:
    """One version of a table, and what a search needs to know of it."""

    name: str  # for messages
    dataset: lance.LanceDataset
    asked: int | str | None  # the version or tag that was asked for; None: the one that is published
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
        vectors = {field.name for field in schema if is_vector(field.type)}
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


def open_table(db: str, table: str, column: str | None, version: int | str | None) -> PinnedTable:
    """The table at a version, by number or tag; None: the published one or, of a table that vista didn't make and
    nobody published, the latest.

    Raises UsageError if there is no such table, version or vector column.
    """
    db = absolute(db)
    dataset = open_dataset(table_uri(db, table))
    if dataset is None:
        raise UsageError(f"there is no table {table} in {db}")
    return pin(at_version(dataset, version_of(dataset, table, version)), table, column, version)


def pin(dataset: lance.LanceDataset, name: str, column: str | None, asked: int | str | None) -> PinnedTable:
    """What a search needs to know of a version of a table. Raises UsageError if it can't be searched."""
    if clash := DISTANCES.intersection(dataset.schema.names):
        raise UsageError(
            f"{dataset.uri} has a column `{clash.pop()}`, which is what Lance calls a column of its own. Rename it"
        )
    vector = choose_column(dataset, column)
    vector_column = column_of(dataset, vector)
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
    """The vector column: the one asked for, else `vector`, else the only one. Raises UsageError if there is none."""
    found = [field.name for field in dataset.schema if is_vector(field.type)]
    if asked is None and (DEFAULT in found or MARKER in (dataset.schema.metadata or {})):
        return DEFAULT
    if asked is None and len(found) == 1:
        return found[0]
    if asked is None or asked not in found:
        what = f"--column {asked}: no such vector column" if asked else "which vector column? Name it: --column"
        raise UsageError(f"{dataset.uri}: {what}. Vector columns: {', '.join(found) or 'none'}")
    return asked


def column_of(dataset: lance.LanceDataset, name: str) -> VectorColumn | None:
    """The column with its encoder; None if it has vectors whose encoder is not known."""
    if MARKER in (dataset.schema.metadata or {}) and name == DEFAULT:
        return vista_column(dataset, name)
    field = dataset.schema.field(name)
    return VectorColumn.of(dataset.schema, name) if names_encoder(field) else None


def origin_of(dataset: lance.LanceDataset, column: VectorColumn | None) -> Origins:
    """Where the encoder of a column comes from."""
    if column is None:
        return Origins()
    if MADE_FROM in (dataset.schema.metadata or {}):
        made_by = Origin.of(dataset)
        if made_by.model == column.identity.model:
            return Origins(made_by.model, made_by.weights, made_by.from_pretrained)
    return Origins(column.identity.model)


def is_image(field: pa.Field) -> bool:
    """True for bytes of images, and for bytes that Lance keeps in files of their own."""
    return is_bytes(field.type) and (field.name in IMAGE_NAMES or BLOB in (field.metadata or {}))


def renamed(name: str, names: Sequence[str]) -> str:
    """Another name for a table's column that is named like one of a result's, which none of `names` is."""
    while name in names:
        name = f"{name}_in_table"
    return name


def is_vector(kind: pa.DataType) -> bool:
    """True for vectors of floats, all of one length."""
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))
