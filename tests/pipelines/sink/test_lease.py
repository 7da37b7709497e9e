"""One writer: who holds the lease, when it can be taken over, and that who lost it can't commit anything any more."""

import dataclasses
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import lance
import pytest
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

import pipelines.sink.commit
from pipelines.sink.commit import commit_table
from pipelines.sink.fragments import Bundle, write_bundle
from pipelines.sink.lease import Holder, Lease, LeaseHeldError, LeaseLostError, hold, holder_of, put, take
from pipelines.sink.read_objects import remembered
from pipelines.sink.table import TableVersion
from tests.tables import block, commit, contents, new_committer, reject_reasons, rejected, tally


def never(run):
    return None


@pytest.fixture
def uri(tmp_path) -> str:
    """A table of two rows in each of two fragments."""
    for number in range(2):
        committer = new_committer(tmp_path, f"run-{number}")
        commit(committer, block({f"a{number}": "x", f"b{number}": "y"}), tally(2))
    return committer.table.uri


def held_by(uri: str, **changes) -> Holder:
    """Have the lease be held by a run of this process, or of another as `changes` say."""
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


def test_one_that_ended_leaves_the_table_to_the_next_at_once(uri):
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
def test_a_holder_is_dead_when_its_process_is_gone_or_elsewhere_it_kept_silent(uri, changes, silent_minutes, dead):
    last_heard = None if silent_minutes is None else datetime.now(UTC) - timedelta(minutes=silent_minutes)
    if "pid" in changes:
        changes = {"pid": pid_of_a_process_that_ended()}
    held_by(uri, **changes)
    if not dead:
        with pytest.raises(LeaseHeldError):
            take(uri, "run-6", lambda run: last_heard)
    table, lease = take(uri, "run-6", lambda run: last_heard, by_force=not dead)
    lease.check(table)


def test_of_two_that_take_it_at_once_one_gets_it(uri):
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
def test_nothing_that_was_prepared_before_a_takeover_can_be_committed_after_it(uri, operation):
    held_by(uri, pid=pid_of_a_process_that_ended())
    zombie = lance.dataset(uri)
    rows = zombie.to_table(filter="id = 'a0'")
    fresh = write_fragments(rows, uri, schema=rows.schema, mode="append")
    table, _ = take(uri, "run-6", never)
    with pytest.raises(OSError, match=r"[Cc]onflict"):
        prepared = STALE[operation](zombie, fresh)
        lance.LanceDataset.commit(uri, prepared, read_version=zombie.version, max_retries=0)
    assert lance.dataset(uri).version == table.version


def test_without_the_barrier_a_commit_would_pass_a_takeover(uri):
    """Why there is one: should this fail, Lance fences config updates by itself."""
    zombie = lance.dataset(uri)
    held_by(uri)
    same = STALE["merge"](zombie, [])
    lance.LanceDataset.commit(uri, same, read_version=zombie.version, max_retries=0)


def test_a_zombie_stops_at_its_next_commit_and_changes_nothing(tmp_path, uri):
    table, lease = take(uri, "run-5", never)
    zombie = new_committer(tmp_path, "run-5")
    zombie.table, zombie.lease = table, lease
    take(uri, "run-6", never, by_force=True)
    before = contents(zombie)
    for _ in range(2):
        with pytest.raises(LeaseLostError, match=r"run-5 was taken for dead and lost .* to run run-6 \(process"):
            commit(zombie, block({"new": "z"}), tally(1))
    assert contents(zombie) == before
    version = TableVersion(table.uri, table.version)
    written = write_bundle(Bundle(version, version, zombie.rejects.uri, "run-5", zombie.matched.serialize()), block({}))
    assert commit_table(table, written) is table
    lease.release(uri)
    assert not holder_of(lance.dataset(uri)).ended, "what is not its own it doesn't release"


def test_a_zombie_that_slept_after_its_commit_says_nothing_of_rejects(tmp_path, uri, monkeypatch):
    table, lease = take(uri, "run-5", never)
    zombie = new_committer(tmp_path, "run-5")
    zombie.table, zombie.lease = table, lease

    def then_sleeps(*arguments):
        committed = commit_table(*arguments)
        take(uri, "run-6", never, by_force=True)
        return committed

    monkeypatch.setattr(pipelines.sink.commit, "commit_table", then_sleeps)
    with pytest.raises(LeaseLostError):
        commit(zombie, block({"new": "z"}), rejected(["bad"]), tally(2, ended=True))
    assert "new" in contents(zombie), "that was before the takeover"
    assert reject_reasons(zombie) == []
    assert remembered(zombie.objects.uri) == {}


def test_a_lease_that_nobody_took_is_not_held(uri):
    with pytest.raises(LeaseLostError):
        Lease(Holder.this_process("run-5")).check(lance.dataset(uri))
