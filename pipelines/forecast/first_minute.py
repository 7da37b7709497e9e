"""The forecast of a run that is under way: by former runs at its start, then by its own first minute."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from pipelines.events import Arrived, BundleCommitted, Event, Reading
from pipelines.forecast.former import FormerRun, next_seconds
from pipelines.progress import duration
from pipelines.tables.runs import Forecast, RunRecord

MINUTE: Final = 60.0  # of reading, start-up of the encoders included
SHORTEST: Final = 20.0  # seconds since the first rows, before which a rate says little

log = logging.getLogger(__name__)


class RunForecast:
    """A listener that keeps in a run's record how long it is going to take."""

    def __init__(
        self,
        record: RunRecord,
        began: float,
        former: Sequence[FormerRun] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`began` is on `clock`. `former` are the last runs of the same kind, oldest first."""
        self.record, self.began, self.clock = record, began, clock
        self.former = former
        self.rows = 0  # to read
        self.reading: float | None = None  # when that began
        self.arrived: list[tuple[float, int]] = []  # when rows did, and how many had until then
        self.is_measured = False

    def start(self, rows: int) -> None:
        """Forecast a run that is going to read so many rows, if there are former runs."""
        if (seconds := next_seconds(self.former, rows)) is not None:
            self.keep(seconds, "by former runs")

    def __call__(self, event: Event) -> None:
        """Follow the rows, and forecast once: at the first commit when the run has read for a minute."""
        match event:
            case Reading() if self.reading is None:
                self.rows, self.reading = event.rows, self.clock()
            case Arrived() if not self.is_measured:
                self.arrived.append((self.clock(), event.counts.resolved + event.rows))
            case BundleCommitted() if not self.is_measured:
                self.measure(event.counts.resolved)

    def measure(self, done: int) -> None:
        """Forecast by the rows that arrived until now, which are `done`, since they are committed.

        As in a probe, the first third does not count, in which processes warm up.
        """
        if self.reading is None or not self.arrived or self.clock() - self.reading < MINUTE:
            return
        (first, _), (last, in_all) = self.arrived[0], self.arrived[-1]
        start, until_start = next(each for each in self.arrived if each[0] >= first + (last - first) / 3)
        share = 1 - until_start / max(1, in_all)  # of the rows: unchanged ones are counted when they are committed
        if last - first < SHORTEST or share <= 0:
            return
        self.is_measured = True
        left = max(0, self.rows - done) * (last - start) / (done * share)
        around = [run.around for run in self.former]
        closing = max(0.0, statistics.median(around) - (first - self.began)) if around else 0.0
        self.keep(last - self.began + left + closing, "by its first minute")
        self.arrived.clear()

    def keep(self, seconds: float, by: str) -> None:
        """Keep a forecast in place of an earlier one."""
        self.record.forecast = Forecast(seconds, self.clock() - self.began)
        log.info("forecast %s: the run takes about %s in all", by, duration(seconds))
