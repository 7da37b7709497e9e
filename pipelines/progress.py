"""What people see while a job runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.sink.commit import Counts

LINE_SECONDS = 10.0


class RunProgress:
    """Rows, rows/s, rejected, and time left."""

    def __init__(self, total: int, exact: bool) -> None:
        """`exact` says whether `total` is known or a guess."""
        self.total, self.exact = total, exact
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("embed"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows  {task.fields[status]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("embed", total=total, status="starting")
        self.first: tuple[float, int] | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def update(self, counts: Counts, arrived: int, ended: bool = False) -> None:
        """`arrived` rows are encoded and wait for the next commit; `ended` says that there is nothing left."""
        now = time.monotonic()
        if not self.exact:
            self.total = counts.settled if ended else max(self.total, counts.settled)
        done = min(counts.settled + arrived, self.total)  # tallies count among those that arrived
        if self.first is None:
            self.first, self.last_line = (now, done), now  # start-up and the first batch don't count
        since, before = self.first
        rate = (done - before) / (now - since) if now > since and done > before else 0.0
        left = f"{rate:,.1f} rows/s, {duration((self.total - done) / rate)} left, " if rate else ""
        status = f"{left}{counts.rejected:,} rejected"
        self.bar.update(self.task, completed=done, total=self.total, status=status)
        if not self.console.is_terminal and (ended or now - self.last_line >= LINE_SECONDS):
            self.last_line = now
            share = done / self.total if self.total else 1
            about = "" if self.exact or ended else "about "
            print(f"embed: {done:,} of {about}{self.total:,} rows ({share:.0%}), {status}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
