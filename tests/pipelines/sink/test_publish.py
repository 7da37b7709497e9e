"""The tag `published` moves once, back on request, and not by who lost the table."""

import lance
import pytest

import pipelines.sink.publish
from pipelines.sink.lease import LeaseLostError, holder_of, take
from pipelines.sink.publish import PREVIOUS, publish, roll_back
from pipelines.sink.table import published
from tests.tables import block, commit, new_committer, tally
from vista_core import UsageError


def never(run):
    return None


def night(db, number: int, by_force: bool = False):
    """A run that writes a row and holds the table; returns the table and the lease."""
    committer = new_committer(db, f"run-{number}")
    table, lease = take(committer.table.uri, f"run-{number}", never, by_force)
    committer.table = table
    commit(committer, block({f"id{number}": "x"}), tally(1))
    return committer.table, lease


def tags(table) -> dict[str, int]:
    return {name: tag["version"] for name, tag in lance.dataset(table.uri).tags.list().items()}


def test_the_tag_moves_to_the_version_that_was_judged_and_back_and_forth(tmp_path):
    versions = []
    for number in range(3):
        table, lease = night(tmp_path, number)
        publish(table, lease)
        versions.append(table.version)
        lease.release(table.uri)
    assert tags(table) == {"published": versions[2], PREVIOUS: versions[1]}
    assert lance.dataset(table.uri, version="published").count_rows() == 3
    table, lease = take(table.uri, "run-3", never)
    assert roll_back(table, lease) == versions[1]
    assert lance.dataset(table.uri, version="published").count_rows() == 2
    assert roll_back(table, lease) == versions[2]
    assert tags(table) == {"published": versions[2], PREVIOUS: versions[1]}


def test_without_a_version_before_there_is_nothing_to_go_back_to(tmp_path):
    table, lease = night(tmp_path, 0)
    with pytest.raises(UsageError, match="no version before"):
        roll_back(table, lease)
    publish(table, lease)
    with pytest.raises(UsageError, match="no version before"):
        roll_back(table, lease)


def test_who_lost_the_table_does_not_move_the_tag(tmp_path):
    stale, zombie = night(tmp_path, 0)
    table, lease = night(tmp_path, 1, by_force=True)
    publish(table, lease)
    with pytest.raises(LeaseLostError):
        publish(stale, zombie)
    assert published(table) == table.version


@pytest.mark.parametrize("has_published", [True, False], ids=["after it published", "before it publishes"])
def test_who_loses_the_table_at_the_very_moment_of_moving_the_tag_puts_it_right(tmp_path, monkeypatch, has_published):
    first, lease = night(tmp_path, 0)
    publish(first, lease)
    lease.release(first.uri)
    stale, zombie = night(tmp_path, 1)
    move = pipelines.sink.publish.move

    def too_late(table, tag, version):
        """The process sleeps before it moves the tag; meanwhile another run takes over."""
        monkeypatch.setattr(pipelines.sink.publish, "move", move)
        later, successor = night(tmp_path, 2, by_force=True)
        if has_published:
            publish(later, successor)
        move(table, tag, version)

    monkeypatch.setattr(pipelines.sink.publish, "move", too_late)
    with pytest.raises(LeaseLostError):
        publish(stale, zombie)
    latest = lance.dataset(stale.uri)
    assert published(latest) == holder_of(latest).published
    rows = lance.dataset(stale.uri, version="published").count_rows()
    assert rows == (3 if has_published else 2), "what was handed in before the takeover is published; else the newest"
