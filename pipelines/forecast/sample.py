"""Which records stand for all of those that a run is going to embed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

ROWS: Final = 2_048
BYTES: Final = 64 << 20
PLACES: Final = 16  # at which a source is looked at


def spread(rows: Sequence[int]) -> dict[int, int]:
    """Where to look at units with so many rows: numbers of units, with the rows to read from the start of each.

    The places are evenly spaced over all rows, so that a long unit counts for more than a short one.
    """
    ends = np.cumsum(rows)
    places = (np.arange(PLACES) + 0.5) * ends[-1] / PLACES
    found = Counter(np.searchsorted(ends, places, side="right").tolist())
    return {number: min(rows[number], times * ROWS // PLACES) for number, times in sorted(found.items())}


def bounded(records: pa.Table, share: float) -> pa.Table:
    """Some of the records, evenly spaced: no more than this share of ROWS and BYTES, and a copy of them."""
    in_bytes = int(BYTES * share * len(records) / max(1, records.nbytes))
    number = min(len(records), max(1, int(ROWS * share)), max(1, in_bytes))
    return records.take(np.arange(number) * len(records) // max(1, number))


def mixed(parts: Sequence[tuple[float, pa.Table]]) -> pa.Table:
    """A sample in which each part has the share that its weight has, in a random order; of at most ROWS and BYTES.

    A part of few records with a large weight is repeated.
    """
    parts = [(weight, records) for weight, records in parts if weight > 0 and len(records)]
    every = pa.concat_tables([records for _, records in parts])
    total = sum(weight for weight, _ in parts)
    number = min(ROWS, len(every), max(1, BYTES * len(every) // max(1, every.nbytes)))
    chosen, start = [], 0
    for weight, records in parts:
        wanted = max(1, round(number * weight / total))
        chosen.append(start + np.arange(wanted) * len(records) // wanted)
        start += len(records)
    return every.take(np.random.default_rng(0).permutation(np.concatenate(chosen)))
