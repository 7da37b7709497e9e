"""Metrics of a run, which Ray exports to Prometheus on the node of the driver: a listener of the run's events.

Ray puts `ray_` in front of each name. They are there while the run lasts; what became of it is in `NAME_runs`, from
which `vista serve` exports it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ray.util.metrics import Counter, Gauge, Histogram

from pipelines.events import Arrived, BundleCommitted, Counted, Counts, Event, FragmentsWritten, Judged, ReadingEnded

COMMIT_SECONDS: Final = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
ENCODED: Final = ("texts", "images", "tokens", "batches")
STATES: Final = ("busy", "idle")
OUTCOMES: Final = ("written", "rewritten", "unchanged", "skipped", "rejected", "deleted")


class RunMetrics:
    """Counts what a run does to a table."""

    def __init__(self, table: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`table` is its name, a label of every metric."""
        self.clock = clock
        self.counted: dict[tuple[str, str], float] = {}
        self.committing: float | None = None
        label = {"table": table}
        self.counters = {
            name: Counter(f"vista_{name}", text, ("table", *keys)).set_default_tags(label)
            for name, text, keys in (
                ("rows_total", "Records of the source, by what became of them.", ("outcome",)),
                ("rejects_total", "Rejected records, by reason.", ("reason",)),
                ("stage_seconds_total", "Time that the tasks of a stage took, added up.", ("stage",)),
                ("encoded_total", "What went through the models of the encoders.", ("kind",)),
                ("encoder_seconds_total", "Time of the encoders, with something to encode or without.", ("state",)),
            )
        }
        self.waiting = Gauge("vista_waiting_rows", "Encoded rows that wait for the next commit.", ("table",))
        self.commits = Histogram(
            "vista_commit_seconds", "Time that a commit took, once its files were written.", COMMIT_SECONDS, ("table",)
        )
        self.gates = Gauge("vista_gate_passed", "1 if a gate let the run pass, else 0.", ("table", "gate"))
        for metric in (self.waiting, self.commits, self.gates):
            metric.set_default_tags(label)

    def __call__(self, event: Event) -> None:
        """Note what happened."""
        match event:
            case Arrived(rows=rows):
                self.waiting.set(rows)
            case FragmentsWritten():
                self.committing = self.clock()
            case BundleCommitted(counts=counts):
                if self.committing is not None:
                    self.commits.observe(self.clock() - self.committing)
                self.committing = None
                self.waiting.set(0)
                self.count(counts)
            case Counted(counts=counts) | ReadingEnded(counts=counts):
                self.count(counts)
            case Judged(verdict=verdict):
                self.gates.set(float(verdict.passed), {"gate": verdict.gate})

    def count(self, counts: Counts) -> None:
        """Add what came to the counts since the last time."""
        for name, key, values in groups(counts):
            for label, value in values.items():
                more = value - self.counted.get((name, label), 0)
                if more > 0:
                    self.counters[name].inc(more, {key: label})
                    self.counted[name, label] = value


def groups(counts: Counts) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """The counts as the counters have them: name, the key of its label, and values by label."""
    yield "rows_total", "outcome", {name: getattr(counts, name) for name in OUTCOMES}
    yield "rejects_total", "reason", counts.reasons
    yield "stage_seconds_total", "stage", counts.seconds
    yield "encoded_total", "kind", {kind: counts.work.get(kind, 0) for kind in ENCODED}
    yield "encoder_seconds_total", "state", {state: counts.work.get(state, 0) for state in STATES}
