"""The report of a run of `backfill`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from pipelines.backfill.config import BackfillConfig
from pipelines.backfill.job import OPTIONS, Job, configuration
from pipelines.backfill.summary import Summary, remarks
from pipelines.gates.judge import GateError
from pipelines.progress import duration
from pipelines.report.destination import Destination, folder_of
from pipelines.report.figures import import_matplotlib
from pipelines.report.gather import gather
from pipelines.report.markup import shortened
from pipelines.report.neighbours import Sample, sample_rows
from pipelines.report.nights import read_nights
from pipelines.report.page import Page, Section
from pipelines.report.recorder import Recorder
from pipelines.report.rejects import read_rejects, rejects_section
from pipelines.report.sample_section import sample_section
from pipelines.report.sections import (
    configuration_section,
    flow_section,
    gates_section,
    nights_section,
    throughput_section,
    time_section,
    versions_section,
)
from pipelines.report.write import got, made, write_at_the_end, write_report
from pipelines.storage.errors import cause_of
from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import TableVersion
from pipelines.tables.origin import MARKER
from pipelines.tables.runs import library_versions

READ_SECONDS: Final = 15.0
LONGEST_ERROR: Final = 3_000  # characters
PHASES: Final = {"start": "start-up", "first rows": "reading and embedding", "closing": "closing", "gates": "gates"}


class BackfillReport:
    """The report of one run, which begins when the run has the table."""

    def __init__(self, job: Job, began: float) -> None:
        """`began` is on the clock of `time.monotonic`."""
        self.job = job
        self.recorder = Recorder(began)
        self.run: str | None = None  # set when the run has the table
        self.summary: Summary | None = None  # set when it succeeded

    def written(self) -> Summary:
        """Write the report of a run that succeeded, and return its summary."""
        assert self.summary is not None, "the run is done"
        uri = write_at_the_end(self, f"version {self.summary.outcome.version} has the vectors")
        return dataclasses.replace(self.summary, report=uri)

    def write(self, error: BaseException | None = None) -> str | None:
        """Write the page of the run, which `error` ended if it failed, and return where it is; None if it has none."""
        if (run := self.run) is None:
            return None
        config = self.job.config
        destination = Destination.of(config.report, folder_of(config.db, config.table), run)
        return write_report(destination, lambda: self.page(run, error))

    def page(self, run: str, error: BaseException | None) -> Page:
        """The page, with what can be read of the tables."""
        recorder, job, config = self.recorder, self.job, self.job.config
        ended, counts = recorder.clock() - recorder.began, recorder.counts
        found = gather(
            {
                "rejects": lambda: read_rejects(config.side_table("rejects"), run, ()),
                "nights": lambda: read_nights(config.side_table("runs")),
                "matplotlib": import_matplotlib,
                "sample": self.sample,
            },
            READ_SECONDS,
        )
        notes = list(remarks(job, self.summary.outcome)) if self.summary is not None else []
        timelines = [("rows that went through the encoders or were rejected, a second", recorder.arrived)]
        first, last = (recorder.phases.get(name, ended) for name in ("first rows", "closing"))
        makers: dict[str, Callable[[], Section | None]] = {
            "What became of the records": lambda: flow_section(counts, notes),
            "Gates": lambda: gates_section(recorder.judgements),
            "Rejected records": lambda: rejects_section(counts, got(found, "rejects"), recorder.pictures),
            "A sample, with nearest neighbours": lambda: sample_section(got(found, "sample"), {}),
            "Throughput": lambda: throughput_section(timelines, first, last),
            "Where the time went": lambda: time_section(recorder.parts(PHASES, ended), counts.seconds),
            "The nights before": lambda: nights_section(got(found, "nights"), run),
            "Configuration": lambda: configuration_section(configuration(job), OPTIONS, BackfillConfig),
            "Versions": lambda: versions_section(library_versions(), encoders_of(job)),
        }
        verdict, explanation = self.verdict(error)
        return Page(
            title=config.table,
            subtitle=f"Run {run} of vista backfill: {job}",
            passed=error is None,
            verdict=verdict,
            explanation=explanation,
            tiles=self.tiles(ended),
            sections=[made(title, make) for title, make in makers.items()],
        )

    def sample(self) -> Sample:
        """Some rows with their nearest neighbours by the new vectors, of a table that vista made."""
        if self.summary is None:
            return Sample()
        version = TableVersion(self.job.config.table_uri, self.summary.outcome.version)
        if MARKER not in (version.open().schema.metadata or {}):
            return Sample()
        return sample_rows(version, self.job.columns[0], [])

    def verdict(self, error: BaseException | None) -> tuple[str, list[str]]:
        """How the run ended, and what there is to say of that."""
        if error is None:
            assert self.summary is not None, "the run succeeded"
            outcome = self.summary.outcome
            return ("Complete" if outcome.complete else "Filled"), list(remarks(self.job, outcome))
        cause, message = cause_of(error)
        failed = "A gate failed" if isinstance(cause, GateError) else f"Failed: {type(cause).__name__}"
        stays = "Other columns and readers are untouched. The same command continues from here."
        return failed, [shortened(redacted_text(message), LONGEST_ERROR), stays]

    def tiles(self, ended: float) -> list[tuple[str, str]]:
        """The figures that matter most."""
        counts = self.recorder.counts
        rate = self.summary.rows_per_second if self.summary else None
        return [
            ("rows looked at", f"{counts.read:,}"),
            ("unchanged", f"{counts.unchanged:,}"),
            ("filled", f"{counts.written:,}"),
            ("rejected", f"{counts.rejected:,}"),
            ("took", duration(ended)),
            ("filled a second", f"{rate:,.1f}" if rate else "too few"),
        ]


def encoders_of(job: Job) -> dict[str, str]:
    """The encoder of each column."""
    return {each.name: f"{each.identity.model}: {each.identity.to_json()}" for each in job.columns}
