"""Which fragments are finished: every row has its vector, or a reason why it has none that lasts.

`NAME_backfilled` has a digest of each finished fragment for each column: of the data files that hold the column and
what it is made of. Lance never changes a file, and names none like another. So an entry is true for ever, a fragment
that anybody changed has another digest, and one whose entry is lost is only looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import lance
import pyarrow as pa
import xxhash
from lance.fragment import DataFile

from pipelines.backfill.content import Content
from pipelines.tables.dataset import ensure_dataset, open_dataset
from pipelines.tables.vector_column import VectorColumn

FINISHED_SCHEMA: Final = pa.schema([("digest", pa.string())])


@dataclass(frozen=True)
class Filling:
    """A column that is filled, and what it is filled from."""

    column: VectorColumn
    content: Content
    fields: frozenset[int]  # ids of the fields of its vectors and fingerprints
    content_fields: frozenset[int]  # of the columns that decide what is embedded

    @classmethod
    def of(cls, table: lance.LanceDataset, column: VectorColumn, content: Content, names: Iterable[str]) -> Filling:
        """A column of a table; `names` are the columns that decide what is embedded."""
        own = field_ids(table, (column.name, column.fingerprint))
        return cls(column, content, own, field_ids(table, names))

    def digest(self, files: Sequence[DataFile]) -> str:
        """Of a fragment that has these files."""
        wanted = self.fields | self.content_fields
        paths = sorted(f"{each.base_id} {each.path}" for each in files if not wanted.isdisjoint(each.fields))
        made_by = [self.column.name, self.column.identity.to_json(), self.content.metadata, paths]
        return xxhash.xxh3_128_hexdigest(json.dumps(made_by).encode())


def field_ids(table: lance.LanceDataset, names: Iterable[str]) -> frozenset[int]:
    """The ids of some columns' fields, with those of what they consist of."""
    wanted = set(names)
    found: set[int] = set()
    for field in table.lance_schema.fields():
        if field.name() in wanted:
            found |= ids_of(field)
    return frozenset(found)


def ids_of(field: object) -> set[int]:
    """The ids of a field, and of those that it consists of."""
    return {field.id(), *(number for child in field.children() for number in ids_of(child))}  # type: ignore[attr-defined]


class Finished:
    """The fragments that are finished, as far as `NAME_backfilled` knows. Memory: 100 bytes a fragment and column."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        dataset = open_dataset(uri)
        self.digests: set[str] = set() if dataset is None else set(dataset.to_table()["digest"].to_pylist())

    def add(self, digests: Iterable[str]) -> None:
        """Note finished fragments."""
        if new := sorted(set(digests) - self.digests):
            uri = ensure_dataset(self.uri, FINISHED_SCHEMA).uri
            lance.write_dataset(pa.table([new], schema=FINISHED_SCHEMA), uri, mode="append")
            self.digests |= set(new)

    def prune(self, present: set[str]) -> None:
        """Forget fragments that are gone, if they are more than half."""
        if len(kept := self.digests & present) * 2 < len(self.digests):
            lance.write_dataset(pa.table([sorted(kept)], schema=FINISHED_SCHEMA), self.uri, mode="overwrite")
            self.digests = kept
