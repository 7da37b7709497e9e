"""LanceDB tables: opening them, creating them, and looking up rows in one version of a table."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import ID, OBJECT
from pipelines.storage.errors import credentials_hint, is_missing_dataset, without_rust_location
from vista_core import UsageError

STORAGE_VERSION: Final = "2.1"  # writes float16 vectors at four times the speed of 2.0
PUBLISHED = "published"  # tag of the version that readers check out
ADDRESS = "_rowaddr"  # Lance's name for fragment << 32 | row of the fragment
LOOKUP_IDS = 10_000  # ids in one query
# Options for scans of a whole table. Lance's defaults read ahead by 2 GB.
SCAN: Final[dict[str, Any]] = {"batch_size": 16_384, "batch_readahead": 2, "io_buffer_size": 64 << 20}


@dataclass(frozen=True)
class TableVersion:
    """One version of one table, cheap to send to a worker that looks up rows in it."""

    uri: str
    version: int

    def open(self) -> lance.LanceDataset:
        """The dataset, checked out at this version."""
        return open_version(self.uri, self.version)

    def find(self, ids: Sequence[str], names: Sequence[str] = (), nulls_of: Sequence[str] = ()) -> pa.Table:
        """The rows with one of `ids`, in any order: their id, their address, and the columns `names`.

        Of each of the columns `nulls_of` a bool column `is_null_name(name)` says where it is null. Takes memory for the
        rows found, whatever the table's size.
        """
        dataset = self.open()
        fields = [dataset.schema.field(name) for name in (ID, *names)]
        fields += [pa.field(is_null_name(name), pa.bool_()) for name in nulls_of]
        schema = pa.schema([*fields, pa.field(ADDRESS, pa.uint64())])
        columns: Any = [ID, *names]
        if nulls_of:  # as SQL, which is slower
            columns = {name: f"`{name}`" for name in columns}
            columns |= {is_null_name(name): f"`{name}` IS NULL" for name in nulls_of}
        parts = [schema.empty_table()]
        for start in range(0, len(ids) if dataset.count_rows() else 0, LOOKUP_IDS):
            wanted = f"{ID} IN ({', '.join(map(quoted, ids[start : start + LOOKUP_IDS]))})"
            found = dataset.to_table(columns=columns, filter=wanted, with_row_address=True)
            parts.append(found.select(schema.names).cast(schema))
        return pa.concat_tables(parts)

    def find_each(self, ids: Sequence[str], names: Sequence[str] = (), nulls_of: Sequence[str] = ()) -> pa.Table:
        """The same with one row for each id: the job's own, if another client appended rows with the same id."""
        found = self.find(ids, list(dict.fromkeys([*names, OBJECT])), nulls_of)
        if len(pc.unique(found[ID])) < len(found):
            found = found.sort_by([(OBJECT, "ascending"), (ADDRESS, "ascending")])  # nulls come last
            found = found.take(pc.index_in(pc.unique(found[ID]), found[ID]))
        return found.select([ID, *names, *map(is_null_name, nulls_of), ADDRESS])

    def at(self, addresses: Sequence[int], names: Sequence[str]) -> pa.Table:
        """The rows at some addresses. It scans the whole columns, so use it for messages about a few rows only."""
        wanted = f"{ADDRESS} IN ({', '.join(map(str, addresses))})"
        return self.open().to_table(columns=list(names), filter=wanted, with_row_address=True)


def is_null_name(column: str) -> str:
    """The name under which `TableVersion.find` says whether a column is null in a row."""
    return f"{column} is null"


@functools.lru_cache(maxsize=4)
def open_version(uri: str, version: int) -> lance.LanceDataset:
    """The dataset, cached in a worker process because every batch looks up rows in the same version."""
    return lance.dataset(uri, version=version)


def quoted(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def source_of(file: str) -> str:
    """The name of a file's source, which precedes the file's URI as in `NAME#URI`; empty if the source has no name."""
    name, mark, _ = file.partition("#")
    return name if mark and "/" not in name else ""


def without_source(file: str) -> str:
    """The printable URI of a file, without the name of its source."""
    name = source_of(file)
    return file.removeprefix(f"{name}#") if name else file


def table_uri(db: str, name: str) -> str:
    """Where LanceDB keeps the table `name` of the database `db`."""
    return f"{db}/{name}.lance"


def open_dataset(uri: str, version: int | str | None = None, session: Any = None) -> lance.LanceDataset | None:
    """The dataset at `uri`, or None if there is none. Raises UsageError, with the cause, if it can't be read.

    `session` is the `lance.Session` of another version, whose caches of indexes and metadata it then shares.
    """
    try:
        return lance.dataset(uri, version=version, session=session)
    except (ValueError, OSError) as error:
        if is_missing_dataset(error):
            return None
        cause = without_rust_location(str(error))
        raise UsageError(f"--db: {uri} cannot be opened: {cause}. {credentials_hint(uri)}") from error


def ensure_dataset(uri: str, schema: pa.Schema) -> lance.LanceDataset:
    """The dataset at `uri`, which is created without rows if there is none."""
    dataset = open_dataset(uri)
    if dataset is not None:
        return dataset
    try:
        return lance.write_dataset(schema.empty_table(), uri, mode="create", data_storage_version=STORAGE_VERSION)
    except OSError:
        dataset = open_dataset(uri)  # if another first run made it at the same moment
        if dataset is None:
            raise
        return dataset


def holds_nothing(dataset: lance.LanceDataset) -> bool:
    """True if nobody needs what a table is now: it has no rows, and was never published or tagged otherwise."""
    return dataset.count_rows() == 0 and not dataset.tags.list()


def published(dataset: lance.LanceDataset) -> int | None:
    """The version that the tag `published` names; None if nothing is published yet."""
    tag = dataset.tags.list().get(PUBLISHED)
    return None if tag is None else int(tag["version"])
