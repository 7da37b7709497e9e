"""Parquet files. A unit is a row group, streamed in batches of bounded size."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import Batch
from pipelines.sources.objects import READ_ERRORS, Listing, SourceObject, is_damage, open_unchanged
from vista_core import UsageError

BATCH_BYTES = 32 << 20  # of encoded images at once in a worker
BATCH_ROWS = 4096
FOOTER_THREADS = 16


@dataclass(frozen=True)
class Parquet:
    """The row groups of some Parquet files."""

    listing: Listing
    schema: pa.Schema  # of the first file; the others are read as if they had it
    exact: bool = True

    @classmethod
    def open(cls, listing: Listing) -> Parquet:
        """Read the first readable footer. Raises UsageError if there is none."""
        return cls(listing, first_schema(listing))

    def objects(self) -> dict[str, SourceObject]:
        """The files listed."""
        return self.listing.by_name()

    def only(self, names: Container[str]) -> Parquet:
        """The same, of which only these files are read."""
        return dataclasses.replace(self, listing=self.listing.named(names))

    def without_listing(self) -> Parquet:
        """What a worker needs to read a unit."""
        return dataclasses.replace(self, listing=self.listing.emptied())

    def describe(self) -> str:
        """What was found."""
        return f"{len(self.listing.objects):,} Parquet file(s), {self.listing.megabytes:,.2f} MB"

    def units(self) -> list[dict]:
        """A unit a row group; a file whose footer can't be read is one unit that says so."""
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            return [unit for units in pool.map(file_units, self.listing.objects) for unit in units]

    def batches(self, unit: dict, names: Sequence[str]) -> Iterator[Batch]:
        """The row group's columns `names`, those that the file has."""
        row = unit["first_row"]
        with open_unchanged(unit["object"], unit["version"]) as handle:
            file = pq.ParquetFile(handle, buffer_size=8 << 20)
            here = [name for name in file.schema_arrow.names if name in names]
            for batch in file.iter_batches(unit["batch_rows"], row_groups=[unit["index"]], columns=here):
                yield Batch(pa.table(batch), range(row, row + len(batch)), {})
                row += len(batch)


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
