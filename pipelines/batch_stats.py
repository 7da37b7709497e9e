"""Batch statistics: what was counted of a batch of records. They travel as a row of the stream, without a record.

The seconds that a stage took travel in the first row of its batch, whatever row that is: a row more for each batch
would make the batches of the next stage uneven, and Ray Data would copy them to even them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import SECONDS, SECONDS_TYPE, STATS, STATS_TYPE, Misfits, replace_column


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


def with_seconds(rows: pa.Table, seconds: Mapping[str, float]) -> pa.Table:
    """`rows` whose first one says, beside what it says already, how many seconds stages took for all of them."""
    if not len(rows):
        return rows
    taken = rows[SECONDS].combine_chunks()
    more = [{"stage": stage, "seconds": each} for stage, each in seconds.items()]
    first = pa.array([[*(taken[0].as_py() or []), *more]], SECONDS_TYPE)
    return replace_column(rows, SECONDS, pa.concat_arrays([first, taken.slice(1)]))


def seconds_by_stage(rows: pa.Table) -> dict[str, float]:
    """What `with_seconds` noted in all of `rows`, added up."""
    noted = pc.drop_null(rows[SECONDS]).to_pylist()
    return added_seconds(*({each["stage"]: each["seconds"]} for batch in noted for each in batch))


def added_seconds(*parts: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage, added up."""
    total: dict[str, float] = {}
    for part in parts:
        for stage, seconds in part.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
