"""Parquet files. A unit is a row group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import Batch
from pipelines.sources.format import FileFormat, checked, merged_readable, units_of
from pipelines.sources.limits import Limits
from pipelines.sources.parquet_pages import InspectedFile, ReadAgainError, Reading
from pipelines.sources.units import FilePart
from pipelines.storage.errors import READ_ERRORS, is_damage, said
from pipelines.storage.files import Listing, SourceFile, open_unchanged

FEWEST_ROWS = 16  # in a batch, however large they are
INT96_UNIT = "us"  # nanoseconds end in 2262, and what is beyond them would become another time


@dataclass(frozen=True, kw_only=True)
class RowGroup(FilePart):
    """A row group of a Parquet file."""

    index: int  # in the file
    batch_rows: int  # how many rows make a batch of bounded size


@dataclass(frozen=True)
class Parquet(FileFormat):
    """The row groups of Parquet files. The columns are those of a sample of the files."""

    exact: ClassVar[bool] = True

    @classmethod
    def open(cls, listing: Listing, limits: Limits) -> Parquet:
        """Read the footers of a sample of the files. Raises UsageError if none of them is readable."""
        int96: set[str] = set()
        look = partial(schema_of, limits=limits, int96=int96)
        schema, differences = merged_readable(listing, "Parquet file", look, limits)
        if int96:
            differences = (*differences, f"timestamps of the type INT96, in microseconds: {', '.join(sorted(int96))}")
        return cls(listing, limits, schema, differences=differences)

    def describe(self) -> str:
        """How many files there are, and their size."""
        return self.summary("Parquet file")

    def units(self) -> list[FilePart]:
        """A unit for each row group; a file whose footer can't be read is one unit with the error."""
        return units_of(self.listing, partial(file_units, limits=self.limits))

    def batches(self, unit: RowGroup, names: Sequence[str]) -> Iterator[Batch]:
        """The row group's columns `names`, as far as the file has them."""
        reading, done = Reading(unit.batch_rows), 0
        with open_unchanged(unit.uri, unit.version) as handle:
            while done < unit.rows:
                try:
                    for table in self.tables(handle, unit, names, reading, done):
                        first = unit.first_row + done
                        yield Batch(table, range(first, first + len(table)), {})
                        done += len(table)
                    return
                except ReadAgainError:
                    continue

    def tables(
        self, handle: IO[bytes], unit: RowGroup, names: Sequence[str], reading: Reading, done: int
    ) -> Iterator[pa.Table]:
        """The rows of a row group after the first `done`. Raises ReadAgainError after it changed `reading`."""
        inspected = InspectedFile(handle, self.limits)
        file = pq.ParquetFile(
            pa.PythonFile(inspected, mode="r"),
            buffer_size=self.limits.read_bytes,
            read_dictionary=sorted(reading.dictionaries),
            coerce_int96_timestamp_unit=INT96_UNIT,
        )
        counts = Counter(file.schema_arrow.names)
        here = [name for name in counts if name in names and counts[name] == 1]
        inspected.inspect(file.metadata, unit.index, here, reading)
        row = 0
        for batch in file.iter_batches(reading.rows, row_groups=[unit.index], columns=here):
            row += len(batch)
            if row > done:
                part = batch.select(here)  # pyarrow takes the column `a.b` for a part of `a`, and reads it with that
                yield pa.Table.from_batches([part.slice(max(0, done - row + len(batch)))])


def schema_of(file: SourceFile, limits: Limits, int96: set[str]) -> pa.Schema:
    """The schema in a file's footer. Adds the columns of INT96 timestamps to `int96`."""
    with open_unchanged(file.uri, file.version) as handle:
        parquet = pq.ParquetFile(handle, coerce_int96_timestamp_unit=INT96_UNIT)
        schema = checked(parquet.schema_arrow, limits)
        columns = [parquet.schema.column(number) for number in range(len(parquet.schema.names))]
        int96.update(column.path for column in columns if column.physical_type == "INT96")
    return schema


def check_claims(file: SourceFile, metadata: pq.FileMetaData, limits: Limits) -> None:
    """Raise pa.ArrowInvalid if a footer claims more than a file of this size can have."""
    if metadata.num_row_groups > limits.row_groups:
        raise pa.ArrowInvalid(f"it has {metadata.num_row_groups:,} row groups; at most {limits.row_groups:,} are read")
    most = limits.rows_per_byte * file.size
    if metadata.num_rows > most:
        claim = f"it claims {metadata.num_rows:,} rows"
        raise pa.ArrowInvalid(f"{claim}; a file of {file.size:,} bytes can have {most:,} at most")


def file_units(file: SourceFile, limits: Limits) -> list[FilePart]:
    """The row groups of one file that have rows."""
    try:
        with open_unchanged(file.uri, file.version) as handle:
            metadata = pq.read_metadata(handle)
        check_claims(file, metadata, limits)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if sum(group.num_rows for group in groups) != metadata.num_rows:
            raise pa.ArrowInvalid("its numbers of rows contradict each other")
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        message = f"the Parquet footer cannot be read: {said(error)}"
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
