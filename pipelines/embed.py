"""Embed a catalog: read -> select -> decode -> encode -> write -> commit -> gate -> publish."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from pipelines.finish import GateError, finish
from pipelines.job import (
    Job,
    configuration,
    excerpts,
    library_versions,
    name_encoder,
    open_catalog,
    open_tables,
    reading_digest,
    resolve,
    with_absolute_paths,
    work_of,
)
from pipelines.plan import Plan, plan
from pipelines.progress import RunProgress, duration
from pipelines.ray_session import on_a_worker, start_ray
from pipelines.run_config import EmbedConfig
from pipelines.sink.commit import Committer, Counts
from pipelines.sink.fragments import Bundle, Refill, Written, write_bundle
from pipelines.sink.lease import hold
from pipelines.sink.publish import roll_back
from pipelines.sink.read_objects import ReadObjects
from pipelines.sink.reembed import begin_reembedding
from pipelines.sink.runs import RunRecord
from pipelines.sink.table import index_ids, lacks_ids, open_dataset, table_uri
from pipelines.stages.decode import decode
from pipelines.stages.encode import EncodeActor
from pipelines.stages.fetch import fetch
from pipelines.stages.read import read_and_select
from pipelines.stages.select import Against, names_digest
from vista_core import UsageError

FETCH_ROWS = 256
COMMIT_ROWS = 262_144
COMMIT_BYTES = 256 << 20
REJECTS_JUDGED_FROM = 1_000

log = logging.getLogger(__name__)


class TooManyRejectsError(GateError):
    """More of the source was rejected than --max-reject-rate allows."""


@dataclass
class Stream:
    """When rows came out of the flow, in seconds since the run began."""

    startup: float = 0.0  # until the first did
    first_rows: int = 0  # and how many those were
    ended: float = 0.0  # the last ones are committed


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    job: Job
    counts: Counts
    version: int
    seconds: float
    stream: Stream

    def __str__(self) -> str:
        """The lines that end a run."""
        config, counts = self.job.config, self.counts
        lines = [
            f"{config.table}: read {counts.read:,}: written {counts.written:,}, rewritten {counts.rewritten:,}, "
            f"unchanged {counts.unchanged:,}, rejected {counts.rejected:,}",
            f"{name_encoder(self.job)}: {duration(self.seconds)}, of which start-up {duration(self.stream.startup)}, "
            f"gates and upkeep {duration(self.closing_seconds)}"
            + (f"; {self.rows_per_second:,.1f} rows/s encoded" if self.rows_per_second else ""),
        ]
        if counts.skipped or self.job.skipped:
            lines.append(f"not read, being as they were: {len(self.job.skipped):,} objects, {counts.skipped:,} rows")
        if counts.deleted:
            lines.append(f"removed {counts.deleted:,} rows that are no longer in the source")
        elif counts.missing:
            lines.append(f"{counts.missing:,} rows are no longer in the source (--delete-missing removes them)")
        if counts.removed:
            lines.append(f"removed {counts.removed:,} rows whose record turned bad (--keep-stale keeps them)")
        if counts.reasons:
            lines.append(f"rejected, see {config.table}_rejects: {name_reasons(counts)}")
        lines += excerpts(config)
        lines.append(f"published version {self.version} of {table_uri(config.db, config.table)}")
        return "\n".join(lines)

    @property
    def rows_per_second(self) -> float | None:
        """Rows encoded between start-up, which ends with the first batch, and the last commit; None for too few.

        Unchanged rows are not among them: on a night that resumes they would make any encoder look fast.
        """
        seconds, rows = self.stream.ended - self.stream.startup, self.counts.written - self.stream.first_rows
        return rows / seconds if seconds > 1 and rows > 0 else None

    @property
    def closing_seconds(self) -> float:
        """What came after the last commit: missing rows, upkeep, gates."""
        return self.seconds - self.stream.ended


@dataclass(frozen=True)
class RolledBack:
    """What --rollback did."""

    uri: str
    version: int

    def __str__(self) -> str:
        """The line that ends it."""
        return (
            f"published version {self.version} of {self.uri} again. The next run publishes anew: mend its source "
            "first, or stop it. Once more --rollback moves the tag forth again"
        )


def embed(config: EmbedConfig) -> Summary | Plan | RolledBack:
    """Embed what is new or changed in `config.source`, and publish it.

    Raises UsageError before anything is written, and VistaError when a run fails: what it committed stays, and the
    same command resumes it.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    config = with_absolute_paths(config)
    if config.rollback:
        return rollback(config, started)
    catalog = open_catalog(config)
    log.info("source %s: %s", config.source, "; ".join([*catalog.source.describe(), *excerpts(config)]))
    start_ray()
    job = resolve(config, catalog)
    if config.plan:
        return plan(job)
    log.info("%s; %s", name_encoder(job), work_of(job))
    table, rejects = open_tables(job)
    record = RunRecord(table_uri(config.db, f"{config.table}_runs"), started, configuration(job), library_versions())
    with record.running(), hold(table.uri, record.run, record.last_heard, config.take_over) as (table, lease):
        record.bury_the_dead()
        if config.reembed:
            table = begin_reembedding(table, job.schema, record.run)
        versions = {name: item.version for name, item in job.objects.items()}
        objects_uri = table_uri(config.db, f"{config.table}_objects")
        objects = ReadObjects(objects_uri, reading_digest(job, table.schema), record.run, versions, job.unit_counts)
        if lacks_ids(table):
            on_a_worker(index_ids, table.uri)
            table = lance.dataset(table.uri)
        committer = Committer(table, rejects, objects, lease, config.keep_stale)
        record.counts = committer.counts
        timing = run(job, committer, began)
        check_reject_rate(committer, job.config, 1)
        version = finish(job, committer, record.verdicts)
        summary = Summary(job, committer.counts, version, time.monotonic() - began, timing)
        record.succeed(version, summary.rows_per_second)
    return summary


