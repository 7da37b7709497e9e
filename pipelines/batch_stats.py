"""Batch statistics: what was counted of a batch of records. They travel as a row of the stream, without a record.

What is measured of a batch, such as the seconds that a stage took, travels in its first row, whatever row that is: a
row more for each batch would make the batches of the next stage uneven, and Ray Data would copy them to even them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.records import MEASURED, MEASURED_TYPE, STATS, STATS_TYPE, Misfits, replace_column

SECONDS: Final = "seconds"  # quantity: what stages took, by stage
WORK: Final = "work"  # quantity: what encoders did, by the names of `stages.encode`


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


def with_measured(rows: pa.Table, quantity: str, amounts: Mapping[str, float]) -> pa.Table:
    """`rows` whose first one says, beside what it says already, which `amounts` of a quantity belong to all of them."""
    if not len(rows):
        return rows
    noted = rows[MEASURED].combine_chunks()
    more = [{"quantity": quantity, "name": name, "amount": amount} for name, amount in amounts.items()]
    first = pa.array([[*(noted[0].as_py() or []), *more]], MEASURED_TYPE)
    return replace_column(rows, MEASURED, pa.concat_arrays([first, noted.slice(1)]))


def measured(rows: pa.Table, quantity: str) -> dict[str, float]:
    """The amounts of a quantity that `with_measured` noted in all of `rows`, added up by name."""
    noted = pc.drop_null(rows[MEASURED]).to_pylist()
    return added_amounts(
        *({each["name"]: each["amount"]} for batch in noted for each in batch if each["quantity"] == quantity)
    )


def added_amounts(*parts: Mapping[str, float]) -> dict[str, float]:
    """Amounts by name, added up."""
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0.0) + amount
    return total
