"""One writer: who holds the lease, when it can be taken over, and that a driver that lost it can commit nothing."""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import lance
import psutil
import pytest
from lance.fragment import write_fragments

from pipelines.gates.judge import GateError
from pipelines.tables.lease import (
    LEASE,
    Holder,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    hold,
    holder_of,
    put,
    release,
    seconds_after_boot,
    take,
)
from pipelines.tables.runs import HeartbeatLimits, RunRecord, Runs
from pipelines.tables.transactions import CommitConflictError, upsert
from tests.pipelines.tables.conftest import contents, fragments, rows, write
from tests.tables import NO_RUNS, run_id

SHORT = HeartbeatLimits(every_seconds=0.02, dead_after_seconds=0.3, look_seconds=0.02)
LONG = HeartbeatLimits(every_seconds=0.02, dead_after_seconds=60, look_seconds=0.02)
ELSEWHERE = f"{socket.gethostname()} (boot 0, process namespace 1)"  # another container with the same name


def held_by(uri: str, **changes) -> Holder:
    """Store a holder: a run of this process, but for what `changes` say."""
    holder = dataclasses.replace(Holder.this_process(run_id(5)), **changes)
    put(lance.dataset(uri), holder)
    return holder


def pid_of_a_process_that_ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def record_of(tmp_path, holder: Holder) -> RunRecord:
    """The row of the holder's run, with its heartbeats."""
    return RunRecord(f"{tmp_path}/t_runs.lance", holder.run, datetime.now(UTC), {}, SHORT)


def test_a_second_run_is_told_who_holds_the_table_and_since_when(uri):
    table, lease = take(lance.dataset(uri), NO_RUNS)
    lease.check(table)
    with pytest.raises(
        LeaseHeldError, match=rf"{lease.run} \(process {os.getpid()} on .*, since 2\d\d\d-.*--take-over"
    ):
        take(lance.dataset(uri), NO_RUNS)
    lease.check(lance.dataset(uri))


def test_a_run_that_ended_leaves_the_table_to_the_next_at_once(uri):
    with hold(lance.dataset(uri), NO_RUNS):
        pass
    with pytest.raises(ZeroDivisionError), hold(lance.dataset(uri), NO_RUNS):
        raise ZeroDivisionError
    with hold(lance.dataset(uri), NO_RUNS) as (table, lease):
        assert holder_of(table).run == lease.run


def test_the_id_of_a_run_is_above_every_id_there_is(uri, tmp_path):
    """The lease, the table's rows and NAME_runs may each have the greatest: of a clock that ran ahead."""
    _, first = take(lance.dataset(uri), NO_RUNS)
    assert first.run.startswith(f"{datetime.now(UTC):%Y}")
    held_by(uri, run="20770101T000000000000-ffff", pid=pid_of_a_process_that_ended())
    _, second = take(lance.dataset(uri), NO_RUNS)
    assert second.run.startswith("20770101T000000000001-")
    write(tmp_path, {"ahead": "x"}, "20880101T000000000000-ffff")
    write(tmp_path, {"others": "x"}, "zzz")
    _, third = take(lance.dataset(uri), NO_RUNS, by_force=True)
    assert third.run.startswith("20880101T000000000001-")
    with record_of(tmp_path, dataclasses.replace(third.holder, run="99991231T235959999999-ffff")).running() as record:
        _, fourth = take(lance.dataset(uri), Runs(record.uri), by_force=True)
        assert fourth.run > record.run
        assert take(lance.dataset(uri), NO_RUNS, by_force=True)[1].run > fourth.run


@pytest.mark.parametrize("changes", [{}, {"pid": "ended"}, {"process_started": 1.0}, {"ended": True}], ids=str)
def test_on_this_machine_a_holder_is_dead_if_its_process_is_gone(uri, changes):
    """A process that started at another time has the process id of one that is gone."""
    if "pid" in changes:
        changes = {"pid": pid_of_a_process_that_ended()}
    held_by(uri, **changes)
    if not changes:
        with pytest.raises(LeaseHeldError, match="its process is running"):
            take(lance.dataset(uri), NO_RUNS, limits=SHORT)
    table, lease = take(lance.dataset(uri), NO_RUNS, by_force=not changes)
    lease.check(table)


def test_a_process_that_ended_and_waits_for_its_parent_is_dead(uri):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()  # until it has ended; its exit code is asked for later
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    held_by(uri, pid=process.pid, process_started=seconds_after_boot(psutil.Process(process.pid)))
    take(lance.dataset(uri), NO_RUNS)
    process.wait()


@pytest.mark.parametrize("host", [ELSEWHERE, socket.gethostname()], ids=["another container", "an older version's"])
def test_on_another_machine_a_holder_without_heartbeats_is_dead_after_a_while(uri, tmp_path, host, caplog):
    """Whatever its clock said: the last heartbeat is of the year 2099."""
    holder = held_by(uri, host=host, pid=pid_of_a_process_that_ended())
    with record_of(tmp_path, holder).running() as record:
        record.succeed(1, None)
    ahead = {"heartbeat": "timestamp '2099-01-01'", "status": "'running'"}
    lance.dataset(record.uri).update(ahead)
    began = time.monotonic()
    table, lease = take(lance.dataset(uri), Runs(record.uri), limits=SHORT)
    assert time.monotonic() - began >= SHORT.dead_after_seconds
    lease.check(table)
    assert f"is held by run {holder.run}" in caplog.text
    assert "--take-over skips this" in caplog.text


