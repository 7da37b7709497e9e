"""For --plan: how long it would take to embed some rows, what limits that, and what it would cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.cluster.session import cluster_now
from pipelines.forecast.former import FormerRun, former_runs
from pipelines.forecast.probe import Measured, probe
from pipelines.forecast.sample import mixed
from pipelines.forecast.sizing import Sizing, real_cpus
from pipelines.progress import duration
from pipelines.stages.pool import Pool

MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Work:
    """What there is to do, by a look at a sample."""

    rows: int  # to read
    parts: Sequence[tuple[float, pa.Table]] = ()  # how many rows are to be embedded, and some of them
    reading: float = 0.0  # seconds that one core takes to read a row, and to compare it with the table

    @property
    def to_embed(self) -> int:
        """How many rows are to be embedded."""
        return round(sum(rows for rows, _ in self.parts))


@dataclass(frozen=True)
class Embedding:
    """What encodes the rows, and the runs that did it before."""

    pool: Pool
    canary_seconds: Callable[[pa.Table, Pool], float]  # that the gate takes which encodes some of the records again
    runs_uri: str
    configuration: Mapping[str, Any]  # of the run, for its record
    options: str  # where it has the options of the command
    described: str  # the encoders and actors, for people
    price_per_hour: float | None = None
    startup: float = 0.0  # seconds since the command began: the part of the start-up before the encoders start

    def forecast(self, work: Work) -> list[str]:
        """Time and cost of the work, and what limits it. Former runs of similar work tell more than a probe."""
        if not work.to_embed:
            return ["nothing to embed"]
        sizing = self.measure(work)
        if not sizing.measured.rows:
            return [f"about {work.to_embed:,} rows to embed, but those that were tried are all rejected: look at some"]
        former = former_runs(self.runs_uri, self.configuration, self.options)
        if similar := [run for run in former if run.is_similar(work.to_embed / work.rows)]:
            rate, seconds, how = self.by_former(similar, work)
            here = [f"measured here: {sizing.measured.rows_per_second:,.1f} rows/s"]
        else:
            rate, seconds, how = self.by_probe(sizing, work)
            here = []
        took = f"{duration(seconds)} at {rate:,.1f} rows/s ({how}; {self.described})"
        return [
            f"about {work.to_embed:,} rows to embed: {took}",
            *here,
            *sizing.describe(),
            *self.cost(seconds, rate),
        ]

    def measure(self, work: Work) -> Sizing:
        """The speed of the stages, by a probe on the machines that a run would have."""
        found = probe(mixed(work.parts), work.to_embed, self.pool)
        return Sizing(found, self.pool.uses, real_cpus(cluster_now()))

    def by_former(self, similar: Sequence[FormerRun], work: Work) -> tuple[float, float, str]:
        """Rows per second, seconds, and by what they are known: by former runs."""
        rate = statistics.median(run.rows_per_second or 0.0 for run in similar)
        seconds = statistics.median(run.around for run in similar) + work.to_embed / rate
        return rate, seconds, f"the median of the last {len(similar)} runs"

    def by_probe(self, sizing: Sizing, work: Work) -> tuple[float, float, str]:
        """The same by the probe. Reading has the same cores as decoding."""
        measured = sizing.measured
        seconds = work.to_embed / measured.rows_per_second + work.rows * work.reading / sizing.cpus
        startup = self.startup + measured.startup
        canary = self.canary_seconds(mixed(work.parts), self.pool)
        how = f"{self.measured_how(measured)}; start-up {duration(startup)}, canary {duration(canary)}"
        return work.to_embed / seconds, startup + seconds + canary, how

    def measured_how(self, measured: Measured) -> str:
        """How the speed was measured."""
        if measured.side_by_side:
            return f"measured here in {duration(measured.seconds)}"
        return "measured here, too few rows for stages that work side by side"

    def cost(self, seconds: float, rate: float) -> list[str]:
        """What it costs, and what a million rows cost at this speed, start-up not counted."""
        if self.price_per_hour is None:
            return []
        hours, price = seconds / 3600, self.price_per_hour
        million = MILLION / rate / 3600 * price
        return [f"cost: {hours:,.2f} h at {price:,.2f} an hour: {hours * price:,.2f}; a million rows: {million:,.2f}"]
