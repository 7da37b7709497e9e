"""A Lance dataset, in which LanceDB stores a table. A unit is a fragment of one version of it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import lance
import pyarrow as pa
import xxhash

from pipelines.sources.columns import Batch
from pipelines.sources.limits import Limits
from pipelines.sources.units import FilePart
from pipelines.storage.errors import (
    SourceError,
    credentials_hint,
    lance_store_failed,
    says_not_found,
    unreachable,
    without_rust_location,
)
from pipelines.storage.files import SourceFile
from pipelines.tables.dataset import PUBLISHED
from vista_core import UsageError

FIRST_ROWS = range(16, 65)  # in a fragment's first batch, whose size decides how many the next one has
GROWTH = 4  # from a batch to the next at most, since later rows may be larger
CACHE_BYTES = 64 << 20  # of metadata of files in a worker, instead of Lance's default of a gigabyte


@dataclass(frozen=True, kw_only=True)
class Fragment(FilePart):
    """A fragment of the version `version` of a Lance dataset, whose name as a file is `URI#NUMBER`."""

    fragment: int  # its number


@dataclass(frozen=True)
class LanceTable:
    """The fragments of one version of a Lance dataset."""

    uri: str
    limits: Limits
    version: int
    is_published: bool  # False if the version was the latest, since none is tagged `published`
    schema: pa.Schema
    chosen: Container[str] | None = None  # the fragments to read; all of them if None
    exact: ClassVar[bool] = True
    differences: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def open(cls, uri: str, limits: Limits) -> LanceTable:
        """Pin the version tagged `published`, else the latest. Raises UsageError if there is no table."""
        try:
            is_published = PUBLISHED in lance.dataset(uri).tags.list()
            dataset = lance.dataset(uri, version=PUBLISHED if is_published else None)
            schema = dataset.scanner(blob_handling="all_binary").projected_schema
        except (ValueError, OSError) as error:
            missing = f"no Lance table is there. {credentials_hint(uri)}"
            cause = missing if says_not_found(error) else unreachable(error, uri)
            raise UsageError(f"--source {uri}: cannot be opened: {cause}") from error
        return cls(uri, limits, dataset.version, is_published, schema)

    def files(self) -> dict[str, SourceFile]:
        """The fragments. A fragment's version is a hash of its metadata, so that it changes with files and deletions.

        It does not change from one version of the table to the next.
        """
        found = {}
        for fragment in self.fragments():
            size = stored_bytes(fragment)
            version = xxhash.xxh3_128_hexdigest(json.dumps(fragment.metadata.to_json()).encode())
            found[self.name(fragment)] = SourceFile(self.name(fragment), size, version)
        return found

    def name(self, fragment: lance.LanceFragment) -> str:
        """The name of a fragment as a source file."""
        return f"{self.uri}#{fragment.fragment_id}"

    def fragments(self) -> list[lance.LanceFragment]:
        """The fragments to read, in the order of their numbers."""
        every = open_version(self.uri, self.version).get_fragments()
        chosen = [each for each in every if self.chosen is None or self.name(each) in self.chosen]
        return sorted(chosen, key=lambda fragment: fragment.fragment_id)

    def only(self, names: Container[str]) -> LanceTable:
        """The same with only these fragments."""
        return dataclasses.replace(self, chosen=names)

    def without_listing(self) -> LanceTable:
        """The same without the choice of fragments, which a worker doesn't need."""
        return dataclasses.replace(self, chosen=None)

    def describe(self) -> str:
        """Which version it is, and how many fragments and rows that has."""
        dataset = open_version(self.uri, self.version)
        return (
            f"Lance table at version {self.version} ({'published' if self.is_published else 'the latest'}), "
            f"{len(dataset.get_fragments()):,} fragment(s), {dataset.count_rows():,} rows"
        )

    def units(self) -> list[Fragment]:
        """A unit for each fragment, all of the same version."""
        return [
            Fragment(
                uris=(self.name(fragment),),
                version=str(self.version),
                rows=fragment.count_rows(),
                fragment=fragment.fragment_id,
            )
            for fragment in self.fragments()
        ]

    def batches(self, unit: Fragment, names: Sequence[str]) -> Iterator[Batch]:
        """The fragment's columns `names`. Deleted rows are neither read nor counted in row numbers."""
        row = 0
        try:
            fragment = open_version(self.uri, int(unit.version)).get_fragment(unit.fragment)
            if fragment is None:
                raise ValueError(f"Not found: fragment {unit.fragment}")
            rows = first_rows(unit.rows, stored_bytes(fragment), self.limits)
            while row < unit.rows:
                # A scan for each batch: a single scan prefetches many batches regardless of its readahead settings.
                part = fragment.to_table(columns=list(names), limit=rows, offset=row, blob_handling="all_binary")
                if not len(part):
                    return
                yield Batch(part, range(row, row + len(part)), {})
                row, rows = row + len(part), next_rows(part, self.limits)
        except (ValueError, OSError) as error:
            raise read_error(unit, error) from error


def read_error(unit: FilePart, error: Exception) -> SourceError | pa.ArrowInvalid:
    """What an error of Lance means: that the table's store failed, or that the fragment is damaged."""
    message = without_rust_location(str(error))
    if not lance_store_failed(error):
        return pa.ArrowInvalid(message)
    return SourceError(
        f"{unit.uri} at version {unit.version}: {message}. Either the version was cleaned up while the run read it, or "
        f"the store failed; run the same command again. {credentials_hint(unit.uri)}"
    )


@functools.lru_cache(maxsize=2)
def open_version(uri: str, version: int) -> lance.LanceDataset:
    """A version of a dataset, kept open in a worker since many units are of the same version."""
    return lance.dataset(uri, version=version, metadata_cache_size_bytes=CACHE_BYTES)


def stored_bytes(fragment: lance.LanceFragment) -> int:
    """The size of a fragment's files, as far as the table says it."""
    return sum(file.file_size_bytes or 0 for file in fragment.metadata.files)


def first_rows(rows: int, stored: int, limits: Limits) -> int:
    """How many rows to read first of a fragment of `rows` rows in `stored` bytes: few, since they may be compressed."""
    by_size = limits.batch_bytes * rows // stored if stored else 0
    return max(FIRST_ROWS[0], min(limits.batch_rows, FIRST_ROWS[-1], by_size))


def next_rows(part: pa.Table, limits: Limits) -> int:
    """How many rows to read after `part` to stay within the limits, if they are as large as those of `part`."""
    by_size = limits.batch_bytes * len(part) // max(1, part.nbytes)
    return max(FIRST_ROWS[0], min(limits.batch_rows, GROWTH * len(part), by_size))