def rollback(config: EmbedConfig, started: datetime) -> RolledBack:
    """Move the tag `published` back; a run of its own, so that none is under way meanwhile."""
    uri = table_uri(config.db, config.table)
    if open_dataset(uri) is None:
        raise UsageError(f"there is no table {config.table} in {config.db}")
    record = RunRecord(table_uri(config.db, f"{config.table}_runs"), started, {"rollback": True}, library_versions())
    with record.running(), hold(uri, record.run, record.last_heard, config.take_over) as (table, lease):
        version = roll_back(table, lease)
        record.succeed(version, None)
    return RolledBack(uri, version)


def build(job: Job, units: list[dict], against: Against) -> Dataset:
    """The flow, from units to encoded records."""
    uses, settings = job.resources, job.settings
    readers = TaskPoolStrategy(size=min(uses.readers, len(units)))
    read = functools.partial(
        read_and_select,
        source=job.source.without_listing(),
        rules=job.rules,
        share=job.config.sample,
        against=against,
    )
    tasks = [
        {"task": json.dumps({"unit": unit, "ended": job.objects_of(unit), "mark": job.name("")})} for unit in units
    ]
    records = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        read, batch_size=1, num_cpus=uses.read_cpus, compute=readers
    )
    if job.source.elsewhere:
        records = records.map_batches(
            functools.partial(fetch, rules=job.rules),
            batch_format="pyarrow",
            batch_size=FETCH_ROWS,
            num_cpus=uses.fetch_cpus,
            compute=readers,
        )
    return (
        records.map_batches(
            functools.partial(decode, settings=settings, store_images=job.config.store_images),
            batch_format="pyarrow",
            batch_size=uses.transport_rows,
            num_cpus=uses.decode_cpus,
        )
        # Fused into decode. Without it a block is 128 MB, which of texts may be an hour's work between two commits.
        .repartition(target_num_rows_per_block=uses.transport_rows)
        .map_batches(
            EncodeActor,
            batch_format="pyarrow",
            batch_size=uses.transport_rows,
            compute=ActorPoolStrategy(size=uses.actors),
            num_cpus=uses.actor_cpus or None,  # Ray Data wants one of the two, not both
            num_gpus=uses.actor_gpus or None,
            fn_constructor_args=(settings, job.identity, uses.actors_per_node),
        )
    )


