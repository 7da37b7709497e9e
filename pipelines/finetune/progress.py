"""What people see while a model is trained: a bar on a terminal, otherwise a log line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.finetune.figures import in_steps
from pipelines.finetune.training import Stepped, Training, Validated

LINE_SECONDS: Final = 30.0
STEPS_OF_A_MEAN: Final = 20

log = logging.getLogger(__name__)


class TrainingProgress:
    """Shows steps, the mean loss of the last steps, steps/s, and what searches for held-out pairs found."""

    def __init__(self, training: Training, tasks: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.training, self.tasks, self.clock = training, tasks, clock
        self.losses: deque[float] = deque(maxlen=STEPS_OF_A_MEAN)
        self.times: deque[float] = deque(maxlen=STEPS_OF_A_MEAN)
        self.last_line = clock()
        self.last: Stepped | None = None
        console = Console(stderr=True, force_terminal=sys.stderr.isatty())
        columns = (TextColumn("train"), BarColumn(), TextColumn("{task.fields[status]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self.task = self.bar.add_task("train", total=1.0, status="starting")
        self.is_drawn = console.is_terminal

    def __enter__(self) -> TrainingProgress:
        if self.is_drawn:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def __call__(self, report: Stepped | Validated) -> None:
        """Show a report."""
        if isinstance(report, Validated):
            log.info("step %s, held-out pairs: %s", f"{report.step:,}", in_words(report))
            return
        if self.last is None and report.step:
            log.info("goes on at step %s, from the last checkpoint", f"{report.step + 1:,}")
        self.last = report
        if report.loss is not None:
            self.losses.append(report.loss)
        self.times.append(report.seconds)
        status = self.status(report)
        self.bar.update(self.task, completed=report.progress, status=status)
        if not self.is_drawn and self.clock() - self.last_line >= LINE_SECONDS:
            self.last_line = self.clock()
            log.info("%s", status)

    def status(self, report: Stepped) -> str:
        """The line of a step."""
        parts = [f"step {report.step + 1:,} of {self.training.steps:,}"]
        if self.losses:
            parts.append(f"loss {sum(self.losses) / len(self.losses):.3f}")
        if (taken := self.times[-1] - self.times[0]) > 0:
            parts.append(f"{(len(self.times) - 1) / taken:.2f} steps/s")
        return ", ".join(parts)

    @property
    def done(self) -> str:
        """How far the training is, for people."""
        return in_steps(0) if self.last is None else f"{self.last.step + 1:,} of {in_steps(self.training.steps)}"


def in_words(validated: Validated) -> str:
    """What was found of each task: `edit_image: hit_rate@1 0.312, hit_rate@5 0.610`."""
    return "; ".join(
        f"{task}: {', '.join(f'{name} {value:.3f}' for name, value in rates.items())}"
        for task, rates in validated.hit_rates.items()
    )
