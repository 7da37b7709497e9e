"""Embed a catalog: the whole run, from the options to the published version."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import lance

from pipelines.cluster.waiting import PATIENCE_SECONDS
from pipelines.embed.catalog import open_catalog
from pipelines.embed.config import EmbedConfig
from pipelines.embed.finish import Gates, collect_evidence, finish
from pipelines.embed.flow import Compute, stream
from pipelines.embed.job import OPTIONS, Job, configuration, resolve_job, with_absolute_paths
from pipelines.embed.plan import Plan, plan
from pipelines.embed.report import RunReport
from pipelines.embed.summary import Summary, how_far
from pipelines.embed.tables import open_manifest, open_tables, settle_table, table_to_continue
from pipelines.events import Events, Listener, Reading, ReadingEnded
from pipelines.forecast.first_minute import RunForecast
from pipelines.forecast.former import former_runs
from pipelines.gates.judge import require_few_rejects
from pipelines.ingest.commit import Committer, Target
from pipelines.ingest.reembed import begin_reembedding
from pipelines.progress import RunProgress, Stopwatch
from pipelines.report.write import reporting
from pipelines.run_metrics import RunMetrics
from pipelines.signals import stopped_by
from pipelines.stages.pool import Stages
from pipelines.stages.select import Snapshot, file_hashes
from pipelines.storage.errors import cause_of
from pipelines.tables.indexes import index_ids, lacks_ids
from pipelines.tables.lease import hold
from pipelines.tables.runs import LIMITS, HeartbeatLimits, RunRecord, Runs

REJECTS_JUDGED_FROM = 1_000  # records; before that a few bad ones could end a run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run is made of beside its options: tests and benchmarks listen, or put parts in place of others."""

    listeners: Sequence[Listener] = ()
    stages: Stages = field(default_factory=Stages)
    gates: Gates = field(default_factory=Gates)
    patience: float = PATIENCE_SECONDS  # after which a run that gets no rows says what it waits for
    compute: Compute = field(default_factory=Compute)
    heartbeats: HeartbeatLimits = LIMITS


def embed(config: EmbedConfig, setup: Setup = Setup()) -> Summary | Plan:
    """Embed what is new or changed in `config.source`, and publish it; with `config.plan` only say what there is to do.

    Raises UsageError before anything is written, and VistaError when a run fails: what it committed stays, and the
    same command resumes it. Raises KeyboardInterrupt, which says how far the run came, if a signal ends it.
    """
    began, started = time.monotonic(), setup.heartbeats.machine.now()
    config = with_absolute_paths(config)
    existing = table_to_continue(config)
    catalog = open_catalog(config, existing)
    log.info("source %s: %s", config.source, "; ".join([*catalog.source.describe(), *config.scope.describe()]))
    job = resolve_job(config, catalog, existing, setup.compute.start(config.device))
    if config.plan:
        return plan(job, existing, setup.stages, began)
    log.info("%s", job)
    table, rejects = open_tables(job, existing)
    runs, stopwatch = Runs(config.side_table("runs")), Stopwatch(began)
    with (
        reporting(RunReport(began)) as report,
        hold(table if existing is None else existing, runs, config.take_over, setup.heartbeats) as (table, lease),
        RunRecord(runs.uri, lease.run, started, configuration(job), setup.heartbeats).running() as record,
        lease.explaining_failures(table.uri),
        RunProgress() as progress,
    ):
        record.mark_abandoned()
        table = settle_table(job, existing, table)
        job, target = prepare(job, table, lance.dataset(rejects.uri), record.run, setup.compute)
        forecast = RunForecast(record, began, former_runs(runs.uri, configuration(job), OPTIONS))
        forecast.start(job.rows)
        listeners: Sequence[Listener] = (
            record,
            stopwatch,
            forecast,
            report.recorder,
            progress,
            RunMetrics(config.table),
        )
        committer = Committer(target, lease, Events([*listeners, *setup.listeners]))
        report.watch(job, committer)
        with saying_how_far(job, committer, record):
            ingest(job, committer, setup)
            version = finish(job, committer, setup.gates, setup.compute)
            seconds = time.monotonic() - began
            report.summary = Summary(job, committer.counts, version, seconds, stopwatch.timing, stopwatch.postponed)
            record.succeed(version, report.summary.rows_per_second)
    return report.written()


@contextmanager
def saying_how_far(job: Job, committer: Committer, record: RunRecord) -> Iterator[None]:
    """If a signal ends the run, raise KeyboardInterrupt with what is done and what is left."""
    try:
        yield
    except BaseException as error:
        if (by := stopped_by(error)) is None:
            raise
        what_else = "" if isinstance(error, KeyboardInterrupt) else f". {cause_of(error)[1]}"
        far = how_far(job, committer.counts, record.published_version)
        raise KeyboardInterrupt(f"stopped by {by.name}: {far}{what_else}") from error


def prepare(
    job: Job, table: lance.LanceDataset, rejects: lance.LanceDataset, run: str, compute: Compute
) -> tuple[Job, Target]:
    """Make the table ready to be written to, now that this run holds the lease."""
    if job.config.reembed:
        origin = job.catalog.origin(job.config, job.column.identity.model)
        table, column = begin_reembedding(table, job.column, origin, run)
        first, *others = job.kept
        job = dataclasses.replace(job, kept=(dataclasses.replace(first, column=column), *others))
    manifest = open_manifest(job, table.schema, run)
    if lacks_ids(table):
        compute.call(index_ids, table.uri)
        table = lance.dataset(table.uri)
    keep_stale, has_ids = job.config.keep_stale, job.source.has_ids
    return job, Target(table, job.column, rejects, manifest, keep_stale, has_ids, job.others)


def ingest(job: Job, committer: Committer, setup: Setup) -> None:
    """Stream the source through the flow, and commit what arrives; then, once more, the units with deferred conflicts.

    Raises TooManyRejectsError if more of the source is rejected than the user allows: during the run from 1,000
    records on, before it costs a whole night, and at the end.
    """
    skipped, compute = job.skipped.values(), setup.compute
    committer.count_skipped(sum(each.held.rows for each in skipped), sum(each.rejected for each in skipped))
    hashes = (file_hashes(job.files), file_hashes(job.skipped))
    snapshot = Snapshot(committer.base, job.column, *hashes, others=job.others)

    def judge_rejects() -> None:
        if committer.counts.read + committer.counts.skipped >= REJECTS_JUDGED_FROM:
            require_few_rejects(collect_evidence(job, committer, compute), committer.events)

    if job.units:
        committer.events.report(Reading(job.rows, job.exact))
        blocks = compute.flow(job, job.units, snapshot, setup.stages, setup.patience)
        stream(blocks, job, committer, compute, judge_rejects)
        deferred = {file for file, stats in committer.manifest.stats.items() if stats.deferred}
        if again := [unit for unit in job.units if not deferred.isdisjoint(job.files_of(unit))]:
            second = dataclasses.replace(snapshot, second_pass=True, decided=committer.decided())
            blocks = compute.flow(job, again, second, setup.stages, setup.patience)
            stream(blocks, job, committer, compute, judge_rejects)
    committer.events.report(ReadingEnded(committer.counts))
    require_few_rejects(collect_evidence(job, committer, compute), committer.events)