def run(job: Job, committer: Committer, began: float) -> Stream:
    """Stream the source through the flow, commit what arrives; then, once more, what could not be decided at once."""
    counts = committer.counts
    counts.skipped = sum(row["rows"] for row in job.skipped.values())
    counts.skipped_rejected = sum(row["rejected"] for row in job.skipped.values())
    against = Against(committer.base, names_digest(job.objects), names_digest(job.skipped))
    timing = Stream()
    if not job.units:
        timing.startup = timing.ended = time.monotonic() - began
        return timing
    with RunProgress(job.rows, job.exact) as progress:
        startup, timing.first_rows = stream(job, job.units, against, committer, progress)
        claimed = {name for name, share in committer.objects.shares.items() if share.claims}
        if again := [unit for unit in job.units if not claimed.isdisjoint(job.objects_of(unit))]:
            stream(job, again, dataclasses.replace(against, claims=True), committer, progress)
        progress.update(counts, 0, ended=True)
    timing.ended = time.monotonic() - began
    timing.startup = startup - began if startup else timing.ended
    return timing


def stream(
    job: Job, units: list[dict], against: Against, committer: Committer, progress: RunProgress
) -> tuple[float, int]:
    """Read units, and commit what comes of them; returns when the first rows came, and how many those were."""
    # Reserves nothing: backpressured tasks keep their CPUs, and wait for what this one commits.
    write = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(write_bundle)
    startup, first_rows = 0.0, 0
    waiting: list[Any] = []
    rows = size = 0
    last_commit = time.monotonic()
    for refs in build(job, units, against).iter_internal_ref_bundles():
        if not refs.num_rows():
            continue
        if not startup:
            startup, first_rows = time.monotonic(), refs.num_rows() or 0
        waiting += refs.block_refs
        rows, size = rows + (refs.num_rows() or 0), size + refs.size_bytes()
        due = time.monotonic() - last_commit >= job.config.commit_seconds
        if due or rows >= COMMIT_ROWS or size >= COMMIT_BYTES:
            commit(committer, write, waiting)
            if committer.index_is_behind():
                on_a_worker(index_ids, committer.table.uri)
                committer.index_was_updated()
            check_reject_rate(committer, job.config, REJECTS_JUDGED_FROM)
            waiting, rows, size, last_commit = [], 0, 0, time.monotonic()
        progress.update(committer.counts, rows)
    commit(committer, write, waiting)
    return startup, first_rows


def commit(committer: Committer, write: Any, blocks: list[Any]) -> None:
    """Have a worker write `blocks`, as often as it takes, and commit them."""

    def write_remotely(bundle: Bundle) -> Written | Refill:
        return ray.get(write.remote(bundle, *blocks))

    if blocks:
        committer.commit(write_remotely)


def check_reject_rate(committer: Committer, config: EmbedConfig, judged_from: int) -> None:
    """Stop a run whose source is worse than the user expects, before it has cost a night.

    What an earlier run rejected of objects that are as they were counts, too: else the next run would let it pass.
    """
    counts = committer.counts
    read = counts.read + counts.skipped + counts.skipped_rejected
    rejected = counts.rejected + counts.skipped_rejected
    if read >= judged_from and rejected > config.max_reject_rate * read:
        raise TooManyRejectsError(
            f"{rejected:,} of {read:,} rows of the source were rejected ({rejected / read:.1%}), "
            f"more than --max-reject-rate {config.max_reject_rate:g}: {what_was_rejected(committer)}. "
            f"{config.table}_rejects has each row and why. Mend the cause and run again, or run with a higher rate: "
            "what was committed stays"
        )


def what_was_rejected(committer: Committer) -> str:
    """The reasons, with an example of the commonest."""
    counts = committer.counts
    if not counts.reasons:
        return "by earlier runs, of objects that are as they were"
    return f"{name_reasons(counts)}. For example: {committer.example_of(counts.reasons.most_common(1)[0][0])}"


def name_reasons(counts: Counts) -> str:
    """The commonest reasons first."""
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.reasons.most_common(5))
