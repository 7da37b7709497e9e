"""Read a unit of the source and select from it in the same task: most nights nearly all that is read ends here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch_stats import SECONDS, BatchStats, with_measured
from pipelines.cluster.child import ProcessLimits
from pipelines.cluster.logs import captured_warnings
from pipelines.fetching.locations import FetchRules
from pipelines.reasons import Reject
from pipelines.records import OBJECT, read_schema, replace_column, with_slots
from pipelines.sources.source import Source
from pipelines.sources.units import Unit
from pipelines.stages.fetch import identify
from pipelines.stages.isolation import READING, read_or_reject
from pipelines.stages.report import StageClock
from pipelines.stages.select import Snapshot, select, with_content

IDENTIFIED_ROWS = 256  # whose images may be in memory at once


@dataclass(frozen=True)
class Task:
    """One unit to read. `mark` precedes the names of its files in the table: `NAME#`, or nothing."""

    unit: Unit
    mark: str = ""
    files: tuple[str, ...] = ()  # names of the unit's files, which the table knows with the mark

    def row(self) -> dict[str, bytes]:
        """A row of the dataset that the flow starts from."""
        return {"task": pickle.dumps(self)}


def read_and_select(
    batch: dict[str, Any], source: Source, rules: FetchRules, snapshot: Snapshot, limits: ProcessLimits = READING
) -> Iterator[pa.Table]:
    """The tasks of `batch`, streamed: records that need a vector, rejects, and batch statistics."""
    for row in batch["task"]:
        task: Task = pickle.loads(row)
        clock = StageClock()
        with captured_warnings() as warnings:
            batches = read_or_reject(source, task.unit, limits)
            for records, rejects in clock.each("read", task.unit.scope.select(batches)):
                yield from selected(records, rejects, task, Selection(source, rules, snapshot, clock))
        ended = () if snapshot.second_pass else task.files
        stats = BatchStats(ended=ended, warnings=warnings).row(record_schema(source, len(snapshot.columns)))
        yield with_measured(stats, SECONDS, clock.seconds)


@dataclass(frozen=True)
class Selection:
    """By what a batch is selected, and the clock that counts how long that takes."""

    source: Source
    rules: FetchRules
    snapshot: Snapshot
    clock: StageClock


def selected(records: pa.Table, rejects: dict[int, Reject], task: Task, by: Selection) -> Iterator[pa.Table]:
    """What is selected from a batch, and its statistics."""
    if task.mark:
        records = replace_column(records, OBJECT, pc.binary_join_element_wise(task.mark, records[OBJECT], ""))
    rows = IDENTIFIED_ROWS if by.source.external_images else max(1, len(records))
    for start in range(0, len(records), rows):
        bad = {row - start: reject for row, reject in rejects.items() if start <= row < start + rows}
        with by.clock.on("fetch"):
            identified = identify(records.slice(start, rows), bad, by.rules)
        yield from by.clock.each("select", select(*identified, by.source.has_ids, by.snapshot))


def record_schema(source: Source, slots: int = 1) -> pa.Schema:
    """The schema of records behind select."""
    return with_slots(with_content(read_schema(source.extra).empty_table(), {}, [], True), slots).schema
