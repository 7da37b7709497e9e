"""The end of a run: what is missing, upkeep of the table, the gates, and, if they are passed, the new version."""

from __future__ import annotations

import functools
import logging
from datetime import timedelta
from typing import Any

import lance
import ray
from lance.optimize import CompactionTask, RewriteResult

from pipelines.canary import canary
from pipelines.job import Job, is_partial
from pipelines.ray_session import on_a_worker
from pipelines.sink.commit import Committer, clear_stale_rejects
from pipelines.sink.gates import Candidate, Verdict, conservation, judge
from pipelines.sink.maintain import bring_indexes_up_to_date, clean_up, compact, rewrite_one
from pipelines.sink.missing import delete_missing, find_missing
from pipelines.sink.publish import publish
from pipelines.sink.read_objects import forget, remembered
from pipelines.sink.table import published, table_uri
from vista_core import VistaError

log = logging.getLogger(__name__)


class GateError(VistaError):
    """The run's result did not pass a gate and was not published."""

    exit_code = 3


def finish(job: Job, committer: Committer, verdicts: list[Verdict]) -> int:
    """Publish the table if it passes the gates, which go to `verdicts`, and return the version that is published.

    Raises GateError, naming all gates that it did not pass.
    """
    verdicts.append(conservation(committer.counts))
    if not is_partial(job.config):
        verdicts += settle_missing(job, committer)
        committer.rejects = clear_stale_rejects(committer.rejects, last_read(job, committer))
    committer.lease.check(committer.table)
    compacted = compact(committer.table, functools.partial(rewrite, committer.table.uri))
    table = committer.table = on_a_worker(bring_indexes_up_to_date, compacted)
    now = published(table)
    before = None if now is None else lance.dataset(table.uri, version=now)
    if before is None or not same_content(table, before):
        candidate = Candidate(table, before, job.identity)
        verdicts += [*on_a_worker(judge, candidate), canary(job, candidate)]
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        raise GateError(
            "not published: " + "; ".join(f"{v.gate}: {v.message}" for v in failed) + ". What was committed stays; the "
            "same command judges it again"
        )
    if before is None or not same_content(table, before):
        publish(table, committer.lease)
        before = table
    try:
        tidy(job, committer)
    except (OSError, ValueError) as error:  # the next run does it, too
        log.warning("%s: old versions could not be removed: %s", table.uri, error)
    return int(before.version)


def settle_missing(job: Job, committer: Committer) -> list[Verdict]:
    """Count the rows whose record is no longer in the source and, if that was asked for, remove them."""
    if not committer.base.open().count_rows():
        return []
    missing = find_missing(committer, job.owns)
    known = sum(row["missing"] for row in job.skipped.values())
    committer.counts.missing = missing.rows + known
    if not job.config.deletes or not missing.rows:
        committer.objects.record_missing(missing.by_object)
        return []
    refusal = missing.refusal(job.config.delete_at_most)
    if refusal is None:
        delete_missing(committer, job.owns)
        return [Verdict("missing rows", True, f"{missing.rows:,} of {missing.owned:,} rows removed")]
    return [Verdict("missing rows", False, refusal)]


def last_read(job: Job, committer: Committer) -> dict[str, str]:
    """By which run each object was read in full last; of an object that is gone, this one found that out."""
    gone = {
        name
        for batch in committer.rejects.scanner(columns=["object"]).to_batches()
        for name in batch.column("object").unique().to_pylist()
        if name not in job.objects and job.owns(name)
    }
    read = dict.fromkeys({*gone, *filter(committer.objects.was_read, committer.objects.shares)}, committer.run)
    return read | {name: row["run"] for name, row in job.skipped.items()}


def rewrite(uri: str, tasks: list[CompactionTask]) -> list[RewriteResult]:
    """Rewrite fragments, on as many workers as there are."""
    execute: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(rewrite_one)
    return ray.get([execute.remote(uri, task) for task in tasks])


def same_content(one: lance.LanceDataset, other: lance.LanceDataset) -> bool:
    """Whether two versions have the same rows and the same indexes: readers would see no difference."""

    def content(table: lance.LanceDataset) -> tuple[list, set]:
        indexes = {segment.uuid for index in table.describe_indices() for segment in index.segments}
        return [each.metadata.to_json() for each in table.get_fragments()], indexes

    return content(one) == content(other) and one.schema.equals(other.schema, check_metadata=True)


def tidy(job: Job, committer: Committer) -> None:
    """After publishing: forget objects that are gone, and remove old versions and what dead runs left."""
    retention = timedelta(days=job.config.retention_days)
    if not is_partial(job.config):
        rows = remembered(committer.objects.uri)
        forget(committer.objects.uri, [r for name, r in rows.items() if name in job.objects or not job.owns(name)])
    runs = table_uri(job.config.db, f"{job.config.table}_runs")
    for uri in (committer.rejects.uri, runs):
        lance.dataset(uri).optimize.compact_files()
    for uri in (committer.table.uri, committer.rejects.uri, committer.objects.uri, runs):
        clean_up(uri, retention)