def test_a_holder_on_another_machine_that_was_never_heard_of_is_watched_as_well(uri):
    held_by(uri, host=ELSEWHERE)
    began = time.monotonic()
    take(lance.dataset(uri), NO_RUNS, limits=SHORT)
    assert time.monotonic() - began >= SHORT.dead_after_seconds


def test_on_another_machine_a_holder_is_alive_if_it_sends_a_heartbeat(uri, tmp_path):
    holder = held_by(uri, host=ELSEWHERE, pid=pid_of_a_process_that_ended())
    with record_of(tmp_path, holder).running() as record:
        with pytest.raises(LeaseHeldError, match=rf"{holder.run} .*: it sent a heartbeat just now"):
            take(lance.dataset(uri), Runs(record.uri), limits=LONG)
        assert holder_of(lance.dataset(uri)) == holder
        record.succeed(1, None)


def test_a_holder_on_another_machine_that_ends_while_it_is_watched_leaves_the_table(uri):
    holder = held_by(uri, host=ELSEWHERE)

    class ThatEnds(Runs):
        """It ends when it was looked at."""

        def last_heard(self, run: str) -> None:
            Lease(holder).release(uri)

    table, lease = take(lance.dataset(uri), ThatEnds(NO_RUNS.uri), limits=LONG)
    lease.check(table)


def test_a_holder_on_another_machine_is_not_watched_if_it_is_taken_over(uri):
    held_by(uri, host=ELSEWHERE)
    take(lance.dataset(uri), NO_RUNS, by_force=True)


def test_a_run_that_waited_does_not_begin_after_a_third_one_took_the_table(uri):
    """The third one may have read a newer source."""
    held_by(uri, host=ELSEWHERE)

    class WhileAnotherTakesIt(Runs):
        def last_heard(self, run: str) -> None:
            if run == run_id(5):
                take(lance.dataset(uri), NO_RUNS, by_force=True)[1].release(uri)

    with pytest.raises(LeaseHeldError, match="was faster to take the table"):
        take(lance.dataset(uri), WhileAnotherTakesIt(NO_RUNS.uri), limits=LONG)


def test_a_run_does_not_begin_on_what_it_knew_before_another_one_had_the_table(uri):
    """Its list of files may be older than what that one wrote, which would then be missing."""
    seen = lance.dataset(uri)
    with hold(seen, NO_RUNS):
        pass
    for by_force in (False, True):
        with pytest.raises(LeaseHeldError, match="was faster to take the table"):
            take(seen, NO_RUNS, by_force)
    take(lance.dataset(uri), NO_RUNS)


def test_only_one_of_two_runs_that_take_the_lease_at_once_gets_it(uri):
    seen = lance.dataset(uri)
    put(seen, Holder.this_process(run_id(5)))
    with pytest.raises(CommitConflictError):
        put(seen, Holder.this_process(run_id(6)))


STALE = {
    "merge": lambda table, fresh: lance.LanceOperation.Merge(
        [each.metadata for each in table.get_fragments()] + fresh, table.lance_schema
    ),
    "update": lambda table, fresh: lance.LanceOperation.Update([0], [], fresh, fields_modified=[]),
    "append": lambda table, fresh: lance.LanceOperation.Append(fresh),
    "delete": lambda table, fresh: lance.LanceOperation.Delete(
        [table.get_fragment(0).delete_rows([0])], [], "id = 'a0'"
    ),
    "overwrite": lambda table, fresh: lance.LanceOperation.Overwrite(table.schema, fresh),
}


@pytest.mark.parametrize("operation", STALE)
def test_no_commit_that_was_prepared_before_a_takeover_succeeds_after_it(uri, operation):
    held_by(uri, pid=pid_of_a_process_that_ended())
    zombie = lance.dataset(uri)
    row = zombie.to_table(filter="id = 'a0'")
    fresh = write_fragments(row, uri, schema=row.schema, mode="append")
    table, _ = take(lance.dataset(uri), NO_RUNS)
    with pytest.raises(OSError, match=r"[Cc]onflict"):
        prepared = STALE[operation](zombie, fresh)
        lance.LanceDataset.commit(uri, prepared, read_version=zombie.version, max_retries=0)
    assert lance.dataset(uri).version == table.version


def test_without_a_barrier_a_commit_would_pass_a_takeover(uri):
    """Why there is a barrier. Should this fail, Lance fences updates of the config by itself."""
    zombie = lance.dataset(uri)
    held_by(uri)
    same = STALE["merge"](zombie, [])
    lance.LanceDataset.commit(uri, same, read_version=zombie.version, max_retries=0)


