"""One writer per table: a lease in the table's config, and a fence against a driver that lost it without noticing.

A run gets its id here, above every id there is: the order of the ids is the order in which runs held the table.

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
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lance
import psutil

from pipelines.current_run import CURRENT
from pipelines.signals import deferred
from pipelines.tables.dataset import published
from pipelines.tables.machine import HERE, Machine
from pipelines.tables.run_ids import greatest_run, next_run_id
from pipelines.tables.runs import LIMITS, HeartbeatLimits, Runs
from pipelines.tables.transactions import CommitConflictError, barrier, set_config
from vista_core import VistaError

LEASE = "vista.lease"  # key of the table's config

log = logging.getLogger(__name__)


class LeaseHeldError(VistaError):
    """Another run writes to the table."""


class LeaseLostError(VistaError):
    """This run was taken for dead, and another run writes to the table now."""


@dataclass(frozen=True)
class Holder:
    """The run that holds the lease, or held it last. Stored as JSON, so the names of the fields are fixed."""

    run: str
    host: str  # `Machine.name`; older versions stored the name alone
    pid: int
    process_started: float  # `seconds_after_boot`; tells apart two processes that had the same id
    since: str
    published: int | None = None  # the version that was published last, which the tag should name
    ended: bool = False

    @classmethod
    def this_process(cls, run: str, machine: Machine = HERE) -> Holder:
        """The run `run` of this process, on `machine`, which takes the lease now."""
        process = psutil.Process()
        since = f"{machine.now():%Y-%m-%d %H:%M:%S} UTC"
        return cls(run, machine.name(), process.pid, seconds_after_boot(process), since)

    def __str__(self) -> str:
        """For error messages."""
        return f"run {self.run} (process {self.pid} on {self.host}, since {self.since})"

    def is_running(self, seen_from: Machine) -> bool | None:
        """Whether the run's process exists; None if it is on another machine, whose processes can't be seen."""
        if self.host != seen_from.name():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # it ended, and its parent didn't ask for its exit code
                return False
            return abs(seconds_after_boot(process) - self.process_started) <= 2  # the boot is known to a second
        except psutil.NoSuchProcess:
            return False


def seconds_after_boot(process: psutil.Process) -> float:
    """When a process started. Its time on the clock would change with the clock."""
    return process.create_time() - psutil.boot_time()


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

    @contextmanager
    def explaining_failures(self, uri: str) -> Iterator[None]:
        """If the lease was lost, whatever fails in this context raises LeaseLostError.

        The other run has changed the tables in the meantime. Where this one notices that first depends on chance: a
        write to a side table conflicts, or a gate finds that the published version already has these rows.
        """
        try:
            yield
        except LeaseLostError:
            raise
        except Exception as error:
            try:
                self.check(lance.dataset(uri))
            except LeaseLostError as lost:
                raise lost from error
            except (OSError, ValueError):  # the store can't be read either
                pass
            raise

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


def take(
    seen: lance.LanceDataset, runs: Runs, by_force: bool = False, limits: HeartbeatLimits = LIMITS
) -> tuple[lance.LanceDataset, Lease]:
    """Take the lease for a new run, whose id is above those of all others, and return the table as it starts from it.

    A holder on this machine is dead if its process is gone. For one on another machine, its heartbeat in `runs` is
    watched: see `watch`. Raises LeaseHeldError, naming the holder, unless the holder is dead or `by_force` is set; and
    if another run got the lease since `seen`, the version by which this run decided what there is to do.
    """
    uri, known = seen.uri, holder_of(seen)
    while True:
        table = lance.dataset(uri)
        before = holder_of(table)
        if before is not None and (known is None or before.run != known.run):
            raise LeaseHeldError(f"{uri}: {before} was faster to take the table. Run the same command again")
        if before is not None and not before.ended and not by_force:
            require_dead(uri, before, runs, limits)
        ids = [*runs.ids(), greatest_run(table), "" if before is None else before.run]
        machine = limits.machine
        mine = dataclasses.replace(
            Holder.this_process(next_run_id(machine.now(), ids), machine),
            published=published(table) if before is None else before.published,
        )
        try:
            table = put(table, mine)
        except CommitConflictError:  # the holder released the lease, or another run took it
            continue
        lease = Lease(mine)
        return (table if before is None or before.ended else commit_barrier(uri, lease)), lease


def require_dead(uri: str, holder: Holder, runs: Runs, limits: HeartbeatLimits) -> None:
    """Raise LeaseHeldError unless the holder of the lease is dead, or the lease changes hands meanwhile."""
    running = holder.is_running(limits.machine)
    if running:
        raise held(uri, holder, "its process is running")
    if running is None:
        watch(uri, holder, runs, limits)


def watch(uri: str, holder: Holder, runs: Runs, limits: HeartbeatLimits) -> None:
    """Return if a holder on another machine sent no heartbeat for `dead_after_seconds`, or released the lease.

    Raises LeaseHeldError at the first heartbeat. The time of a heartbeat is never compared with the clock of this
    machine, since the two clocks may differ.
    """
    log.warning(
        "%s is held by %s, on another machine or in another container. For up to %.0f s this run watches whether that "
        "one still sends heartbeats, which means that it is alive. If you know that it is dead, --take-over skips this",
        uri,
        holder,
        limits.dead_after_seconds,
    )
    machine, never = limits.machine, threading.Event()
    last, began, is_over = runs.last_heard(holder.run), machine.monotonic(), False
    while not is_over:
        machine.wait(never, limits.look_seconds)
        is_over = machine.monotonic() - began >= limits.dead_after_seconds  # before it looks: it may be suspended, too
        now = holder_of(lance.dataset(uri))
        if now is None or now.ended or now.run != holder.run:
            return
        if runs.last_heard(holder.run) != last:
            raise held(uri, holder, "it sent a heartbeat just now")


def held(uri: str, holder: Holder, sign_of_life: str) -> LeaseHeldError:
    """The error that names the holder, and how it is known to be alive."""
    return LeaseHeldError(
        f"{uri} is being written to by {holder}: {sign_of_life}. Run this command again when that run has ended. To "
        "take the table from it all the same, add --take-over: it then stops at its next commit"
    )


@contextmanager
def hold(
    seen: lance.LanceDataset, runs: Runs, by_force: bool = False, limits: HeartbeatLimits = LIMITS
) -> Iterator[tuple[lance.LanceDataset, Lease]]:
    """Hold the lease while the context lasts; see `take`."""
    lease: Lease | None = None
    try:
        with deferred():
            table, lease = take(seen, runs, by_force, limits)
            CURRENT.id = lease.run
        yield table, lease
    finally:
        if lease is not None:
            release(seen.uri, lease)


@deferred()
def release(uri: str, lease: Lease) -> None:
    """Let the next run begin at once, if the store can be reached."""
    try:
        lease.release(uri)
    except (OSError, ValueError, CommitConflictError) as error:  # the next run finds that this process is gone
        log.warning("%s: the lease of run %s could not be released: %s", uri, lease.run, error)


def put(table: lance.LanceDataset, holder: Holder) -> lance.LanceDataset:
    """Store a holder. Raises CommitConflictError if another one was stored since this version of the table."""
    return set_config(table, {LEASE: json.dumps(dataclasses.asdict(holder))})


def commit_barrier(uri: str, lease: Lease) -> lance.LanceDataset:
    """Commit a barrier on top of the latest version, so that no commit of the previous holder can follow."""
    while True:
        table = lance.dataset(uri)
        lease.check(table)
        try:
            return barrier(table)
        except CommitConflictError:  # another writer committed, and this run must start from a version that has it
            continue
