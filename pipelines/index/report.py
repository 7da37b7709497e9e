"""The report of a run of `index`: what its searches find, how long they take, and what that cost to build."""

from __future__ import annotations

import dataclasses
import time
from typing import Final

import lance

from pipelines.events import (
    Event,
    IndexExchanged,
    IndexMeasured,
    IndexTrained,
    SegmentBuilt,
    SegmentsMerged,
)
from pipelines.index.config import IndexConfig
from pipelines.progress import duration
from pipelines.records import ID, RUN
from pipelines.report.destination import Destination, folder_of
from pipelines.report.figures import import_matplotlib
from pipelines.report.gather import gather
from pipelines.report.markup import shortened
from pipelines.report.neighbours import Sample, sample_rows
from pipelines.report.nights import read_nights
from pipelines.report.page import Page
from pipelines.report.recorder import Phase
from pipelines.report.sample_section import sample_section
from pipelines.report.sections import (
    configuration_section,
    measured_section,
    nights_section,
    time_section,
    versions_section,
)
from pipelines.report.write import got, made, write_report
from pipelines.storage.errors import cause_of
from pipelines.storage.uris import redacted_text
from pipelines.tables.dataset import TableVersion
from pipelines.tables.runs import library_versions
from pipelines.tables.vector_column import VectorColumn
from vista_core import UsageError

READ_SECONDS: Final = 15.0
LONGEST_ERROR: Final = 3_000  # characters
PHASES: Final = {  # by the event that ends each
    IndexTrained: "finding partitions",
    SegmentBuilt: "writing segments",
    SegmentsMerged: "merging segments",
    IndexMeasured: "measuring",
    IndexExchanged: "taking the old one's place",
}


class IndexReport:
    """A listener of a run, and the page that it leaves."""

    def __init__(self, config: IndexConfig, column: str, began: float) -> None:
        """`began` is on the clock of `time.monotonic`."""
        self.config = config
        self.column = column
        self.began = began
        self.run: str | None = None  # set when the run has the table
        self.version: int | None = None  # that readers see in the end; None if the run failed
        self.measured: IndexMeasured | None = None
        self.phases: dict[str, Phase] = {}
        self.last = 0.0

    def __call__(self, event: Event) -> None:
        """Note the measurement, and how long each part of the build took."""
        now = time.monotonic() - self.began
        if (name := PHASES.get(type(event))) is not None:
            start = self.phases[name].start if name in self.phases else self.last
            self.phases[name], self.last = Phase(name, start, now), now
        if isinstance(event, IndexMeasured):
            self.measured = event

    def write(self, error: BaseException | None = None) -> str | None:
        """Write the page of the run, which `error` ended if it failed, and return its URI; None if there is none."""
        if (run := self.run) is None:
            return None
        config = self.config
        destination = Destination.of(config.report, folder_of(config.db, config.table), run)
        return write_report(destination, lambda: self.page(run, error))

    def page(self, run: str, error: BaseException | None) -> Page:
        """The page, with what can be read of the tables."""
        config, ended = self.config, time.monotonic() - self.began
        found = gather(
            {
                "nights": lambda: read_nights(config.side_table("runs")),
                "matplotlib": import_matplotlib,
                "sample": self.sample,
            },
            READ_SECONDS,
        )
        options = {"options": dataclasses.asdict(config)}
        makers = {
            "Recall against latency": lambda: measured_section(self.measured, config.recall),
            "A sample, with nearest neighbours": lambda: sample_section(got(found, "sample"), {}),
            "Where the time went": lambda: time_section([*self.phases.values()], {}),
            "The nights before": lambda: nights_section(got(found, "nights"), run),
            "Configuration": lambda: configuration_section(options, "options", IndexConfig),
            "Versions": lambda: versions_section(library_versions(), {}),
        }
        verdict, explanation = self.verdict(error)
        chosen = self.measured.chosen if self.measured is not None else None
        return Page(
            title=config.table,
            subtitle=f"Run {run} of vista index: the column {self.column} of {config.table_uri}",
            passed=error is None,
            verdict=verdict,
            explanation=explanation,
            tiles=[
                ("recall@10 asked for", f"{config.recall:g}"),
                ("measured", f"{chosen.recall:.3f}" if chosen else "none"),
                ("ms at p50", f"{chosen.p50_ms:.1f}" if chosen else "none"),
                ("ms at p95", f"{chosen.p95_ms:.1f}" if chosen else "none"),
                ("took", duration(ended)),
            ],
            sections=[made(title, make) for title, make in makers.items()],
        )

    def sample(self) -> Sample:
        """Some rows with the neighbours that the index finds; none for a table whose rows have no ids."""
        table = lance.dataset(self.config.table_uri, version=self.version)
        try:
            column = VectorColumn.of(table.schema, self.column)
        except UsageError:
            return Sample()
        if not {ID, RUN} <= set(table.schema.names):
            return Sample()
        return sample_rows(TableVersion(table.uri, table.version), column, [])

    def verdict(self, error: BaseException | None) -> tuple[str, list[str]]:
        """How the run ended, and what there is to say of that."""
        if error is not None:
            cause, message = cause_of(error)
            stays = "Searches go on with the index that they had. The same command continues the build."
            return f"Failed: {type(cause).__name__}", [shortened(redacted_text(message), LONGEST_ERROR), stays]
        return f"Readers see version {self.version}", []
