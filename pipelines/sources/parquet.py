"""Parquet files. A unit is a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import Batch
from pipelines.sources.format import FileFormat, first_readable, units_of
from pipelines.sources.limits import Limits
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage
from pipelines.storage.files import Listing, SourceFile, open_unchanged

FEWEST_ROWS = 16  # in a batch, however large they are


@dataclass(frozen=True, kw_only=True)
class RowGroup(FilePart):
    """A row group of a Parquet file."""

    index: int  # in the file
    batch_rows: int  # how many rows make a batch of bounded size


@dataclass(frozen=True)
class Parquet(FileFormat):
    """The row groups of Parquet files. All files are read with the schema of the first one."""

    exact: ClassVar[bool] = True

    @classmethod
    def open(cls, listing: Listing, limits: Limits) -> Parquet:
        """Read the first readable footer. Raises UsageError if there is none."""
        return cls(listing, limits, first_readable(listing, "Parquet file", schema_of))

    def describe(self) -> str:
        """How many files there are, and their size."""
        return self.summary("Parquet file")

    def units(self) -> list[FilePart]:
        """A unit for each row group; a file whose footer can't be read is one unit with the error."""
        return units_of(self.listing, partial(file_units, limits=self.limits))

    def batches(self, unit: RowGroup, names: Sequence[str]) -> Iterator[Batch]:
        """The row group's columns `names`, as far as the file has them."""
        row = unit.first_row
        with open_unchanged(unit.uri, unit.version) as handle:
            file = pq.ParquetFile(handle, buffer_size=self.limits.read_bytes)
            here = [name for name in file.schema_arrow.names if name in names]
            for batch in file.iter_batches(unit.batch_rows, row_groups=[unit.index], columns=here):
                yield Batch(pa.table(batch), range(row, row + len(batch)), {})
                row += len(batch)


def schema_of(file: SourceFile) -> pa.Schema:
    """The schema in a file's footer."""
    with open_unchanged(file.uri, file.version) as handle:
        return pq.read_schema(handle)


def file_units(file: SourceFile, limits: Limits) -> list[FilePart]:
    """The row groups of one file that have rows."""
    try:
        with open_unchanged(file.uri, file.version) as handle:
            metadata = pq.read_metadata(handle)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if sum(group.num_rows for group in groups) != metadata.num_rows:
            raise pa.ArrowInvalid("its numbers of rows contradict each other")
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        message = f"the Parquet footer cannot be read: {error}"
        return [FilePart(uris=(file.uri,), version=file.version, rows=1, error=message)]
    units: list[FilePart] = []
    first_row = 0
    for index, group in enumerate(groups):
        if group.num_rows:
            bytes_per_row = max(1, group.total_byte_size // group.num_rows)
            unit = RowGroup(
                uris=(file.uri,),
                version=file.version,
                rows=group.num_rows,
                first_row=first_row,
                index=index,
                batch_rows=max(FEWEST_ROWS, min(limits.batch_rows, limits.batch_bytes // bytes_per_row)),
            )
            units.append(unit)
        first_row += group.num_rows
    return units
