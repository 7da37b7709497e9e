"""Run the embedding job, and kill or stop it at a given point.

    python -m tests.chaos.points POINT N -- ARGUMENTS OF jobs/embed_corpus.py

sends SIGKILL to this process when it reaches POINT for the N-th time; `stop:POINT` sends SIGSTOP instead, and SIGCONT
from outside resumes it; `int:POINT` and `term:POINT` send SIGINT and SIGTERM. The job itself is not modified: a
listener waits for the event that marks the point.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator

from jobs import run_job
from pipelines.embed.config import EmbedConfig
from pipelines.embed.run import Setup, embed
from pipelines.events import (
    Arrived,
    BundleCommitted,
    Event,
    FragmentsWritten,
    Published,
    Publishing,
    Reading,
    RejectsCommitted,
    TableCommitted,
    TagMoving,
)

STOP = "stop:"
SIGNALS = {STOP: signal.SIGSTOP, "int:": signal.SIGINT, "term:": signal.SIGTERM}
POINTS: dict[str, type] = {
    "before reading": Reading,
    "after rows arrived": Arrived,
    "after fragments are written": FragmentsWritten,
    "after the commit": TableCommitted,
    "after rejects": RejectsCommitted,
    "after the manifest": BundleCommitted,
    "before publish": Publishing,
    "before the tag moves": TagMoving,
    "after publish": Published,
}


class Signal:
    """A listener that sends this process a signal at the `time`-th event of a kind."""

    def __init__(self, kind: type, time: int, number: signal.Signals) -> None:
        self.kind = kind
        self.time = time
        self.number = number
        self.times: Iterator[int] = itertools.count(1)

    def __call__(self, event: Event) -> None:
        """Count the events of this kind, and send the signal at the chosen one."""
        if isinstance(event, self.kind) and next(self.times) == self.time:
            os.kill(os.getpid(), self.number)


if __name__ == "__main__":
    kind, _, point = sys.argv[1].rpartition(":") if len(sys.argv) > 3 else ("", "", "")
    if point not in POINTS or sys.argv[3] != "--":
        kinds = "|".join(SIGNALS)
        sys.exit(f"usage: python -m tests.chaos.points [{kinds}]POINT N -- ARGUMENTS, POINT one of {', '.join(POINTS)}")
    number = SIGNALS[f"{kind}:"] if kind else signal.SIGKILL
    listener = Signal(POINTS[point], int(sys.argv[2]), number)
    sys.argv = ["embed_corpus.py", *sys.argv[4:]]
    sys.exit(run_job(EmbedConfig, lambda config: embed(config, Setup([listener]))))
