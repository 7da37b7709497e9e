"""What arrives of a table's rows: divided on a worker into what the driver counts, what is decided, and the vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch_stats import SECONDS, WORK, measured, split_stats
from pipelines.ingest.fragments import off_norm
from pipelines.ingest.pictured import pictured
from pipelines.reasons import BAD_VECTOR
from pipelines.records import (
    FINGERPRINT,
    ID,
    MESSAGE,
    REASON,
    ROW,
    STAGE,
    VECTOR,
    Pictured,
    embeddable,
    slot_name,
    with_rejects,
)

ENCODED = "_is_encoded"  # bool: the row's vector of a slot was encoded, and is not one that is there already
DECIDED = (ROW, FINGERPRINT, ID, REASON, STAGE, MESSAGE)


@dataclass(frozen=True)
class OfFragment:
    """What has arrived of a fragment."""

    read: int = 0
    unchanged: int = 0
    decided: int = 0  # rows with an outcome: a vector, or the reason why there is none
    ended: int = 0  # units that were read to their end

    def __add__(self, other: OfFragment) -> OfFragment:
        """Both together."""
        return OfFragment(
            self.read + other.read,
            self.unchanged + other.unchanged,
            self.decided + other.decided,
            self.ended + other.ended,
        )


@dataclass(frozen=True)
class Arrival:
    """What the driver needs to know of some blocks."""

    fragments: Mapping[int, OfFragment]
    encoded: int  # rows
    bytes: int  # of vectors
    reasons: Counter[str]
    warnings: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    work: Mapping[str, float] = field(default_factory=dict)
    pictures: Sequence[Pictured] = ()


def split(slots: int, *blocks: pa.Table) -> tuple[Arrival, pa.Table, pa.Table]:
    """Blocks of encoded records as what the driver counts, the rows that are decided, and the vectors of theirs."""
    arrived = pa.concat_tables(blocks, promote_options="default")
    records, stats = split_stats(arrived)
    encoded = [np.array(embeddable(records, number), bool) for number in range(slots)]
    records, encoded = with_bad_vectors(records, encoded)
    fragments: dict[int, OfFragment] = {}
    addresses = records[ROW].to_numpy()
    for number, rows in zip(*np.unique(addresses >> 32, return_counts=True), strict=True):
        fragments[int(number)] = OfFragment(decided=int(rows))
    for each in stats:
        for file in each.files:
            counts = OfFragment(read=file.read, unchanged=file.unchanged)
            fragments[int(file.file)] = fragments.get(int(file.file), OfFragment()) + counts
        for file_ended in each.ended:
            fragments[int(file_ended)] = fragments.get(int(file_ended), OfFragment()) + OfFragment(ended=1)
    vectors = records.select([ROW, FINGERPRINT, *(slot_name(VECTOR, number) for number in range(slots))])
    for number, is_encoded in enumerate(encoded):
        vectors = vectors.append_column(slot_name(ENCODED, number), pa.array(is_encoded, pa.bool_()))
    vectors = vectors.filter(pa.array(np.logical_or.reduce(encoded)))
    arrival = Arrival(
        fragments=fragments,
        encoded=len(vectors),
        bytes=vectors.nbytes,
        reasons=Counter(pc.drop_null(records[REASON]).to_pylist()),
        warnings=[warning for each in stats for warning in each.warnings],
        seconds=measured(arrived, SECONDS),
        work=measured(arrived, WORK),
        pictures=pictured(records),
    )
    return arrival, records.select(DECIDED).combine_chunks(), vectors.combine_chunks()


def with_bad_vectors(records: pa.Table, encoded: list[np.ndarray]) -> tuple[pa.Table, list[np.ndarray]]:
    """Vectors that are not finite or not of norm 1 never reach the table: their records are rejected."""
    rejects = {}
    for number, is_encoded in enumerate(encoded):
        rows, norms = off_norm(records[slot_name(VECTOR, number)].combine_chunks())
        for row, norm in zip(rows.tolist(), norms.tolist(), strict=True):
            if is_encoded[row]:
                rejects[row] = BAD_VECTOR.reject(f"the vector's norm is {norm}, not 1")
    good = np.array([row not in rejects for row in range(len(records))], bool)
    return with_rejects(records, rejects), [each & good for each in encoded]
