"""The lines that end a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.backfill.job import Job
from pipelines.events import Counts
from pipelines.gates.reject_rate import name_reasons
from pipelines.progress import Timing, duration


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    version: int  # the version that has what it filled
    complete: bool  # False while there are rows out of --where that were never filled
    published: bool | None  # None: the table was never published, so readers open the latest version
    rows: int  # of the table, of all columns that were filled
    moved: int  # fragments that others replaced while they were filled
    arrived: int  # rows that came after the last look at the table


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    job: Job
    counts: Counts
    outcome: Outcome
    seconds: float
    timing: Timing
    report: str | None = None

    def __str__(self) -> str:
        """The lines that end a run."""
        config, counts, outcome = self.job.config, self.counts, self.outcome
        rate = f"; {self.rows_per_second:,.1f} rows/s encoded" if self.rows_per_second else ""
        lines = [
            f"{config.table}: looked at {counts.read:,} of {outcome.rows:,} rows: filled {counts.written:,}, unchanged "
            f"{counts.unchanged:,}, rejected {counts.rejected:,}, nothing to embed in {counts.empty:,}",
            f"{self.job}: {duration(self.seconds)}, of which start-up {duration(self.timing.startup)}{rate}",
        ]
        if counts.reasons:
            lines.append(f"rejected, see {config.table}_rejects: {name_reasons(counts.reasons)}")
        return "\n".join([*lines, *remarks(self.job, outcome), *([f"report: {self.report}"] if self.report else [])])

    @property
    def rows_per_second(self) -> float | None:
        """Rows filled between the first batch, which ends the start-up, and the last commit; None for too few."""
        return self.timing.rows_per_second(self.counts.written)


def remarks(job: Job, outcome: Outcome) -> Sequence[str]:
    """What a user should know beside the figures."""
    config, lines = job.config, list[str]()
    names = ", ".join(f"`{name}`" for name in config.column)
    if outcome.moved:
        lines.append(f"{outcome.moved:,} fragments were rewritten by others meanwhile; their rows were found again")
    if outcome.arrived:
        lines.append(f"{outcome.arrived:,} rows arrived at the end and wait for the next run of this command")
    if not outcome.complete:
        lines.append(f"{names}: incomplete, since other rows than those of --where have no vectors yet")
        return lines
    said = f"{names}: complete, at version {outcome.version} of {config.table_uri}"
    if outcome.published:
        said += ", which is published"
    elif outcome.published is not None:
        said += ". Rows changed since a version was published: `vista embed` judges and publishes them"
    return [*lines, said]