def test_a_driver_that_lost_the_lease_can_commit_nothing_and_releases_nothing(uri):
    table, lease = take(lance.dataset(uri), NO_RUNS)
    before, new = contents(table), fragments(table, rows({"new": "z"}))
    _, successor = take(lance.dataset(uri), NO_RUNS, by_force=True)
    with pytest.raises(CommitConflictError):
        upsert(table, new, [])
    with pytest.raises(LeaseLostError, match=f"{lease.run} was taken for dead and lost .* to run {successor.run}"):
        lease.check(lance.dataset(uri))
    assert contents(lance.dataset(uri)) == before
    lease.release(uri)
    assert not holder_of(lance.dataset(uri)).ended, "it is the other run's lease"


def test_a_driver_that_loses_the_lease_while_another_writer_commits_finds_out(uri):
    """The foreign commit makes it prepare again, on a version that names the new holder."""
    table, lease = take(lance.dataset(uri), NO_RUNS)
    take(lance.dataset(uri), NO_RUNS, by_force=True)
    lance.dataset(uri).delete("id = 'a0'")
    lease.check(table)
    with pytest.raises(LeaseLostError):
        lease.check(lance.dataset(uri))


@pytest.mark.parametrize("error", [OSError("Incompatible transaction"), GateError("canary: no row differs")])
def test_whatever_fails_after_the_lease_was_lost_is_explained_by_that(uri, error):
    _, lease = take(lance.dataset(uri), NO_RUNS)
    with pytest.raises(type(error)) as unexplained, lease.explaining_failures(uri):
        raise error
    assert unexplained.value is error, "the lease is held: the failure has another reason"
    take(lance.dataset(uri), NO_RUNS, by_force=True)
    with pytest.raises(LeaseLostError) as explained, lease.explaining_failures(uri):
        raise error
    assert explained.value.__cause__ is error


def test_a_failure_is_told_although_the_table_cannot_be_read(uri):
    _, lease = take(lance.dataset(uri), NO_RUNS)
    Path(uri).rename(f"{uri}.moved")
    with pytest.raises(OSError, match="connection reset"), lease.explaining_failures(uri):
        raise OSError("connection reset")


def test_a_takeover_starts_from_a_version_with_all_that_others_committed(uri):
    held_by(uri, pid=pid_of_a_process_that_ended())
    lance.dataset(uri).delete("id = 'a0'")
    table, lease = take(lance.dataset(uri), NO_RUNS)
    assert table.version == lance.dataset(uri).version
    assert "a0" not in contents(table)
    lease.check(table)


def test_a_run_whose_lease_cannot_be_released_ends_as_it_would_have(uri, caplog):
    with caplog.at_level(logging.WARNING, "pipelines.tables.lease"), hold(lance.dataset(uri), NO_RUNS) as (_, lease):
        Path(uri).rename(f"{uri}.moved")
    assert f"{uri}: the lease of run {lease.run} could not be released" in caplog.text


@dataclasses.dataclass(frozen=True)
class TakenAtThatMoment(Lease):
    """Another run takes the table over between the look at the lease and the end of it."""

    def release(self, uri):
        table = lance.dataset(uri)
        take(table, NO_RUNS, by_force=True)
        put(table, dataclasses.replace(self.holder, ended=True))


def test_a_lease_that_is_lost_while_it_is_released_stays_with_the_other_run(uri, caplog):
    _, lease = take(lance.dataset(uri), NO_RUNS)
    release(uri, TakenAtThatMoment(lease.holder))
    assert f"the lease of run {lease.run} could not be released" in caplog.text
    holder = holder_of(lance.dataset(uri))
    assert holder.run != lease.run
    assert not holder.ended


def test_a_lease_is_stored_as_older_versions_stored_it(uri):
    stored = {
        "run": "run-5",
        "host": "elsewhere",
        "pid": 7,
        "process_started": 1.5,
        "since": "2026-01-01 00:00:00 UTC",
        "published": 3,
        "ended": True,
    }
    lance.dataset(uri).update_config({"vista.lease": json.dumps(stored)})
    holder = holder_of(lance.dataset(uri))
    assert holder == Holder("run-5", "elsewhere", 7, 1.5, "2026-01-01 00:00:00 UTC", 3, True)
    table = put(lance.dataset(uri), holder)
    assert json.loads(table.config()["vista.lease"]) == stored
    table, lease = take(lance.dataset(uri), NO_RUNS)
    assert json.loads(table.config()[LEASE]) == dataclasses.asdict(lease.holder)
    assert lease.holder.published == 3, "the version that was published last is kept"


def test_a_lease_that_a_restore_removed_is_lost(uri):
    _, lease = take(lance.dataset(uri), NO_RUNS)
    lance.dataset(uri, version=1).restore()
    with pytest.raises(LeaseLostError, match="to nobody"):
        lease.check(lance.dataset(uri))


def test_a_lease_that_nobody_took_is_not_held(uri):
    with pytest.raises(LeaseLostError):
        Lease(Holder.this_process(run_id(5))).check(lance.dataset(uri))
