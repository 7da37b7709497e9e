"""What a gate may look at: the run's figures, the candidate version, and the one that is published.

Gates judge what differs between the two versions, whichever run wrote it. So rows of a run that failed a gate are
judged again by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import lance
import pyarrow as pa

from pipelines.events import Counts, MeasuredSetting, Verdict
from pipelines.gates.reference import ReferencePath
from pipelines.index.measure import Searched, measure_setting
from pipelines.ingest.missing import Missing
from pipelines.quality.gate_task import GateTask
from pipelines.records import ID, RUN
from pipelines.tables.dataset import TableVersion
from pipelines.tables.default_column import default_column
from pipelines.tables.runs import Runs
from pipelines.tables.search_setting import SearchSetting
from pipelines.tables.vector_column import VectorColumn, fingerprint_column

OnWorkers = Callable[[Callable[..., Any], Sequence[tuple]], list[Any]]


@dataclass(frozen=True)
class Tolerance:
    """What the user lets pass."""

    reject_rate: float = 0.05  # of the records read
    delete_missing: bool = False
    delete_at_most: int | None = None


def here(function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
    """Call `function` with each of the argument lists, in this process."""
    return [function(*arguments) for arguments in calls]


@dataclass(frozen=True)
class Evidence:
    """Collected at the end of a run, and after each commit for `reject_rate`, which looks at the counts alone."""

    counts: Counts
    table: lance.LanceDataset  # the candidate version
    column: VectorColumn  # the first of those that the run fills
    published: lance.LanceDataset | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    missing: Missing = field(default_factory=Missing)
    example: Callable[[str], str] = str  # message of one of this run's rejects, by reason
    reference: ReferencePath | None = None
    owns: Callable[[str], bool] = lambda name: True  # whether a file, by its name in the table, is of this source
    runs: Runs | None = None
    on_workers: OnWorkers = here  # memory-heavy functions run on workers
    others: tuple[VectorColumn, ...] = ()  # the other columns that the run fills
    task: GateTask | None = None  # by which its quality is compared
    recalls: dict[tuple[int, str], tuple[MeasuredSetting, float]] = field(default_factory=dict)  # as far as measured

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """All columns that the run fills."""
        return (self.column, *self.others)

    @cached_property
    def fresh(self) -> list[lance.LanceFragment]:
        """The fragments that the published version doesn't have: all rows that differ from it are in them."""
        before = {} if self.published is None else {each.fragment_id: each for each in self.published.get_fragments()}
        return [
            each
            for each in self.table.get_fragments()
            if each.fragment_id not in before or data_files(each) != data_files(before[each.fragment_id])
        ]

    def recall(self, column: str, setting: SearchSetting) -> tuple[MeasuredSetting, float]:
        """What searches by the stored setting find in the candidate version, and the standard error of the recall."""
        key = (self.table.version, column)
        if key not in self.recalls:
            searched = Searched(TableVersion(self.table.uri, self.table.version), column, setting.metric)
            self.recalls[key] = measure_setting(
                searched, setting, lambda function, calls: enumerate(self.on_workers(function, calls))
            )
        return self.recalls[key]

    def unpublished(self, rows: pa.Table) -> list[bool]:
        """Per row (id, fingerprint, `_run`): True if the published version does not have this row.

        Each row is looked up, since rows in fresh fragments may be old: compaction moves them there.
        """
        if self.published is None:
            return [True] * len(rows)
        columns, fingerprint = [ID, self.column.fingerprint, RUN], self.column.fingerprint
        if fingerprint not in self.published.schema.names:  # the column came later; of one content all are the same
            fingerprint = fingerprint_column(default_column(self.published))
        version = TableVersion(self.published.uri, self.published.version)
        there = version.find(rows[ID].to_pylist(), [fingerprint, RUN])
        known = set(zip(*(there[name].to_pylist() for name in (ID, fingerprint, RUN)), strict=True))
        return [row not in known for row in zip(*(rows[name].to_pylist() for name in columns), strict=True)]


Gate = Callable[[Evidence], Verdict]


def of_every_column(evidence: Evidence, judge: Callable[[VectorColumn], Verdict]) -> Verdict:
    """The verdict on all columns that the run fills: one that failed names those at fault, if there are several."""
    verdicts = {column.name: judge(column) for column in evidence.columns}
    found = verdicts[evidence.column.name]
    if not evidence.others:
        return found
    failed = {name: verdict for name, verdict in verdicts.items() if not verdict.passed}
    message = "; ".join(f"`{name}`: {verdict.message}" for name, verdict in (failed or verdicts).items())
    return Verdict(found.gate, not failed, message)


def data_files(fragment: lance.LanceFragment) -> list[str]:
    """The data files of a fragment, which a deletion vector doesn't change."""
    return [file.path for file in fragment.metadata.files]
