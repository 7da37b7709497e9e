"""The end of a run: missing rows, upkeep of the table, the gates and, if these pass, the new published version."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import lance

from pipelines.embed.flow import Compute
from pipelines.embed.job import Job
from pipelines.embed.recall import keep_recall
from pipelines.events import Publishing, UpkeepPostponed
from pipelines.gates.evidence import Evidence, Gate, Tolerance
from pipelines.gates.judge import OF_THE_RUN, OF_THE_TABLE, judge, require
from pipelines.gates.reference import ReferencePath
from pipelines.index.pieces import Pieces
from pipelines.ingest.commit import Committer
from pipelines.ingest.manifest import prune, read_manifest
from pipelines.ingest.missing import Missing, delete_missing, find_missing
from pipelines.records import OBJECT
from pipelines.signals import deferred
from pipelines.storage.errors import cause_of
from pipelines.tables.dataset import published
from pipelines.tables.indexes import bring_indexes_up_to_date
from pipelines.tables.publish import publish, same_content
from pipelines.tables.runs import Runs
from pipelines.tables.upkeep import UpkeepError, clean_up, compact, postponing, rewrite_one

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gates:
    """The gates that a run has to pass; benchmarks without an encoder have others."""

    of_the_run: tuple[Gate, ...] = OF_THE_RUN
    of_the_table: tuple[Gate, ...] = OF_THE_TABLE


def finish(job: Job, committer: Committer, gates: Gates, compute: Compute) -> int:
    """Publish the table if it passes the gates, and return the published version. Raises GateError otherwise."""
    events, missing = committer.events, Missing()
    committer.lease.check(lance.dataset(committer.base.uri))  # before the other tables, which it does not fence
    if job.config.scope.is_whole:
        missing = count_and_remove_missing(job, committer)
        committer.clear_stale_rejects(last_runs(job, committer))
    keep_up(committer, functools.partial(compact, execute=functools.partial(rewrite, committer.base.uri, compute)))
    keep_up(committer, functools.partial(compute.call, bring_indexes_up_to_date))
    count_foreign(committer)
    table, before = committer.table, published_version(committer.table)
    changed = before is None or not same_content(table, before)
    evidence = dataclasses.replace(collect_evidence(job, committer, compute), published=before, missing=missing)
    verdicts = judge(gates.of_the_run, evidence, events)
    if changed:
        evidence = keep_index(job, committer, evidence, compute)
        table = evidence.table
        verdicts += judge(gates.of_the_table, evidence, events)
    require(verdicts)
    if changed:
        events.report(Publishing(table.version))
        publish(table, committer.lease, events)
        before = table
    try:
        with postponing("old versions were not removed"):
            tidy(job, committer)
    except (UpkeepError, OSError, ValueError) as error:  # the version is published, even if the store fails now
        postpone(committer, error)
    assert before is not None, "unchanged means that something was published"
    return int(before.version)


def keep_index(job: Job, committer: Committer, evidence: Evidence, compute: Compute) -> Evidence:
    """The evidence after the upkeep of a measured index, which may end with a version in which searches are exact."""
    try:
        return keep_recall(evidence, committer, Pieces(job.config.side_table("index_build")), compute.workers)
    except UpkeepError as error:
        postpone(committer, error)
        return dataclasses.replace(evidence, table=committer.table)


def collect_evidence(job: Job, committer: Committer, compute: Compute) -> Evidence:
    """What the gates judge by during a run."""
    config = job.config
    first, *others = [each.settings for each in job.kept]
    return Evidence(
        counts=committer.counts,
        table=committer.table,
        column=job.column,
        tolerance=Tolerance(config.max_reject_rate, config.deletes, config.delete_at_most),
        example=committer.example_of,
        reference=ReferencePath(job.source, job.files, job.mark, job.rules, first, tuple(others)),
        owns=job.owns,
        runs=Runs(config.side_table("runs")),
        on_workers=compute.call_each,
        others=job.others,
        task=job.gate_task,
    )


def published_version(table: lance.LanceDataset) -> lance.LanceDataset | None:
    """The version that is published, opened."""
    now = published(table)
    return None if now is None else lance.dataset(table.uri, version=now)


def count_and_remove_missing(job: Job, committer: Committer) -> Missing:
    """Count the rows whose record is no longer in the source and, if that was asked for and is safe, remove them."""
    if not committer.base.open().count_rows():
        return Missing()
    known = sum(entry.missing for entry in job.skipped.values())
    missing = dataclasses.replace(find_missing(committer, job.owns), known=known)
    committer.count_missing(missing.rows + known)
    if not job.config.deletes or not missing.rows:
        committer.manifest.record_missing(missing.by_file)
    elif missing.refusal(job.config.delete_at_most) is None:
        with deferred():
            delete_missing(committer, job.owns)
    return missing


def count_foreign(committer: Committer) -> None:
    """Count the rows that other clients wrote: they are of no file, so they are never missing."""
    foreign = committer.table.count_rows(f"{OBJECT} IS NULL")
    committer.set_counts(dataclasses.replace(committer.counts, foreign=foreign))


def last_runs(job: Job, committer: Committer) -> dict[str, str]:
    """The run that read each file in full last; for a file that is gone, the run that found that out: this one."""
    gone = {
        name
        for batch in committer.rejects.scanner(columns=["object"]).to_batches()
        for name in batch.column("object").unique().to_pylist()
        if job.is_gone(name)
    }
    manifest = committer.manifest
    read = dict.fromkeys({*gone, *filter(manifest.was_read, manifest.stats)}, committer.run)
    return read | {name: entry.run for name, entry in job.skipped.items()}


def keep_up(committer: Committer, upkeep: Callable[[lance.LanceDataset], lance.LanceDataset]) -> None:
    """Have upkeep done on the table; what can't be done is left for a later run, since it must not cost a night."""
    try:
        committer.maintain(upkeep)
    except UpkeepError as error:
        postpone(committer, error)
        committer.reopen()


def postpone(committer: Committer, error: Exception) -> None:
    """Say what upkeep is left for a later run."""
    _, message = cause_of(error)
    log.warning("%s: %s. A later run tries again", committer.base.uri, message)
    committer.events.report(UpkeepPostponed(message))


def rewrite(uri: str, compute: Compute, tasks: list) -> list:
    """Rewrite fragments on workers; `tasks` are Lance's compaction tasks."""
    return compute.call_each(rewrite_one, [(uri, task) for task in tasks])


def tidy(job: Job, committer: Committer) -> None:
    """After publishing: prune the manifest, and remove old versions and the files that dead runs left."""
    retention, manifest = timedelta(days=job.config.retention_days), committer.manifest.uri
    if job.config.scope.is_whole:
        entries = read_manifest(manifest)
        prune(manifest, [entry for name, entry in entries.items() if not job.is_gone(name)])
    runs = job.config.side_table("runs")
    for uri in (committer.rejects.uri, runs):
        lance.dataset(uri).optimize.compact_files()
    for uri in (committer.base.uri, committer.rejects.uri, manifest, runs):
        clean_up(uri, retention)
