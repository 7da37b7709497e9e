"""One writer per table: a lease in the table's config, and a fence against a driver that lost it without noticing.

A driver takes the lease by setting one key of the config. Two updates of one key conflict, so only one driver gets it.
A commit of rows does not conflict with an update of the config, however, so the lease alone would not stop a driver
that was suspended while another took over. Therefore a takeover also commits a barrier, with which every commit that
was prepared earlier conflicts. A commit that is prepared later starts from a version whose lease names the new holder,
and `Lease.check` refuses it.
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

from pipelines.signals import deferred
from pipelines.tables.dataset import published
from pipelines.tables.transactions import CommitConflictError, barrier, set_config
from vista_core import VistaError

LEASE = "vista.lease"  # key of the table's config
DEAD_AFTER = timedelta(minutes=5)  # without a heartbeat, for a holder on another machine
ATTEMPTS = 20

log = logging.getLogger(__name__)


class LeaseHeldError(VistaError):
    """Another run writes to the table."""


class LeaseLostError(VistaError):
    """This run was taken for dead, and another run writes to the table now."""


@dataclass(frozen=True)
class Holder:
    """The run that holds the lease, or held it last. Stored as JSON, so the names of the fields are fixed."""

    run: str
    host: str
    pid: int
    process_started: float  # seconds since the epoch; tells apart two processes that had the same id
    since: str
    published: int | None = None  # the version that was published last, which the tag should name
    ended: bool = False

    @classmethod
    def this_process(cls, run: str) -> Holder:
        """The run `run` of this process, which takes the lease now."""
        process = psutil.Process()
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return cls(run, socket.gethostname(), process.pid, process.create_time(), since)

    def __str__(self) -> str:
        """For error messages."""
        return f"run {self.run} (process {self.pid} on {self.host}, since {self.since})"

    def is_dead(self, last_heard: datetime | None) -> bool:
        """True if the run ended, or its process is gone.

        The process of another machine counts as gone if its last heartbeat, `last_heard`, is older than five minutes.
        """
        if self.ended:
            return True
        if self.host == socket.gethostname() and psutil.pid_exists(self.pid):
            return abs(psutil.Process(self.pid).create_time() - self.process_started) > 1
        if self.host == socket.gethostname():
            return True
        return last_heard is None or datetime.now(UTC) - last_heard > DEAD_AFTER


LastHeard = Callable[[str], datetime | None]  # the last heartbeat of a run; see `RunRecord.last_heard`


@dataclass(frozen=True)
class Lease:
    """A run's right to write to the table."""

    holder: Holder

    @property
    def run(self) -> str:
        """The run that holds the lease."""
        return self.holder.run

    def check(self, table: lance.LanceDataset) -> None:
        """Raise LeaseLostError unless this run holds the lease in this version of the table."""
        now = holder_of(table)
        if now is None or (now.run, now.ended) != (self.run, False):
            raise LeaseLostError(
                f"run {self.run} was taken for dead and lost {table.uri} to {now or 'nobody'}. It stops here. What it "
                "committed stays, and the other run continues from there"
            )

    def release(self, uri: str) -> None:
        """Let the next run begin at once. Does nothing if the lease was lost."""
        table = lance.dataset(uri)
        now = holder_of(table)
        if now is not None and now.run == self.run:
            put(table, dataclasses.replace(now, ended=True))


def holder_of(table: lance.LanceDataset) -> Holder | None:
    """The holder of the lease in this version of the table, or the last one; None if nobody ever took it."""
    value = table.config().get(LEASE)
    return Holder(**json.loads(value)) if value else None


def take(uri: str, run: str, last_heard: LastHeard, by_force: bool = False) -> tuple[lance.LanceDataset, Lease]:
    """Take the lease, and return the table in the version that the run starts from.

    Raises LeaseHeldError, naming the holder, unless the holder is dead or `by_force` is set.
    """
    for _ in range(ATTEMPTS):
        table = lance.dataset(uri)
        before = holder_of(table)
        if before is not None and not by_force and not before.is_dead(last_heard(before.run)):
            raise LeaseHeldError(
                f"{uri} is being written to by {before}. If that run is dead, its lease can be taken over five minutes "
                "after its last heartbeat, or at once with --take-over"
            )
        mine = dataclasses.replace(
            Holder.this_process(run), published=published(table) if before is None else before.published
        )
        try:
            table = put(table, mine)
        except CommitConflictError:
            continue
        lease = Lease(mine)
        return (table if before is None or before.ended else commit_barrier(uri, lease)), lease
    raise LeaseHeldError(
        f"{uri}: other runs were faster to take the lease, {ATTEMPTS} times in a row. Run the same command again"
    )


@contextmanager
def hold(
    uri: str, run: str, last_heard: LastHeard, by_force: bool = False
) -> Iterator[tuple[lance.LanceDataset, Lease]]:
    """Hold the lease while the context lasts; see `take`."""
    lease: Lease | None = None
    try:
        with deferred():
            table, lease = take(uri, run, last_heard, by_force)
        yield table, lease
    finally:
        if lease is not None:
            release(uri, lease)


@deferred()
def release(uri: str, lease: Lease) -> None:
    """Let the next run begin at once, if the store can be reached."""
    try:
        lease.release(uri)
    except (OSError, ValueError) as error:  # the next run finds that this process is gone
        log.warning("%s: the lease of run %s could not be released: %s", uri, lease.run, error)


def put(table: lance.LanceDataset, holder: Holder) -> lance.LanceDataset:
    """Store a holder. Raises CommitConflictError if another one was stored since this version of the table."""
    return set_config(table, LEASE, json.dumps(dataclasses.asdict(holder)))


def commit_barrier(uri: str, lease: Lease) -> lance.LanceDataset:
    """Commit a barrier on top of the latest version, so that no commit of the previous holder can follow."""
    while True:
        table = lance.dataset(uri)
        lease.check(table)
        try:
            return barrier(table)
        except CommitConflictError:  # another writer committed, and this run must start from a version that has it
            continue
