"""A Lance dataset, as which LanceDB keeps a table. A unit is a fragment of one version, streamed in bounded batches."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa
import xxhash

from pipelines.sink.table import PUBLISHED
from pipelines.sources.arrow import BATCH_BYTES, BATCH_ROWS, as_stored, stored_schema
from pipelines.sources.columns import Batch
from pipelines.sources.objects import SourceError, SourceObject, credentials_hint
from vista_core import UsageError

FIRST_ROWS = 16  # of a fragment, by which the size of the next batch is chosen
GROWTH = 4  # of a batch to the next at most, since later rows may be larger
CACHE_BYTES = 64 << 20  # of files' metadata in a worker; a gigabyte otherwise

# pylance raises one exception for all that befalls a file; only the message says what it was.
STORE_FAILED = re.compile(r"Not found: |Generic \S+ error|The operation lacked")
# Of a file that was cut off, or by an address that is damaged.
BEYOND_THE_END = re.compile(r"416 Range Not Satisfiable|Invalid range \d|failed to fill whole buffer|os error 22\b")
RUST_SOURCE = re.compile(r", /\S+\.rs:\d+:\d+")


@dataclass(frozen=True)
class LanceTable:
    """The fragments of one version of a Lance dataset."""

    uri: str
    version: int
    tagged: bool  # as published, or else it was the latest
    schema: pa.Schema
    exact: bool = True
    chosen: Container[str] | None = None  # the fragments to read; all of them if None

    @classmethod
    def open(cls, uri: str) -> LanceTable:
        """Pin the version tagged `published`, or the latest where none is. Raises UsageError if there is no table."""
        try:
            tagged = PUBLISHED in lance.dataset(uri).tags.list()
            dataset = lance.dataset(uri, version=PUBLISHED if tagged else None)
            schema = dataset.scanner(blob_handling="all_binary").projected_schema
        except (ValueError, OSError) as error:
            cause = "no Lance table is there" if "not found: " in str(error).lower() else without_source(error)
            raise UsageError(f"--source {uri}: cannot be opened: {cause}. {credentials_hint(uri)}") from error
        return cls(uri, dataset.version, tagged, stored_schema(schema))

    def objects(self) -> dict[str, SourceObject]:
        """The fragments; a version of one is its files, deletions among them, whichever version of the table it is."""
        found = {}
        for fragment in self.fragments():
            size = sum(file.file_size_bytes or 0 for file in fragment.metadata.files)
            version = xxhash.xxh3_128_hexdigest(json.dumps(fragment.metadata.to_json()).encode())
            found[self.name(fragment)] = SourceObject(self.name(fragment), size, version)
        return found

    def name(self, fragment: lance.LanceFragment) -> str:
        """The name of a fragment as an object."""
        return f"{self.uri}#{fragment.fragment_id}"

    def fragments(self) -> list[lance.LanceFragment]:
        """The fragments to read."""
        every = open_version(self.uri, self.version).get_fragments()
        return [each for each in every if self.chosen is None or self.name(each) in self.chosen]

    def only(self, names: Container[str]) -> LanceTable:
        """The same, of which only these fragments are read."""
        return dataclasses.replace(self, chosen=names)

    def without_listing(self) -> LanceTable:
        """What a worker needs to read a unit: all of this but the choice of fragments."""
        return dataclasses.replace(self, chosen=None)

    def describe(self) -> str:
        """What was found."""
        dataset = open_version(self.uri, self.version)
        return (
            f"Lance table at version {self.version} ({'published' if self.tagged else 'the latest'}), "
            f"{len(dataset.get_fragments()):,} fragment(s), {dataset.count_rows():,} rows"
        )

    def units(self) -> list[dict]:
        """A unit a fragment; all of the version that was pinned."""
        return [
            {
                "object": self.name(fragment),
                "version": str(self.version),
                "rows": fragment.count_rows(),
                "first_row": 0,
                "error": "",
                "fragment": fragment.fragment_id,
            }
            for fragment in self.fragments()
        ]

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The fragment's columns `names`; rows are numbered without those that were deleted."""
        row, rows = 0, FIRST_ROWS
        try:
            fragment = open_version(self.uri, int(unit["version"])).get_fragment(unit["fragment"])
            if fragment is None:
                raise ValueError(f"Not found: fragment {unit['fragment']}")
            while row < unit["rows"]:
                # A scan of its own for each batch: one scan of all decodes many batches ahead, however it is told.
                part = fragment.to_table(columns=list(names), limit=rows, offset=row, blob_handling="all_binary")
                if not len(part):
                    return
                yield Batch(as_stored(part), range(row, row + len(part)), {})
                row, rows = row + len(part), next_rows(part)
        except (ValueError, OSError) as error:
            message = without_source(error)
            if STORE_FAILED.search(message) and not BEYOND_THE_END.search(message):
                raise SourceError(
                    f"{unit['object']} at version {unit['version']}: {message}. It may have been cleaned up meanwhile, "
                    f"or the store failed; run the same command again. {credentials_hint(self.uri)}"
                ) from error
            raise pa.ArrowInvalid(message) from error


@functools.lru_cache(maxsize=2)
def open_version(uri: str, version: int) -> lance.LanceDataset:
    """Kept open in a worker, since many units are of the same version."""
    return lance.dataset(uri, version=version, metadata_cache_size_bytes=CACHE_BYTES)


def next_rows(part: pa.Table) -> int:
    """How many rows to read after `part`, so that they are 32 MB if they are like it: 16 to 4096."""
    return max(FIRST_ROWS, min(BATCH_ROWS, GROWTH * len(part), BATCH_BYTES * len(part) // max(1, part.nbytes)))


def without_source(error: Exception) -> str:
    """What pylance says, less the places in its own source."""
    return RUST_SOURCE.sub("", str(error))
