"""The LanceDB tables: opening, creating, looking up what is there. A version of a table is the unit of trust."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lance
import pyarrow as pa

from pipelines.records import FINGERPRINT, ID, RUN, VECTOR
from pipelines.sources.objects import credentials_hint
from vista_core import EncoderIdentity, EncoderSettings, UsageError

STORAGE_VERSION: Final = "2.1"  # writes float16 vectors at four times the speed of 2.0
MARKER = b"vista.table"
IDENTITY = b"vista.encoder"  # on the vector's field: what made the vectors, compared on every run
MADE_FROM = b"vista.made_from"  # beside it: the encoder's files and the source's columns, for later runs and search
PUBLISHED = "published"
LOOKUP_IDS = 10_000  # ids in one query


@dataclass(frozen=True)
class Present:
    """Where and as what an id stands in a version of the table."""

    address: int  # fragment id << 32 | row of the fragment
    fingerprint: bytes
    run: str


@dataclass(frozen=True)
class TableVersion:
    """One version of one table: what a worker needs to look rows up in it. Cheap to send."""

    uri: str
    version: int

    def open(self) -> lance.LanceDataset:
        """The dataset, checked out at this version."""
        return open_version(self.uri, self.version)

    def lookup(self, ids: Sequence[str]) -> dict[str, Present]:
        """Those of `ids` that the table holds. Memory is that of `ids`, whatever the table's size."""
        dataset, found = self.open(), {}
        for start in range(0, len(ids), LOOKUP_IDS):
            rows = dataset.to_table(
                columns=[ID, FINGERPRINT, RUN],
                filter=f"{ID} IN ({', '.join(map(quoted, ids[start : start + LOOKUP_IDS]))})",
                with_row_address=True,
            )
            names = (ID, "_rowaddr", FINGERPRINT, RUN)
            for key, *present in zip(*(rows[name].to_pylist() for name in names), strict=True):
                found[key] = Present(*present)
        return found

    def rows(self, ids: Sequence[str], names: Sequence[str]) -> pa.Table:
        """The columns `names` of rows that the table holds, in the order of `ids`."""
        dataset, parts = self.open(), []
        for start in range(0, len(ids), LOOKUP_IDS):
            chunk = ids[start : start + LOOKUP_IDS]
            wanted = f"{ID} IN ({', '.join(map(quoted, chunk))})"
            found = dataset.to_table(columns=[ID, *(name for name in names if name != ID)], filter=wanted)
            places = {key: place for place, key in enumerate(found[ID].to_pylist())}
            parts.append(found.take([places[key] for key in chunk]))
        columns = pa.schema([dataset.schema.field(name) for name in dict.fromkeys((ID, *names))])
        return pa.concat_tables(parts) if parts else columns.empty_table()

    def ids_at(self, addresses: Sequence[int]) -> dict[int, str]:
        """The ids of some rows, by address. Scans the column: for the few rows that something is to be said about."""
        wanted = ", ".join(map(str, addresses))
        rows = self.open().to_table(columns=[ID], filter=f"_rowaddr IN ({wanted})", with_row_address=True)
        return dict(zip(rows["_rowaddr"].to_pylist(), rows[ID].to_pylist(), strict=True))


@functools.lru_cache(maxsize=4)
def open_version(uri: str, version: int) -> lance.LanceDataset:
    """Kept open in a worker, since every batch looks something up in the same version."""
    return lance.dataset(uri, version=version)


def quoted(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def table_uri(db: str, name: str) -> str:
    """Where LanceDB keeps the table `name` of the database `db`."""
    return f"{db}/{name}.lance"


def open_dataset(uri: str, version: int | str | None = None) -> lance.LanceDataset | None:
    """The dataset at `uri`, or None if there is none. Raises UsageError where nothing can be read, with the cause."""
    try:
        return lance.dataset(uri, version=version)
    except (ValueError, OSError) as error:
        if "was not found" in str(error):
            return None
        cause = " ".join(str(error).partition(", /")[0].split())  # without the place in Lance's own source
        raise UsageError(f"--db: {uri} cannot be opened: {cause}. {credentials_hint(uri)}") from error


def ensure_dataset(uri: str, schema: pa.Schema) -> lance.LanceDataset:
    """The dataset at `uri`, created empty with `schema` where there is none."""
    dataset = open_dataset(uri)
    if dataset is not None:
        return dataset
    return lance.write_dataset(schema.empty_table(), uri, mode="create", data_storage_version=STORAGE_VERSION)


def new_table_schema(schema: pa.Schema, identity: EncoderIdentity, made_from: dict[str, Any]) -> pa.Schema:
    """`schema` marked as vista's, its vector column stamped with the encoder that fills it."""
    stamp = {IDENTITY: identity.to_json().encode(), MADE_FROM: json.dumps(made_from).encode()}
    at = schema.get_field_index(VECTOR)
    return schema.set(at, schema.field(at).with_metadata(stamp)).with_metadata({MARKER: b"1"})


def stored_identity(dataset: lance.LanceDataset) -> EncoderIdentity:
    """The encoder that the vector column was filled by. Raises UsageError for a table that vista didn't make."""
    names = dataset.schema.names
    stamp = (dataset.schema.field(VECTOR).metadata or {}).get(IDENTITY) if VECTOR in names else None
    if MARKER not in (dataset.schema.metadata or {}) or stamp is None:
        raise UsageError(
            f"{dataset.uri} was not made by this job, so it is not embedded into: choose another --table. "
            "(A vector column on a table of yours is what jobs/backfill.py is for.)"
        )
    return EncoderIdentity.from_json(stamp.decode())


def made_from(dataset: lance.LanceDataset) -> dict[str, Any]:
    """What the run that made the table had: `model`, `weights`, `from_pretrained`, and `columns` of the source."""
    stored_identity(dataset)  # raises for a table of somebody else
    return json.loads(dataset.schema.field(VECTOR).metadata[MADE_FROM])


def as_column(settings: EncoderSettings, column: EncoderIdentity) -> EncoderSettings:
    """`settings` computing in the way the column was filled: its precision, its alpha, its limits on length."""
    return dataclasses.replace(settings, dtype=column.dtype, alpha=column.alpha, max_tokens=max(column.max_tokens))


def index_ids(dataset: lance.LanceDataset) -> lance.LanceDataset:
    """Build the index on `id`, or bring it up to date; without one each lookup scans the whole column."""
    if dataset.count_rows() == 0:
        return dataset
    name = f"{ID}_idx"
    if name not in [index.name for index in dataset.describe_indices()]:
        dataset.create_scalar_index(ID, "BTREE", name=name)
    elif unindexed_rows(dataset, name):
        dataset.optimize.optimize_indices(index_names=[name])
    return lance.dataset(dataset.uri)


def unindexed_rows(dataset: lance.LanceDataset, index: str) -> int:
    """Rows that `index` doesn't cover yet."""
    return int(dataset.stats.index_stats(index)["num_unindexed_rows"])


def published(dataset: lance.LanceDataset) -> int | None:
    """The version that readers are told to check out."""
    tag = dataset.tags.list().get(PUBLISHED)
    return None if tag is None else int(tag["version"])


def publish(dataset: lance.LanceDataset) -> None:
    """Move the tag `published` to this version."""
    move = dataset.tags.create if published(dataset) is None else dataset.tags.update
    move(PUBLISHED, dataset.version)


def fragments_json(fragments: Iterable[lance.FragmentMetadata]) -> list[str]:
    """Fragment metadata as text, which travels between processes and versions of Python."""
    return [json.dumps(fragment.to_json()) for fragment in fragments]
