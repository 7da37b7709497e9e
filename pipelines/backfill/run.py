"""Backfill vector columns: the whole run, from the options to columns that are complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipelines.backfill.config import BackfillConfig
from pipelines.backfill.filler import Filler, Work
from pipelines.backfill.finish import Ending
from pipelines.backfill.finished import Finished
from pipelines.backfill.gates import GATES, Gate
from pipelines.backfill.job import Job, add_columns, configuration, resolve_job, table_to_fill, with_absolute_paths
from pipelines.backfill.parked import Parked
from pipelines.backfill.plan import Plan, plan
from pipelines.backfill.report import BackfillReport
from pipelines.backfill.rounds import Rounds
from pipelines.backfill.summary import Summary
from pipelines.cluster.session import start_ray
from pipelines.cluster.waiting import PATIENCE_SECONDS
from pipelines.events import Events, Listener
from pipelines.forecast.first_minute import RunForecast
from pipelines.progress import RunProgress, Stopwatch
from pipelines.records import REJECT_SCHEMA
from pipelines.report.write import reporting
from pipelines.run_metrics import RunMetrics
from pipelines.signals import stopped_by
from pipelines.stages.pool import Stages
from pipelines.storage.errors import cause_of
from pipelines.tables.dataset import ensure_dataset
from pipelines.tables.lease import hold
from pipelines.tables.runs import RunRecord, Runs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run is made of beside its options: tests and benchmarks listen, or put parts in place of others."""

    listeners: Sequence[Listener] = ()
    stages: Stages = field(default_factory=Stages)
    gates: Sequence[Gate] = GATES
    patience: float = PATIENCE_SECONDS


def backfill(config: BackfillConfig, setup: Setup = Setup()) -> Summary | Plan:
    """Fill vector columns of a table from its own rows; with `config.plan` only say what there is to do.

    Raises UsageError before anything is written, and VistaError when a run fails: what it committed stays, and the
    same command resumes it. Raises KeyboardInterrupt, which says how far the run came, if a signal ends it.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    config = with_absolute_paths(config)
    seen = table_to_fill(config)
    start_ray()
    job = resolve_job(config, seen)
    if config.plan:
        return plan(job, seen, setup.stages, began)
    log.info("%s: %s", config.table_uri, job)
    runs, stopwatch = Runs(config.side_table("runs")), Stopwatch(began)
    with (
        reporting(BackfillReport(job, began)) as report,
        hold(seen, runs, config.take_over) as (table, lease),
        RunRecord(runs.uri, lease.run, started, configuration(job)).running() as record,
        lease.explaining_failures(table.uri),
        RunProgress() as progress,
    ):
        record.mark_abandoned()
        report.run = lease.run
        table = add_columns(table, job.targets)
        work = Work(
            uri=table.uri,
            fillings=job.fillings(table),
            lease=lease,
            rejects_uri=ensure_dataset(config.side_table("rejects"), REJECT_SCHEMA).uri,
            finished=Finished(config.side_table("backfilled")),
            events=Events(
                [
                    record,
                    stopwatch,
                    RunForecast(record, began),
                    report.recorder,
                    progress,
                    RunMetrics(config.table),
                    *setup.listeners,
                ],
            ),
            is_whole=config.where is None,
            commit_seconds=config.commit_seconds,
        )
        filler = Filler(work, Parked.open(config.side_table("backfill"), job.columns))
        ending = Ending(job, filler, setup.gates)
        with saying_how_far(job, filler):
            found = Rounds(job, filler, setup.stages, setup.patience, ending.judge_rejects).run()
            outcome = ending.finish(*found)
            report.summary = Summary(job, filler.counts, outcome, time.monotonic() - began, stopwatch.timing)
            record.succeed(outcome.version, report.summary.rows_per_second)
    return report.written()


@contextmanager
def saying_how_far(job: Job, filler: Filler) -> Iterator[None]:
    """If a signal ends the run, raise KeyboardInterrupt with what is done."""
    try:
        yield
    except BaseException as error:
        if (by := stopped_by(error)) is None:
            raise
        what_else = "" if isinstance(error, KeyboardInterrupt) else f". {cause_of(error)[1]}"
        raise KeyboardInterrupt(
            f"stopped by {by.name}: {filler.counts.written:,} rows of {job.config.table} filled; the same command "
            f"continues{what_else}"
        ) from error
