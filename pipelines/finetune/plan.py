"""Which pairs a step trains with, and how fast it learns: functions of the seed and the step alone.

So a run that goes on at a step continues as if it had never ended, and any number of processes has the same batches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

VALIDATION: Final = 256  # pairs of a task that are held out, at most
VALIDATION_SHARE: Final = 0.05

ORDER, HELD_OUT, NEGATIVES = range(3)  # what a random number is for, so that none is drawn twice


@dataclass(frozen=True)
class Batch:
    """The pairs of a step: rows of one task."""

    step: int
    task: int
    rows: np.ndarray  # int64


@dataclass(frozen=True)
class Plan:
    """The batches of a training over tasks with `counts` pairs, of which `held_out` are left out for validation.

    An epoch has the pairs of a task as often as `repeats` says, by default once.
    """

    counts: tuple[int, ...]
    batch: int
    seed: int
    held_out: int = VALIDATION
    repeats: tuple[int, ...] = ()

    @functools.cached_property
    def validation(self) -> list[np.ndarray]:
        """The rows of each task that are no part of any batch: 1 in 20, and at most `held_out`."""
        return [
            np.sort(
                np.random.default_rng([self.seed, HELD_OUT, task]).permutation(count)[
                    : min(self.held_out, int(count * VALIDATION_SHARE))
                ]
            )
            for task, count in enumerate(self.counts)
        ]

    @functools.cached_property
    def rows(self) -> list[np.ndarray]:
        """The rows of each task that are trained with."""
        return [
            np.setdiff1d(np.arange(count), held_out)
            for count, held_out in zip(self.counts, self.validation, strict=True)
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of all tasks; a task with less than one has one. The rest of an epoch differs in each."""
        return sum(self.repeats_of(task) * max(1, len(rows) // self.batch) for task, rows in enumerate(self.rows))

    def repeats_of(self, task: int) -> int:
        """How often an epoch has the pairs of a task."""
        return self.repeats[task] if self.repeats else 1

    def steps(self, epochs: float) -> int:
        """Steps of a number of epochs, at least one."""
        return max(1, math.ceil(epochs * self.steps_per_epoch))

    def of(self, step: int) -> Batch:
        """The batch of a step, which counts from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        task, rows = epoch_of(self, epoch)[number]
        return Batch(step, task, rows)

    def draw_negatives(self, batch: Batch, counts: Sequence[int], wanted: int) -> list[np.ndarray]:
        """For each pair of a batch that has `counts` hard negatives, which of them are taken: `wanted`, or all."""
        draw = np.random.default_rng([self.seed, NEGATIVES, batch.step])
        return [draw.permutation(count)[:wanted] for count in counts]


@functools.lru_cache(maxsize=2)
def epoch_of(plan: Plan, epoch: int) -> list[tuple[int, np.ndarray]]:
    """The batches of an epoch in their order: the task of each, and its rows."""
    batches = list[tuple[int, np.ndarray]]()
    for task, rows in enumerate(plan.rows):
        for repeat in range(plan.repeats_of(task)):
            order = np.random.default_rng([plan.seed, ORDER, epoch, task, repeat]).permutation(rows)
            whole = max(1, len(rows) // plan.batch)
            batches += [(task, order[n * plan.batch : (n + 1) * plan.batch]) for n in range(whole)]
    order = np.random.default_rng([plan.seed, ORDER, epoch]).permutation(len(batches))
    return [batches[number] for number in order]


def rate_at(progress: float, warmup: float, schedule: str) -> float:
    """Share of the learning rate at a point of the training, from 0 to 1: a linear warm-up, then a decline to 0."""
    if progress < warmup:
        return progress / warmup
    left = max(0.0, (1 - progress) / max(1e-9, 1 - warmup))
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
