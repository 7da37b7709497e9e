"""What a soak takes: memory, processes and open files by kind of process, versions and bytes of the tables."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

import psutil

from pipelines.tables.dataset import open_dataset
from tests.s3 import S3

MEGA = 1 << 20
GROWTH = 1.15  # from the middle third of the nights to the last: more is not flat
SLACK = {"MB": 60, "open files": 20, "processes": 2, "versions": 10}  # so much more is no growth in any case
KINDS = {
    "log_monitor": "Ray's log monitor",  # before the others, in whose folder it is
    "ray::": "Ray workers",
    "raylet": "Ray",
    "gcs_server": "Ray",
    "weed": "S3 server",
    "tests.soak.reader": "readers",
}
BOUNDS = {"Ray's log monitor: open files": 250}  # it keeps up to 200 log files open, those of ended jobs as well
TABLES = ("", "_rejects", "_objects", "_runs")


@dataclass
class Resources:
    """A sample after each night."""

    samples: list[dict[str, float]] = field(default_factory=list)

    def sample(self, s3: S3, db: str, name: str) -> None:
        """Look at the processes below this one, and at the tables."""
        found: Counter[str] = Counter()
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                kind = kind_of(process)
                found[f"{kind}: MB"] += process.memory_info().rss // MEGA
                found[f"{kind}: open files"] += process.num_fds()
                found[f"{kind}: processes"] += 1
            except psutil.Error:  # it ended
                continue
        for side in TABLES:
            table = open_dataset(f"{db}/{name}{side}.lance")
            found[f"{name}{side}: versions"] = 0 if table is None else len(table.versions())
        found["store: MB"] = s3.fs.du(db.removeprefix("s3://")) / MEGA
        self.samples.append(dict(found))

    def judged(self) -> tuple[str, list[str]]:
        """A table of all figures, by thirds of the nights, and those that grow."""
        thirds = [self.samples[len(self.samples) * at // 3 : len(self.samples) * (at + 1) // 3] for at in range(3)]
        lines, growing = [f"{'median of a third of the nights':36} {'first':>9} {'second':>9} {'third':>9}"], []
        for name in sorted({name for sample in self.samples for name in sample}):
            medians = [statistics.median([each.get(name, 0) for each in third] or [0]) for third in thirds]
            unit = name.rpartition(": ")[2]
            flat = medians[2] <= max(
                BOUNDS.get(name, 0), GROWTH * medians[1], medians[1] + (SLACK[unit] if name != "store: MB" else 1)
            )
            lines.append(f"{name:36} {medians[0]:9.1f} {medians[1]:9.1f} {medians[2]:9.1f}{'' if flat else '  GROWS'}")
            growing += [] if flat else [name]
        return "\n".join(lines), growing


def kind_of(process: psutil.Process) -> str:
    """What a process is for."""
    command = " ".join(process.cmdline())
    return next(
        (kind for part, kind in KINDS.items() if part in command),
        "this process" if process.pid == psutil.Process().pid else "others",
    )
