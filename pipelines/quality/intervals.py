"""How certain a mean over queries is, and whether two systems differ. Random numbers have a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

RESAMPLES: Final = 2_000
PERMUTATIONS: Final = 10_000
CONFIDENCE: Final = 0.95
AT_ONCE: Final = 4_000_000  # numbers in memory


@dataclass(frozen=True)
class Interval:
    """A mean, and the interval that holds it with 95 % confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Difference:
    """What a second system has more than a first one, query by query."""

    interval: Interval
    p_value: float  # two-sided: how often chance alone makes a difference as large
    won: int  # queries in which the second is better
    lost: int
    tied: int

    @property
    def is_significant(self) -> bool:
        """True if 0 is outside the interval."""
        return not self.interval.low <= 0 <= self.interval.high


def interval_of(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean of `values` [queries] with its percentile bootstrap interval over the queries."""
    if not len(values):
        raise ValueError("no queries")
    random, number, means = np.random.default_rng(seed), len(values), []
    step = max(1, AT_ONCE // number)
    for start in range(0, RESAMPLES, step):
        chosen = random.integers(0, number, (min(step, RESAMPLES - start), number))
        means.append(values[chosen].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """By how much `second` [queries] is better than `first`, of the same queries.

    The p-value is that of a paired randomisation test, in which each query's two values are exchanged at random
    (Smucker, Allan, Carterette, CIKM 2007).
    """
    differences = second - first
    random, number = np.random.default_rng(seed), len(differences)
    observed, extreme = abs(differences.mean()), 0
    step = max(1, AT_ONCE // number)
    for start in range(0, PERMUTATIONS, step):
        signs = random.integers(0, 2, (min(step, PERMUTATIONS - start), number), np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ differences / number) >= observed - 1e-12))
    return Difference(
        interval_of(differences, seed),
        p_value=(extreme + 1) / (PERMUTATIONS + 1),
        won=int(np.count_nonzero(differences > 0)),
        lost=int(np.count_nonzero(differences < 0)),
        tied=int(np.count_nonzero(differences == 0)),
    )
