"""Batch statistics: what was counted of a batch of records. They travel as a row of the stream, without a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import STATS, STATS_TYPE, Misfits


@dataclass(frozen=True)
class FileCounts:
    """What a batch has of one source file."""

    file: str
    read: int = 0  # records
    deferred: int = 0  # those of them whose conflict over an id is decided in a second pass
    unchanged: int = 0  # those that the table holds unchanged
    checksum: int = 0  # sum of the `row_checksums` of the unchanged rows, modulo 2^64


@dataclass(frozen=True)
class BatchStats:
    """Counts of a batch. The three `unchanged_*` lists run in parallel, one element per unchanged record."""

    files: Sequence[FileCounts] = ()
    unchanged_addresses: Sequence[int] = ()  # row addresses in the table
    unchanged_rows: Sequence[int] = ()  # row numbers in the source file
    unchanged_files: Sequence[int] = ()  # indexes into `files`
    ended: Sequence[str] = ()  # files of a unit that was read to its end
    misfits: Sequence[Misfits] = ()
    warnings: Sequence[str] = ()  # log messages of the worker

    def row(self, schema: pa.Schema) -> pa.Table:
        """One row of the stream; all other columns are null."""
        lists = {"files": [asdict(each) for each in self.files], "misfits": [each._asdict() for each in self.misfits]}
        value = pa.array([vars(self) | lists], STATS_TYPE)
        columns = [value if field.name == STATS else pa.nulls(1, field.type) for field in schema]
        return pa.table(columns, schema=schema)


PARTS: tuple[tuple[str, Any], ...] = (("files", FileCounts), ("misfits", Misfits))


def split_stats(rows: pa.Table) -> tuple[pa.Table, list[BatchStats]]:
    """The records of a part of the stream, and the batch statistics in it."""
    is_stats = pc.is_valid(rows[STATS])
    values: list[dict[str, Any]] = rows.filter(is_stats)[STATS].to_pylist()
    stats = []
    for value in values:
        files, misfits = ([kind(**each) for each in value.pop(name)] for name, kind in PARTS)
        stats.append(BatchStats(**value, files=files, misfits=misfits))
    return rows.filter(pc.invert(is_stats)), stats
