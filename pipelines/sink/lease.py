"""One writer: a lease on the table, kept in its config, that fences whoever lost it.

Two config updates of one key conflict, so only one driver takes a lease. A commit of rows passes a config update,
though: the lease alone would not stop a driver that slept through its loss. Hence a takeover also commits a *barrier*,
a `Merge` that changes nothing, with which each commit that was prepared before it conflicts; and whatever is prepared
after it starts from a version that names another holder, which `check` sees.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lance
import psutil
from lance.commit import CommitConflictError

from pipelines.sink.table import published
from vista_core import VistaError

LEASE = "vista.lease"
DEAD_AFTER = timedelta(minutes=5)  # without a sign of life, of a holder on another machine
ATTEMPTS = 20

log = logging.getLogger(__name__)


class LeaseHeldError(VistaError):
    """Another run writes to the table."""


class LeaseLostError(VistaError):
    """This run was taken for dead, and another one writes to the table now."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lease, or held it last."""

    run: str
    host: str
    pid: int
    process_started: float  # seconds since the epoch: process ids are used again
    since: str
    published: int | None = None  # the version that was published last: what the tag should say
    ended: bool = False

    @classmethod
    def this_process(cls, run: str) -> Holder:
        """A run of this process, from now on."""
        process = psutil.Process()
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return cls(run, socket.gethostname(), process.pid, process.create_time(), since)

    def __str__(self) -> str:
        """For an error message."""
        return f"run {self.run} (process {self.pid} on {self.host}, since {self.since})"

    def is_dead(self, last_heard: datetime | None) -> bool:
        """Whether its process is gone; of another machine's, whether it gave no sign of life for five minutes."""
        if self.ended:
            return True
        if self.host == socket.gethostname() and psutil.pid_exists(self.pid):
            return abs(psutil.Process(self.pid).create_time() - self.process_started) > 1
        if self.host == socket.gethostname():
            return True
        return last_heard is None or datetime.now(UTC) - last_heard > DEAD_AFTER


LastHeard = Callable[[str], datetime | None]


@dataclass(frozen=True)
class Lease:
    """This run's right to write to the table."""

    holder: Holder

    @property
    def run(self) -> str:
        """The run that holds it."""
        return self.holder.run

    def check(self, table: lance.LanceDataset) -> None:
        """Raise LeaseLostError unless this run holds the lease in this version of the table."""
        now = holder_of(table)
        if now is None or (now.run, now.ended) != (self.run, False):
            raise LeaseLostError(
                f"run {self.run} was taken for dead and lost {table.uri} to {now}. It stops here; what it committed "
                "stays, and the other run goes on from there"
            )

    def release(self, uri: str) -> None:
        """Let the next run begin at once; one that lost the lease has nothing to release."""
        table = lance.dataset(uri)
        now = holder_of(table)
        if now is not None and now.run == self.run:
            put(table, dataclasses.replace(now, ended=True))


def holder_of(table: lance.LanceDataset) -> Holder | None:
    """Who holds the lease in this version of the table, or held it last."""
    value = table.config().get(LEASE)
    return Holder(**json.loads(value)) if value else None


def take(uri: str, run: str, last_heard: LastHeard, by_force: bool = False) -> tuple[lance.LanceDataset, Lease]:
    """Take the lease, and return the table as it is from then on.

    `last_heard` says when a run gave a sign of life. Raises LeaseHeldError, naming the holder, unless that is dead.
    """
    for _ in range(ATTEMPTS):
        table = lance.dataset(uri)
        before = holder_of(table)
        if before is not None and not by_force and not before.is_dead(last_heard(before.run)):
            raise LeaseHeldError(
                f"{uri} is being written to by {before}. If that run is dead, its lease can be taken over five minutes "
                "after its last sign of life, or at once with --take-over"
            )
        mine = dataclasses.replace(
            Holder.this_process(run), published=published(table) if before is None else before.published
        )
        try:
            table = put(table, mine)
        except CommitConflictError:
            continue
        lease = Lease(mine)
        return (table if before is None or before.ended else barrier(uri, lease)), lease
    raise LeaseHeldError(
        f"{uri}: {ATTEMPTS} times in a row another run was faster to begin. Run the same command again"
    )


@contextmanager
def hold(
    uri: str, run: str, last_heard: LastHeard, by_force: bool = False
) -> Iterator[tuple[lance.LanceDataset, Lease]]:
    """Hold the lease as long as the context lasts; see `take`."""
    table, lease = take(uri, run, last_heard, by_force)
    try:
        yield table, lease
    finally:
        try:
            lease.release(uri)
        except (OSError, ValueError) as error:  # the next run finds by itself that this one ended
            log.warning("%s: the lease of run %s could not be released: %s", uri, run, error)


def put(table: lance.LanceDataset, holder: Holder) -> lance.LanceDataset:
    """Write down a holder. Raises CommitConflictError if another was written since this version of the table."""
    update = lance.LanceOperation.UpdateMap({LEASE: json.dumps(dataclasses.asdict(holder))}, replace=False)
    operation = lance.LanceOperation.UpdateConfig(config_updates=update)
    return lance.LanceDataset.commit(table.uri, operation, read_version=table.version, max_retries=0)


def barrier(uri: str, lease: Lease) -> lance.LanceDataset:
    """Commit a `Merge` that changes nothing: what was prepared on an earlier version can't be committed any more."""
    while True:
        table = lance.dataset(uri)
        lease.check(table)
        same = lance.LanceOperation.Merge([each.metadata for each in table.get_fragments()], table.lance_schema)
        try:
            return lance.LanceDataset.commit(uri, same, read_version=table.version, max_retries=0)
        except CommitConflictError:  # another writer's; it must be part of what this run begins with
            continue
