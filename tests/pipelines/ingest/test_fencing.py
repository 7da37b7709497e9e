"""A committer whose run lost the lease commits nothing any more: no rows, no rejects, no manifest."""

import lance
import pytest

from pipelines.events import TableCommitted
from pipelines.ingest.fragments import write_bundle
from pipelines.ingest.manifest import read_manifest
from pipelines.tables.lease import LeaseLostError, holder_of, take
from pipelines.tables.transactions import upsert
from tests.tables import NO_RUNS, block, commit, contents, new_committer, reject_reasons, rejected, stats


@pytest.fixture
def uri(tmp_path) -> str:
    """A table of two rows in each of two fragments."""
    for number in range(2):
        committer = new_committer(tmp_path, f"run-{number}")
        commit(committer, block({f"a{number}": "x", f"b{number}": "y"}), stats(2))
    return committer.table.uri


def test_a_fenced_out_driver_stops_at_its_next_commit_and_changes_nothing(tmp_path, uri):
    table, lease = take(lance.dataset(uri), NO_RUNS)
    zombie = new_committer(tmp_path, lease.run, lease=lease)
    _, successor = take(lance.dataset(uri), NO_RUNS, by_force=True)
    before = contents(zombie)
    for _ in range(2):
        with pytest.raises(LeaseLostError, match=f"{lease.run} was taken for dead and lost .* to run {successor.run}"):
            commit(zombie, block({"new": "z"}), stats(1))
    assert contents(zombie) == before
    written = write_bundle(zombie.bundle({}), block({}))
    assert upsert(table, written.fragments, written.changed) is table
    lease.release(uri)
    assert not holder_of(lance.dataset(uri)).ended, "a run releases only its own lease"


def test_a_driver_that_is_fenced_out_right_after_its_commit_appends_no_rejects(tmp_path, uri):
    _, lease = take(lance.dataset(uri), NO_RUNS)

    def is_taken_over(event):
        if isinstance(event, TableCommitted):
            take(lance.dataset(uri), NO_RUNS, by_force=True)

    zombie = new_committer(tmp_path, lease.run, lease=lease, listener=is_taken_over)
    with pytest.raises(LeaseLostError):
        commit(zombie, block({"new": "z"}), rejected(["bad"]), stats(2, ended=True))
    assert "new" in contents(zombie), "that was before the takeover"
    assert reject_reasons(zombie) == []
    assert read_manifest(zombie.manifest.uri) == {}


def test_a_driver_that_is_fenced_out_during_upkeep_does_not_go_on_with_its_successors_version(tmp_path, uri):
    _, lease = take(lance.dataset(uri), NO_RUNS)
    zombie = new_committer(tmp_path, lease.run, lease=lease)

    def is_taken_over(table):
        take(lance.dataset(uri), NO_RUNS, by_force=True)
        return lance.dataset(uri)  # as the upkeep of indexes returns the latest version

    with pytest.raises(LeaseLostError):
        zombie.maintain(is_taken_over)
