"""Drop a vector column of a table with its fingerprints and indexes. It needs neither Ray nor the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import lance

from pipelines.events import Publishing
from pipelines.options import NAME, check_options
from pipelines.records import FINGERPRINT_TYPE
from pipelines.storage.uris import absolute
from pipelines.tables.beside_vectors import published_alike
from pipelines.tables.column_size import ColumnSize, column_size
from pipelines.tables.dataset import open_dataset, published
from pipelines.tables.default_column import default_column, searched_column
from pipelines.tables.origin import follow_default_column
from pipelines.tables.publish import publish
from pipelines.tables.recorded import Recorded, open_existing, recorded
from pipelines.tables.search_setting import drop_settings, vector_indexes
from pipelines.tables.vector_column import fingerprint_column, names_encoder, vector_columns
from vista_core import UsageError


@dataclass(frozen=True)
class DropConfig:
    """Drop the vector column --column of --db/--table, its fingerprints and its indexes. Changes no row. If the table
    is published, so is the new version.

    Exit code: 0 done, 1 failed, 2 bad usage.
    """

    db: str
    """Where the LanceDB tables are: a folder or an s3:// URI."""
    table: Annotated[str, NAME]
    """Name of the table."""
    column: str
    """The vector column; not the default one, which searches need."""
    take_over: bool = False
    """Begin although another run holds the table, because that run is dead."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't work."""
        check_options(self)


@dataclass(frozen=True)
class Dropped:
    """The result of a drop."""

    uri: str
    columns: list[str]
    indexes: list[str]
    size: ColumnSize
    version: int  # that readers see
    is_published: bool  # False for a table that was never published: readers open the latest version
    keeping: dict[str, int]  # tags of versions that still have the column

    def __str__(self) -> str:
        """What was done, what it frees, and when."""
        names = ", ".join(f"`{name}`" for name in self.columns)
        indexes = f" and its indexes {', '.join(self.indexes)}" if self.indexes else ""
        place = "the published version" if self.is_published else "the latest version"
        tags = ", ".join(f"{tag} ({version})" for tag, version in self.keeping.items())
        kept = f"those with a tag stay until it moves or is deleted: {tags}; others" if tags else "these"
        return (
            f"dropped {names}{indexes} from {self.uri}: {place}, {self.version}, is without\n"
            f"to be freed: {self.size}\n"
            f"versions that still have the column keep this until they are removed: {kept} are removed by "
            "`vista embed` when they are older than --retention-days"
        )


def drop(config: DropConfig) -> Dropped:
    """Drop a vector column, for all readers at once. Holds the lease meanwhile, like a rollback.

    Whatever ended it, the same command finishes it. Raises UsageError if there is no such table or vector column, if
    the column is the default one, or if rows of the table wait to be published; LeaseHeldError if another run holds the
    table.
    """
    seen, name = open_existing(absolute(config.db), config.table), config.column
    holding = holder_of_column(seen, name)
    require_droppable(seen, name)
    columns, indexes = parts_of(holding, name), indexes_on(holding, parts_of(holding, name))
    size = column_size(holding, columns)
    with recorded(seen, {"drop_column": name}, config.take_over) as run:
        version = drop_from(run, name)
    return Dropped(
        uri=seen.uri,
        columns=columns,
        indexes=indexes,
        size=size,
        version=version,
        is_published=published(seen) is not None,
        keeping=tags_with(seen, name),
    )


def holder_of_column(table: lance.LanceDataset, name: str) -> lance.LanceDataset:
    """The version that has the column: the latest or, if a drop was not finished, the published one.

    Raises UsageError if there is no such column of vectors.
    """
    now = published(table)
    for version in (table, None if now is None else lance.dataset(table.uri, version=now)):
        if version is not None and name in vector_columns(version.schema):
            return version
    found = ", ".join(vector_columns(table.schema)) or "none"
    if name in table.schema.names:
        raise UsageError(
            f"--column {name}: that is no vector column of {table.uri}. Vector columns: {found}. LanceDB's "
            "`drop_columns` drops any other"
        )
    raise UsageError(f"--column {name}: {table.uri} has no such vector column. Vector columns: {found}")


def require_droppable(table: lance.LanceDataset, name: str) -> None:
    """Raise UsageError, with the cure, if the latest or the published version is searched by the column."""
    now = published(table)
    versions = [table] if now is None else [table, lance.dataset(table.uri, version=now)]
    for version in versions:
        if name in (default_column(version), searched_column(version)):
            raise UsageError(
                f"--column {name}: that is the default column of {version.uri}, version {version.version}, which "
                "searches need. Make another one the default first: `vista switch`"
            )


def parts_of(table: lance.LanceDataset, name: str) -> list[str]:
    """The column and, if it is vista's and has one, its fingerprint column."""
    fingerprint, schema = fingerprint_column(name), table.schema
    has = names_encoder(schema.field(name)) and fingerprint in schema.names
    return [name, fingerprint] if has and schema.field(fingerprint).type == FINGERPRINT_TYPE else [name]


def indexes_on(table: lance.LanceDataset, columns: list[str]) -> list[str]:
    """The names of the indexes that go with some columns."""
    return [each.name for each in table.describe_indices() if set(each.field_names) <= set(columns)]


def drop_from(run: Recorded, name: str) -> int:
    """Drop the column, publish that if the table is published, and return the version that readers see."""
    latest = lance.dataset(run.table.uri)
    holder_of_column(latest, name)
    require_droppable(latest, name)
    before = published_alike(latest)
    if name in latest.schema.names:
        columns = parts_of(latest, name)
        latest = drop_settings(latest, vector_indexes(latest, name))
        run.lease.check(lance.dataset(latest.uri))
        latest.drop_columns(columns)  # in one step with the indexes
    latest = follow_default_column(latest.uri)
    if before is None:
        return int(latest.version)
    published_alike(latest)  # once more: other writers may have come in between
    run.events.report(Publishing(latest.version))
    publish(latest, run.lease, run.events)
    return int(latest.version)


def tags_with(table: lance.LanceDataset, name: str) -> dict[str, int]:
    """The tags of versions that have a column."""
    found = {tag: int(each["version"]) for tag, each in table.tags.list().items()}
    versions = {number: open_dataset(table.uri, number, table.session()) for number in set(found.values())}
    having = {number for number, version in versions.items() if version is not None and name in version.schema.names}
    return {tag: number for tag, number in found.items() if number in having}
