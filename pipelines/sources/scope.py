"""Which records of a source a run reads: all, a sample, or the first N."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import xxhash

from pipelines.reasons import Reject
from pipelines.records import ID, OBJECT, ROW

Batches = Iterator[tuple[pa.Table, dict[int, Reject]]]  # records, and which rows of them are rejected
HASHES = 1 << 64


@dataclass(frozen=True)
class Scope:
    """A share of the records, the same ones in each run, and the first `limit` of these."""

    share: float = 1.0
    limit: int | None = None

    @property
    def is_whole(self) -> bool:
        """True if every record is read."""
        return self.share == 1 and self.limit is None

    def describe(self) -> list[str]:
        """Lines for the user, if the run does not read every record."""
        sample = [f"ONLY a sample of {self.share:.3%} of the records"] if self.share < 1 else []
        return sample + ([f"ONLY the first {self.limit:,} records"] if self.limit is not None else [])

    def select(self, batches: Batches) -> Batches:
        """The records in scope. A larger share includes those of a smaller one."""
        left = self.limit
        for records, rejects in batches:
            rows = list(range(len(records)))
            if self.share < 1:
                names = zip(*(records[name].to_pylist() for name in (ID, OBJECT, ROW)), strict=True)
                rows = [row for row, name in enumerate(names) if record_hash(*name) < self.share * HASHES]
            if left is not None:
                rows = rows[:left]
                left -= len(rows)
            if len(rows) < len(records):
                records = records.take(rows)
                rejects = {at: rejects[row] for at, row in enumerate(rows) if row in rejects}
            if rows:
                yield records, rejects
            if left == 0:
                return


WHOLE = Scope()


def record_hash(key: str | None, file: str, row: int) -> int:
    """A hash of 64 bits: of a record's id or, if it has none, of its file and row."""
    return xxhash.xxh3_64_intdigest((key if key is not None else f"{file}#{row}").encode())
