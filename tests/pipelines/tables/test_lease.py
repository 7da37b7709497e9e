"""One writer: who holds the lease, when it can be taken over, and that a driver that lost it can commit nothing."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lance
import pytest
from lance.fragment import write_fragments

from pipelines.tables.lease import LEASE, Holder, Lease, LeaseHeldError, LeaseLostError, hold, holder_of, put, take
from pipelines.tables.transactions import CommitConflictError, upsert
from tests.pipelines.tables.conftest import contents, fragments, never, rows


def held_by(uri: str, **changes) -> Holder:
    """Store a holder: a run of this process, but for what `changes` say."""
    holder = dataclasses.replace(Holder.this_process("run-5"), **changes)
    put(lance.dataset(uri), holder)
    return holder


def pid_of_a_process_that_ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_told_who_holds_the_table_and_since_when(uri):
    table, lease = take(uri, "run-5", never)
    lease.check(table)
    with pytest.raises(LeaseHeldError, match=rf"run-5 \(process {os.getpid()} on .*, since 2\d\d\d-.*--take-over"):
        take(uri, "run-6", never)
    lease.check(lance.dataset(uri))


def test_a_run_that_ended_leaves_the_table_to_the_next_at_once(uri):
    with hold(uri, "run-5", never):
        pass
    with pytest.raises(ZeroDivisionError), hold(uri, "run-6", never):
        raise ZeroDivisionError
    with hold(uri, "run-7", never) as (table, lease):
        assert holder_of(table).run == lease.run == "run-7"


@pytest.mark.parametrize(
    ("changes", "silent_minutes", "dead"),
    [
        ({}, None, False),
        ({"pid": "ended"}, 0, True),
        ({"process_started": 1.0}, 0, True),  # the process id was used again
        ({"host": "elsewhere"}, 0, False),
        ({"host": "elsewhere"}, 4, False),
        ({"host": "elsewhere"}, 6, True),
        ({"host": "elsewhere"}, None, True),
        ({"host": "elsewhere", "ended": True}, 0, True),
    ],
)
def test_a_holder_is_dead_if_its_process_is_gone_or_its_machine_sent_no_heartbeat(uri, changes, silent_minutes, dead):
    last_heard = None if silent_minutes is None else datetime.now(UTC) - timedelta(minutes=silent_minutes)
    if "pid" in changes:
        changes = {"pid": pid_of_a_process_that_ended()}
    held_by(uri, **changes)
    if not dead:
        with pytest.raises(LeaseHeldError):
            take(uri, "run-6", lambda run: last_heard)
    table, lease = take(uri, "run-6", lambda run: last_heard, by_force=not dead)
    lease.check(table)


def test_only_one_of_two_runs_that_take_the_lease_at_once_gets_it(uri):
    seen = lance.dataset(uri)
    put(seen, Holder.this_process("run-5"))
    with pytest.raises(CommitConflictError):
        put(seen, Holder.this_process("run-6"))


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
    table, _ = take(uri, "run-6", never)
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
    table, lease = take(uri, "run-5", never)
    before, new = contents(table), fragments(table, rows({"new": "z"}))
    take(uri, "run-6", never, by_force=True)
    with pytest.raises(CommitConflictError):
        upsert(table, new, [])
    with pytest.raises(LeaseLostError, match=r"run-5 was taken for dead and lost .* to run run-6 \(process"):
        lease.check(lance.dataset(uri))
    assert contents(lance.dataset(uri)) == before
    lease.release(uri)
    assert not holder_of(lance.dataset(uri)).ended, "it is the other run's lease"


def test_a_driver_that_loses_the_lease_while_another_writer_commits_finds_out(uri):
    """The foreign commit makes it prepare again, on a version that names the new holder."""
    table, lease = take(uri, "run-5", never)
    take(uri, "run-6", never, by_force=True)
    lance.dataset(uri).delete("id = 'a0'")
    lease.check(table)
    with pytest.raises(LeaseLostError):
        lease.check(lance.dataset(uri))


def test_a_takeover_starts_from_a_version_with_all_that_others_committed(uri):
    held_by(uri, pid=pid_of_a_process_that_ended())
    lance.dataset(uri).delete("id = 'a0'")
    table, lease = take(uri, "run-6", never)
    assert table.version == lance.dataset(uri).version
    assert "a0" not in contents(table)
    lease.check(table)


def test_a_run_whose_lease_cannot_be_released_ends_as_it_would_have(uri, caplog):
    with caplog.at_level(logging.WARNING, "pipelines.tables.lease"), hold(uri, "run-5", never):
        Path(uri).rename(f"{uri}.moved")
    assert f"{uri}: the lease of run run-5 could not be released" in caplog.text


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
    table, lease = take(uri, "run-6", never)
    assert json.loads(table.config()[LEASE]) == dataclasses.asdict(lease.holder)
    assert lease.holder.published == 3, "the version that was published last is kept"


def test_a_lease_that_a_restore_removed_is_lost(uri):
    _, lease = take(uri, "run-5", never)
    lance.dataset(uri, version=1).restore()
    with pytest.raises(LeaseLostError, match="to nobody"):
        lease.check(lance.dataset(uri))


def test_a_lease_that_nobody_took_is_not_held(uri):
    with pytest.raises(LeaseLostError):
        Lease(Holder.this_process("run-5")).check(lance.dataset(uri))
