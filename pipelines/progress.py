"""Progress of a run: a bar on a terminal, otherwise a log line every ten seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.events import Arrived, BundleCommitted, Counts, Event, Reading, ReadingEnded, UpkeepPostponed

LINE_SECONDS = 10.0

log = logging.getLogger(__name__)


class RunProgress:
    """Shows rows, rows/s, time left and rejected rows. A listener of a run's events, and a context manager.

    The bar stops when the context ends, also when the run fails: its error is printed below the bar.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        """`clock` gives seconds. `console` is where the bar is drawn if it is a terminal; default: stderr."""
        self.clock = clock
        self.console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self.measured: Measured | None = None
        self.bar: Progress | None = None
        self.last_line = 0.0

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __call__(self, event: Event) -> None:
        """Start when reading starts, follow what arrives and is committed, stop when reading ends."""
        match event:
            case Reading():
                self.start(Measured(event.rows, event.exact))
            case Arrived():
                self.update(event.counts, event.rows)
            case BundleCommitted():
                self.update(event.counts)
            case ReadingEnded():
                self.update(event.counts, ended=True)
                self.stop()

    def start(self, measured: Measured) -> None:
        """Draw the bar, if there is a terminal."""
        self.measured = measured
        if self.console.is_terminal:
            columns = (
                TextColumn("embed"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows, {task.fields[status]}"),
            )
            self.bar = Progress(*columns, TimeElapsedColumn(), console=self.console)
            self.bar.add_task("embed", total=measured.total, status="starting")
            self.bar.start()

    def update(self, counts: Counts, arrived: int = 0, ended: bool = False) -> None:
        """Show `counts`, those of the last commit, and `arrived` encoded rows that are not committed yet."""
        if self.measured is None:
            return
        now, measured = self.clock(), self.measured
        is_first = measured.update(now, counts.resolved, arrived, ended)
        status = f"{measured.speed(now)}{counts.rejected:,} rejected"
        if self.bar is not None:
            [task] = self.bar.task_ids
            self.bar.update(task, completed=measured.done, total=measured.total, status=status)
        elif is_first and not ended:
            self.last_line = now  # the first line would tell no speed
        elif ended or now - self.last_line >= LINE_SECONDS:
            self.last_line = now
            log.info("%s, %s", measured.share(ended), status)

    def stop(self) -> None:
        """Leave the bar as it is, and give the terminal back."""
        if self.bar is not None:
            self.bar.stop()
        self.measured = self.bar = None


class Measured:
    """How far a run is, and how fast."""

    def __init__(self, total: int, exact: bool) -> None:
        """`total` is the number of rows to read, an estimate unless `exact`."""
        self.total = total
        self.exact = exact
        self.done = 0
        self.first: tuple[float, int] | None = None  # when the first rows arrived, and how many: ends the start-up

    def update(self, now: float, resolved: int, arrived: int, ended: bool) -> bool:
        """Note how many rows are done. True if these are the first."""
        if not self.exact:
            self.total = resolved if ended else max(self.total, resolved)
        self.done = min(resolved + arrived, self.total)  # batch statistics count among the rows that arrived
        if self.first is not None:
            return False
        self.first = (now, self.done)
        return True

    def speed(self, now: float) -> str:
        """Rows per second since the start-up, and the time left; empty if unknown."""
        since, before = self.first or (now, self.done)
        if now <= since or self.done <= before:
            return ""
        rate = (self.done - before) / (now - since)
        return f"{rate:,.1f} rows/s, {duration((self.total - self.done) / rate)} left, "

    def share(self, ended: bool) -> str:
        """How many rows of how many are done."""
        share = self.done / self.total if self.total else 1
        about = "" if self.exact or ended else "about "
        return f"{self.done:,} of {about}{self.total:,} rows ({share:.0%})"


def duration(seconds: float) -> str:
    """Seconds in at most two units, such as `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Timing:
    """Seconds since the run began."""

    startup: float = 0.0  # until the first encoded rows
    first_rows: int = 0  # how many those were
    ended: float = 0.0  # the last commit

    def rows_per_second(self, rows: int) -> float | None:
        """The speed of a run that encoded `rows`, from the first ones to the last commit; None for too few to tell.

        They are too few if most of them were there at once.
        """
        seconds, later = self.ended - self.startup, rows - self.first_rows
        return later / seconds if seconds > 1 and 2 * later >= rows > 0 else None


class Stopwatch:
    """A listener that notes when rows came out of the flow, and which upkeep was postponed."""

    def __init__(self, began: float) -> None:
        """`began` is on the clock of `time.monotonic`."""
        self.began = began
        self.first: tuple[float, int] | None = None
        self.ended: float | None = None
        self.postponed: tuple[str, ...] = ()

    def __call__(self, event: Event) -> None:
        """Note the first and the last rows, and upkeep that was postponed."""
        if isinstance(event, Arrived) and self.first is None:
            self.first = (time.monotonic() - self.began, event.rows)
        elif isinstance(event, ReadingEnded):
            self.ended = time.monotonic() - self.began
        elif isinstance(event, UpkeepPostponed):
            self.postponed += (event.message,)

    @property
    def timing(self) -> Timing:
        """What was noted; a run without rows is all start-up."""
        ended = time.monotonic() - self.began if self.ended is None else self.ended
        startup, first_rows = (ended, 0) if self.first is None else self.first
        return Timing(startup, first_rows, ended)
