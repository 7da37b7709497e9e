"""The stream of a run: from units to encoded records, and from encoded records to commits."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.data import Dataset, TaskPoolStrategy

from pipelines.cluster.calls import Workers
from pipelines.cluster.resources import Cluster
from pipelines.cluster.scaling import cluster_for
from pipelines.cluster.session import on_a_worker, start_ray
from pipelines.cluster.streaming import Blocks, stream_blocks
from pipelines.cluster.tasks import as_completed
from pipelines.embed.job import Job
from pipelines.events import Arrived
from pipelines.ingest.commit import Committer
from pipelines.ingest.fragments import write_bundle
from pipelines.signals import deferred
from pipelines.sources.units import Unit
from pipelines.stages.pool import Encoding, Pool, Stages
from pipelines.stages.read import Task, read_and_select
from pipelines.stages.select import Snapshot
from pipelines.tables.indexes import index_ids

COMMIT_ROWS = 262_144
COMMIT_BYTES = 256 << 20


def build(job: Job, units: Sequence[Unit], snapshot: Snapshot, stages: Stages) -> Dataset:
    """The flow, from units to encoded records."""
    uses, readers = job.resources, min(job.resources.readers, len(units))
    tasks = [Task(unit, job.mark, job.files_of(unit)).row() for unit in units]
    source = job.source.without_listing()
    records = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        functools.partial(read_and_select, source=source, rules=job.rules, snapshot=snapshot, limits=stages.reading),
        batch_size=1,
        num_cpus=uses.read_cpus,
        compute=TaskPoolStrategy(size=readers),
    )
    return pool_of(job, stages).encoded(records, readers)


def pool_of(job: Job, stages: Stages) -> Pool:
    """What the records of a job go through behind select."""
    encodings = [Encoding(each.settings, each.column.identity) for each in job.kept]
    fetching = job.rules if job.source.external_images else None
    return Pool(encodings, job.resources, stages, job.config.store_images, fetching)


def stream_on_ray(
    job: Job, units: Sequence[Unit], snapshot: Snapshot, stages: Stages, patience: float
) -> Generator[Blocks]:
    """Run the flow on Ray, and yield encoded blocks as they come; `patience` as for `stream_blocks`."""
    return stream_blocks(build(job, units, snapshot, stages), patience)


def start_on_ray(device: str) -> Cluster:
    """Join or start Ray, and return what it has, as soon as a run on `device` can start."""
    start_ray()
    return cluster_for(device)


@dataclass(frozen=True)
class Compute:
    """Where a run computes: on Ray. Simulations of the protocol compute in their own process."""

    start: Callable[[str], Cluster] = start_on_ray
    flow: Callable[[Job, Sequence[Unit], Snapshot, Stages, float], Generator[Blocks]] = stream_on_ray
    call: Callable[..., Any] = on_a_worker  # calls a memory-heavy function once
    workers: Workers = as_completed  # call a function often, side by side

    def call_each(self, function: Callable[..., Any], calls: Sequence[tuple]) -> list[Any]:
        """The results of `function` for each of some argument lists, in their order."""
        results = dict(self.workers(function, calls))
        return [results[number] for number in range(len(calls))]


@dataclass
class Waiting:
    """Encoded blocks that wait for the next commit."""

    refs: list[Any] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, blocks: Blocks) -> None:
        """Let blocks wait."""
        self.refs += blocks.refs
        self.rows += blocks.rows
        self.bytes += blocks.bytes

    def is_due(self, seconds: float) -> bool:
        """True if they are enough for a commit, or the last commit (or the stream) began `seconds` ago."""
        full = self.rows >= COMMIT_ROWS or self.bytes >= COMMIT_BYTES
        return full or time.monotonic() - self.since >= seconds


def stream(
    blocks: Generator[Blocks], job: Job, committer: Committer, compute: Compute, after_commit: Callable[[], None]
) -> None:
    """Commit the `blocks` that come out of the flow: by rows, bytes or time, whichever is first.

    If a signal ends the run, the flow ends, and what came out of it until then is committed.
    """
    waiting = Waiting()
    try:
        with closing(blocks):
            for arrived in blocks:
                with deferred():
                    waiting.add(arrived)
                    committer.events.report(Arrived(waiting.rows, committer.counts))
                if waiting.is_due(job.config.commit_seconds):
                    due, waiting = waiting, Waiting()  # so that an interrupted commit is not tried again
                    commit(committer, due.refs, compute)
                    update_index(committer, compute)
                    after_commit()
    except KeyboardInterrupt:
        commit(committer, waiting.refs, compute)
        raise
    commit(committer, waiting.refs, compute)
    update_index(committer, compute)


@deferred()
def commit(committer: Committer, blocks: list[Any], compute: Compute) -> None:
    """Have a worker write `blocks`, as often as it takes, and commit them."""
    if blocks:
        committer.commit(lambda bundle: compute.call(write_bundle, bundle, *blocks))


def update_index(committer: Committer, compute: Compute) -> None:
    """Bring the index on `id` up to date if it is behind."""
    if committer.index_is_behind():
        compute.call(index_ids, committer.base.uri)
        committer.reopen_after_indexing()
