"""The report of a run of `embed`: what it is made of, and that it never costs a night."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

from pipelines.embed.config import EmbedConfig
from pipelines.embed.job import OPTIONS, Job, configuration, describe_encoder
from pipelines.embed.summary import Summary, remarks
from pipelines.gates.judge import GateError
from pipelines.ingest.commit import Committer
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
from pipelines.report.sample_pictures import pictures_of
from pipelines.report.sample_section import sample_section
from pipelines.report.sections import (
    configuration_section,
    flow_section,
    gates_section,
    measured_section,
    nights_section,
    throughput_section,
    time_section,
    versions_section,
)
from pipelines.report.write import got, made, write_at_the_end, write_report
from pipelines.storage.errors import cause_of
from pipelines.storage.uris import redacted, redacted_text
from pipelines.tables.dataset import TableVersion
from pipelines.tables.runs import library_versions

READ_SECONDS: Final = 15.0  # for what is read from tables; on a disk it takes less than one
PICTURE_SECONDS: Final = 8.0
LONGEST_ERROR: Final = 3_000  # characters
PHASES: Final = {  # by the event that begins each
    "start": "start-up",
    "first rows": "reading and embedding",
    "closing": "missing rows, upkeep",
    "gates": "gates",
    "publishing": "publishing",
    "tidying": "tidying up",
}


class RunReport:
    """The report of one run, which begins when the run has the table."""

    def __init__(self, began: float) -> None:
        """`began` is on the clock of `time.monotonic`."""
        self.recorder = Recorder(began)
        self.run: tuple[Job, Committer] | None = None
        self.summary: Summary | None = None

    def watch(self, job: Job, committer: Committer) -> None:
        """From now on there is a run to report on."""
        self.run = job, committer

    def written(self) -> Summary:
        """Write the page of a run that is done, and return the run's summary, which says where the page is."""
        assert self.summary is not None, "the run is done"
        uri = write_at_the_end(self, f"version {self.summary.version} is published")
        return dataclasses.replace(self.summary, report=uri)

    def write(self, error: BaseException | None = None) -> str | None:
        """Write the page of the run, which `error` ended if it failed, and return where it is; None if it has none."""
        if self.run is None:
            return None
        job, committer = self.run
        destination = Destination.of(job.config.report, folder_of(job.config.db, job.config.table), committer.run)
        return write_report(destination, lambda: self.page(job, committer, error))

    def page(self, job: Job, committer: Committer, error: BaseException | None) -> Page:
        """The page, with what can be read of the tables."""
        recorder, config = self.recorder, job.config
        ended = recorder.clock() - recorder.began
        version = TableVersion(committer.base.uri, self.summary.version if self.summary else committer.table.version)
        found = gather(
            {
                "rejects": lambda: read_rejects(config.side_table("rejects"), committer.run, job.skipped),
                "nights": lambda: read_nights(config.side_table("runs")),
                "matplotlib": import_matplotlib,  # takes a second, as the others do
                "sample": lambda: sample_rows(version, job.column, recorder.pictures),
            },
            READ_SECONDS,
        )
        pictures = self.pictures(version, found["sample"], job)
        makers: dict[str, Callable[[], Section | None]] = {
            "What became of the records": lambda: flow_section(
                recorder.counts, remarks(job, recorder.counts, recorder.postponed)
            ),
            "Gates": lambda: gates_section(recorder.judgements),
            "Rejected records": lambda: rejects_section(recorder.counts, got(found, "rejects"), recorder.pictures),
            "A sample, with nearest neighbours": lambda: sample_section(got(found, "sample"), pictures),
            "Recall against latency": lambda: measured_section(recorder.index),
            "Throughput": lambda: throughput_section(*self.throughput(ended)),
            "Where the time went": lambda: time_section(recorder.parts(PHASES, ended), recorder.counts.seconds),
            "The nights before": lambda: nights_section(got(found, "nights"), committer.run),
            "Configuration": lambda: configuration_section(configuration(job), OPTIONS, EmbedConfig),
            "Versions": lambda: versions_section(library_versions(), encoder_of(job)),
        }
        verdict, explanation = self.verdict(error)
        return Page(
            title=config.table,
            subtitle=f"Run {committer.run} of vista embed: {redacted(config.source)} into {config.table_uri}, "
            f"with {describe_encoder(job)}",
            passed=error is None,
            verdict=verdict,
            explanation=explanation,
            tiles=self.tiles(ended),
            sections=[made(title, make) for title, make in makers.items()],
        )

    def pictures(self, version: TableVersion, sample: Sample | BaseException, job: Job) -> dict[str, bytes]:
        """Pictures of the sampled rows, by id, as far as they can be had in time."""
        if isinstance(sample, BaseException):
            return {}
        missing = [key for key in sample.ids if key not in sample.pictures]
        more = gather({"pictures": lambda: pictures_of(version, missing, job.rules)}, PICTURE_SECONDS)["pictures"]
        return sample.pictures | ({} if isinstance(more, BaseException) else more)

    def verdict(self, error: BaseException | None) -> tuple[str, list[str]]:
        """How the run ended, and what there is to say of that."""
        if error is None:
            version = self.summary.version if self.summary else self.recorder.published
            if self.recorder.published is None:
                return f"Version {version} stays published", ["The table does not differ from it."]
            return f"Published version {version}", [
                "All gates passed. Readers of the tag “published” see this version."
            ]
        cause, message = cause_of(error)
        words = "Not published: a gate failed" if isinstance(cause, GateError) else f"Failed: {type(cause).__name__}"
        stays = "Readers keep the version that was published before."
        if self.recorder.published is not None:
            stays = f"Version {self.recorder.published} was published before that."
        more = f"{stays} The same command continues from here."
        return words, [shortened(redacted_text(message), LONGEST_ERROR), more]

    def tiles(self, ended: float) -> list[tuple[str, str]]:
        """The figures that matter most."""
        counts = self.recorder.counts
        rate = self.summary.rows_per_second if self.summary else None
        every = counts.read + counts.skipped + counts.skipped_rejected
        rejected = counts.rejected + counts.skipped_rejected
        return [
            ("records of the source", f"{every:,}"),
            ("unchanged", f"{counts.unchanged + counts.skipped:,}"),
            ("embedded", f"{counts.written:,}"),
            ("rejected", f"{rejected:,} ({rejected / every:.1%})" if every else "0"),
            ("took", duration(ended)),
            ("embedded a second", f"{rate:,.1f}" if rate else "too few"),
        ]

    def throughput(self, ended: float) -> tuple[list, float, float]:
        """The timelines, and from when to when they are shown."""
        recorder = self.recorder
        panels = [("records that went through the encoders or were rejected, a second", recorder.arrived)]
        if recorder.counts.unchanged:
            panels.insert(0, ("records a second, unchanged ones included, by commits", recorder.resolved))
        return panels, recorder.phases.get("first rows", ended), recorder.phases.get("closing", ended)


def encoder_of(job: Job) -> dict[str, Any]:
    """The encoder, by its name and all of its identity; of several columns, each with its column's name."""
    every = [json.loads(each.column.identity.to_json()) for each in job.kept]
    if not job.others:
        return every[0]
    columns = [each.column.name for each in job.kept]
    return {f"{name}: {key}": value for name, found in zip(columns, every, strict=True) for key, value in found.items()}
