"""What stages tell the driver beside their records: warnings, and how long they took. Both follow the rows.

Warnings that a stage logs on a worker so reach the driver's log.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import pyarrow as pa

from pipelines.batch_stats import SECONDS, BatchStats, with_measured
from pipelines.cluster.logs import reporting

P = ParamSpec("P")
T = TypeVar("T")


def reports_warnings(stage: Callable[P, pa.Table]) -> Callable[P, pa.Table]:
    """`stage`, whose result ends with a row of batch statistics if it logged warnings."""

    @functools.wraps(stage)
    def reported(*args: P.args, **kwargs: P.kwargs) -> pa.Table:
        rows, warnings = reporting(stage)(*args, **kwargs)
        return pa.concat_tables([rows, BatchStats(warnings=warnings).row(rows.schema)]) if warnings else rows

    return reported


def timed(name: str) -> Callable[[Callable[P, pa.Table]], Callable[P, pa.Table]]:
    """A decorator: the first row of what a stage returns says how long the stage took."""

    def decorate(stage: Callable[P, pa.Table]) -> Callable[P, pa.Table]:
        @functools.wraps(stage)
        def measured(*args: P.args, **kwargs: P.kwargs) -> pa.Table:
            clock = StageClock()
            with clock.on(name):
                rows = stage(*args, **kwargs)
            return with_measured(rows, SECONDS, clock.seconds)

        return measured

    return decorate


class StageClock:
    """Adds up the seconds that stages take in a task that streams: while it waits for its consumer, no clock runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count what is done in this context for a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """`items`, counting the time that it takes to get them."""
        iterator = iter(items)
        while True:
            with self.on(stage):
                item = next(iterator, DONE)
            if item is DONE:
                return
            yield item  # type: ignore[misc]


DONE = object()
