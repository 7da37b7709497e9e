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

from pipelines.records import ID, VECTOR
from pipelines.sources.objects import credentials_hint
from vista_core import EncoderIdentity, EncoderSettings, UsageError
from vista_core.image import PREPROCESSING_VERSIONS

STORAGE_VERSION: Final = "2.1"  # writes float16 vectors at four times the speed of 2.0
MARKER = b"vista.table"
IDENTITY = b"vista.encoder"  # on the vector's field: what made the vectors, compared on every run
SINCE = b"vista.since"  # beside it: the run that began to re-embed; rows of earlier runs have another encoder's vectors
MADE_FROM = b"vista.made_from"  # on the schema: the encoder's files and the source's columns, for later runs and search
PUBLISHED = "published"
ADDRESS = "_rowaddr"
LOOKUP_IDS = 10_000  # ids in one query
# For scans of a whole table: Lance by itself reads ahead by 2 GB.
SCAN: Final[dict[str, Any]] = {"batch_size": 16_384, "batch_readahead": 2, "io_buffer_size": 64 << 20}


@dataclass(frozen=True)
class TableVersion:
    """One version of one table: what a worker needs to look rows up in it. Cheap to send."""

    uri: str
    version: int

    def open(self) -> lance.LanceDataset:
        """The dataset, checked out at this version."""
        return open_version(self.uri, self.version)

    def find(self, ids: Sequence[str], names: Sequence[str] = ()) -> pa.Table:
        """The rows with one of `ids`, in any order: id, ADDRESS (fragment << 32 | row of the fragment), and `names`.

        Memory is that of the rows found, whatever the table's size.
        """
        dataset = self.open()
        schema = pa.schema([*(dataset.schema.field(name) for name in (ID, *names)), pa.field(ADDRESS, pa.uint64())])
        parts = [schema.empty_table()]
        for start in range(0, len(ids) if dataset.count_rows() else 0, LOOKUP_IDS):
            wanted = f"{ID} IN ({', '.join(map(quoted, ids[start : start + LOOKUP_IDS]))})"
            found = dataset.to_table(columns=[ID, *names], filter=wanted, with_row_address=True)
            parts.append(found.select(schema.names).cast(schema))
        return pa.concat_tables(parts)

    def at(self, addresses: Sequence[int], names: Sequence[str]) -> pa.Table:
        """The rows at some addresses. Scans the columns: for the few rows that something is to be said about."""
        wanted = f"{ADDRESS} IN ({', '.join(map(str, addresses))})"
        return self.open().to_table(columns=list(names), filter=wanted, with_row_address=True)


@functools.lru_cache(maxsize=4)
def open_version(uri: str, version: int) -> lance.LanceDataset:
    """Kept open in a worker, since every batch looks something up in the same version."""
    return lance.dataset(uri, version=version)


def quoted(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def source_of(source_object: str) -> str:
    """The name of the source that an object belongs to, which stands before it: NAME#URI; empty where it has none."""
    name, mark, _ = source_object.partition("#")
    return name if mark and "/" not in name else ""


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
    at = schema.get_field_index(VECTOR)
    vector = schema.field(at).with_metadata({IDENTITY: identity.to_json().encode()})
    return schema.set(at, vector).with_metadata({MARKER: b"1", MADE_FROM: json.dumps(made_from).encode()})


def stored_identity(dataset: lance.LanceDataset) -> EncoderIdentity:
    """The encoder that the vector column is filled by. Raises UsageError for a table that vista didn't make."""
    made_from(dataset)  # raises for a table of somebody else
    if VECTOR not in dataset.schema.names:
        raise UsageError(
            f"{dataset.uri}: a run with --reembed ended while it replaced the column `vector`; run that command again"
        )
    return identity_in(dataset.schema)


def identity_in(schema: pa.Schema) -> EncoderIdentity:
    """The encoder that a schema names."""
    return EncoderIdentity.from_json(schema.field(VECTOR).metadata[IDENTITY].decode())


def made_from(dataset: lance.LanceDataset) -> dict[str, Any]:
    """What the run that made the table had: `model`, `weights`, `from_pretrained`, and `columns` of the source."""
    metadata = dataset.schema.metadata or {}
    if MARKER not in metadata:
        raise UsageError(
            f"{dataset.uri} was not made by this job, so it is not embedded into: choose another --table. "
            "(A vector column on a table of yours is what jobs/backfill.py is for.)"
        )
    return json.loads(metadata[MADE_FROM])


def as_column(settings: EncoderSettings, column: EncoderIdentity) -> EncoderSettings:
    """`settings` computing in the way the column was filled: its precision, pixels, and limits on length."""
    resize = next((name for name, version in PREPROCESSING_VERSIONS.items() if version == column.preprocessing), "fast")
    return dataclasses.replace(
        settings, dtype=column.dtype, alpha=column.alpha, resize=resize, max_tokens=max(column.max_tokens)
    )


def since(schema: pa.Schema) -> str:
    """The first run whose vectors are all of the stored encoder; empty where no column was ever replaced."""
    return (schema.field(VECTOR).metadata or {}).get(SINCE, b"").decode() if VECTOR in schema.names else ""


def index_ids(uri: str) -> None:
    """Build the index on `id`, or bring it up to date; without one each lookup scans the whole column."""
    dataset = lance.dataset(uri)
    if f"{ID}_idx" in [index.name for index in dataset.describe_indices()]:
        dataset.optimize.optimize_indices(index_names=[f"{ID}_idx"])
    elif dataset.count_rows():
        dataset.create_scalar_index(ID, "BTREE", name=f"{ID}_idx")


def lacks_ids(dataset: lance.LanceDataset) -> bool:
    """Whether the index on `id` doesn't cover all rows."""
    if f"{ID}_idx" in [index.name for index in dataset.describe_indices()]:
        return unindexed_rows(dataset, f"{ID}_idx") > 0
    return dataset.count_rows() > 0


def unindexed_rows(dataset: lance.LanceDataset, index: str) -> int:
    """Rows that `index` doesn't cover yet."""
    return int(dataset.stats.index_stats(index)["num_unindexed_rows"])


def published(dataset: lance.LanceDataset) -> int | None:
    """The version that readers are told to check out."""
    tag = dataset.tags.list().get(PUBLISHED)
    return None if tag is None else int(tag["version"])


def fragments_json(fragments: Iterable[lance.FragmentMetadata]) -> list[str]:
    """Fragment metadata as text, which travels between processes and versions of Python."""
    return [json.dumps(fragment.to_json()) for fragment in fragments]
