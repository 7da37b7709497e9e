"""The lines that end a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.embed.job import Job, describe_encoder
from pipelines.events import Counts
from pipelines.gates.reject_rate import name_reasons
from pipelines.ingest.missing import WHY_SOME_STAY
from pipelines.progress import Timing, duration
from pipelines.terminal import one_line


def how_far(job: Job, counts: Counts, published: int | None) -> str:
    """What a run that was stopped has done, and what the next one does."""
    if published is not None:
        return f"version {published} is published; the next run tidies up"
    left = max(0, job.rows - counts.resolved)
    if left:
        return f"{counts.resolved:,} rows committed, about {left:,} left; the same command continues"
    return f"{counts.resolved:,} rows committed, none left; the same command checks and publishes them"


def remarks(job: Job, counts: Counts, postponed: Sequence[str]) -> list[str]:
    """What a user should know beside the figures: rows that left the table or may, values that don't fit, upkeep."""
    config, lines = job.config, list[str]()
    if counts.deleted:
        lines.append(f"removed {counts.deleted:,} rows that are no longer in the source")
    if left := counts.missing - counts.deleted:
        note = f"not removed: {WHY_SOME_STAY}" if config.deletes else "--delete-missing removes them"
        lines.append(f"{left:,} rows are no longer in the source ({note})")
    if counts.removed:
        lines.append(f"removed {counts.removed:,} rows whose record is rejected now (--keep-stale keeps them)")
    if counts.foreign:
        lines.append(
            f"{counts.foreign:,} rows are those of other clients (`_object IS NULL`), and stay: a record with the "
            "same id replaces such a row"
        )
    for each in counts.misfits.values():
        lines.append(
            f"column {each.column}: {each.number:,} values don't fit and are null, such as {one_line(each.example)}"
        )
    lines += [f"left for a later run: {message}" for message in postponed]
    return lines


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    job: Job
    counts: Counts
    version: int
    seconds: float
    timing: Timing
    postponed: tuple[str, ...] = ()  # upkeep that is left for a later run
    report: str | None = None  # where the page is, if one was written

    def __str__(self) -> str:
        """The lines that end a run."""
        config, counts, skipped = self.job.config, self.counts, self.job.skipped
        rate = f"; {self.rows_per_second:,.1f} rows/s encoded" if self.rows_per_second else ""
        lines = [
            f"{config.table}: read {counts.read:,}: written {counts.written:,}, rewritten {counts.rewritten:,}, "
            f"unchanged {counts.unchanged:,}, rejected {counts.rejected:,}",
            f"{describe_encoder(self.job)}: {duration(self.seconds)}, of which start-up "
            f"{duration(self.timing.startup)}, gates and upkeep {duration(self.closing_seconds)}{rate}",
        ]
        if counts.skipped or skipped:
            lines.append(f"skipped, unchanged: {len(skipped):,} files, {counts.skipped:,} rows")
        if counts.reasons:
            lines.append(f"rejected, see {config.table}_rejects: {name_reasons(counts.reasons)}")
        lines += remarks(self.job, counts, self.postponed)
        lines += config.scope.describe()
        lines.append(f"published version {self.version} of {config.table_uri}")
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)

    @property
    def rows_per_second(self) -> float | None:
        """Rows encoded between the first batch, which ends the start-up, and the last commit; None for too few.

        Unchanged rows don't count: in a run that resumes they would make any encoder look fast.
        """
        return self.timing.rows_per_second(self.counts.written)

    @property
    def closing_seconds(self) -> float:
        """What came after the last commit: missing rows, upkeep, gates."""
        return self.seconds - self.timing.ended
