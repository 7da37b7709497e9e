"""The tag `published` moves once, goes back on request, and is not moved by a run that lost the table."""

import uuid
from datetime import timedelta

import lance
import pytest

from pipelines.events import Events, Published, TagMoving
from pipelines.tables.dataset import PUBLISHED, published
from pipelines.tables.lease import LeaseLostError, holder_of, take
from pipelines.tables.publish import PREVIOUS, in_ranges, publish, roll_back
from pipelines.tables.upkeep import clean_up
from tests.chaos.faulty_proxy import in_front_of
from tests.pipelines.tables.conftest import contents, new_table, tags, write
from tests.tables import NO_RUNS
from vista_core import UsageError

NOBODY = Events()


def night(db, number: int, by_force: bool = False):
    """A run that takes the lease and writes a row; returns the table and the lease."""
    _, lease = take(new_table(db), NO_RUNS, by_force)
    return write(db, {f"id{number}": "x"}, f"run-{number}"), lease


def published_nights(db, number: int):
    """Runs that published and ended, and one that holds the lease: its table, its lease, and what was published."""
    versions = []
    for each in range(number):
        table, lease = night(db, each)
        publish(table, lease, NOBODY)
        versions.append(table.version)
        lease.release(table.uri)
    return *take(new_table(db), NO_RUNS), versions


def test_the_tag_moves_to_the_version_that_was_judged_and_back_and_forth(tmp_path):
    table, lease, versions = published_nights(tmp_path, 3)
    assert tags(table) == {"published": versions[2], PREVIOUS: versions[1]}
    assert lance.dataset(table.uri, version="published").count_rows() == 3
    assert roll_back(table, lease, NOBODY) == versions[1]
    assert lance.dataset(table.uri, version="published").count_rows() == 2
    assert tags(table) == {"published": versions[1], PREVIOUS: versions[2]}
    assert roll_back(table, lease, NOBODY) == versions[2]
    assert tags(table) == {"published": versions[2], PREVIOUS: versions[1]}


def test_each_move_of_a_tag_is_reported_before_it_happens_and_the_end_after_it(tmp_path):
    _, lease, [first] = published_nights(tmp_path, 1)
    second = write(tmp_path, {"more": "x"})
    seen = []
    publish(second, lease, Events((lambda event: seen.append((event, tags(second))),)))
    assert seen == [
        (TagMoving(PREVIOUS, first), {PUBLISHED: first}),
        (TagMoving(PUBLISHED, second.version), {PUBLISHED: first, PREVIOUS: first}),
        (Published(second.version), {PUBLISHED: second.version, PREVIOUS: first}),
    ]


def test_a_first_publication_whose_answer_is_lost_is_one(s3, monkeypatch):
    """Lance repeats the request, and finds that the tag is there."""
    bucket = f"b{uuid.uuid4().hex}"  # of its own, since Lance keeps clients by bucket
    s3.fs.mkdir(bucket)
    with in_front_of(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        table, lease = night(f"s3://{bucket}", 1)
        proxy.lose_response(r"_refs/tags/published\.json")
        publish(table, lease, NOBODY)
        assert len(proxy.suffered("lost")) == 1
        assert tags(table) == {PUBLISHED: table.version}


def test_the_first_version_that_is_published_has_no_previous_one(tmp_path):
    table, lease = night(tmp_path, 0)
    seen = []
    publish(table, lease, Events((seen.append,)))
    assert seen == [TagMoving(PUBLISHED, table.version), Published(table.version)]
    assert tags(table) == {PUBLISHED: table.version}


def test_without_a_version_before_there_is_nothing_to_go_back_to(tmp_path):
    table, lease = night(tmp_path, 0)
    for to in (None, table.version):
        with pytest.raises(UsageError, match="no version before"):
            roll_back(table, lease, NOBODY, to)
    publish(table, lease, NOBODY)
    with pytest.raises(UsageError, match="no version before"):
        roll_back(table, lease, NOBODY)
    assert tags(table) == {PUBLISHED: table.version}


def test_any_version_that_exists_can_be_published_again(tmp_path):
    table, lease, versions = published_nights(tmp_path, 3)
    assert roll_back(table, lease, NOBODY, versions[0]) == versions[0]
    assert tags(table) == {PUBLISHED: versions[0], PREVIOUS: versions[2]}
    assert contents(lance.dataset(table.uri, version=PUBLISHED)) == {"id0": "x"}
    assert holder_of(lance.dataset(table.uri)).published == versions[0]
    assert roll_back(table, lease, NOBODY) == versions[2], "without a version the step is undone"
    assert tags(table) == {PUBLISHED: versions[2], PREVIOUS: versions[0]}


def test_a_rollback_to_a_version_that_does_not_exist_names_those_that_do(tmp_path):
    table, lease, versions = published_nights(tmp_path, 3)
    latest = lance.dataset(table.uri)
    before = tags(table)
    for to in (0, -1, latest.version + 1):
        with pytest.raises(UsageError, match=rf"version {to} does not exist.* exist: 1-{latest.version}$"):
            roll_back(table, lease, NOBODY, to)
    with pytest.raises(UsageError, match=rf"version {versions[2]} is the published one already.* exist: 1-"):
        roll_back(table, lease, NOBODY, versions[2])
    assert tags(table) == before
    clean_up(table.uri, timedelta(0))
    kept = f"{versions[1]}, {versions[2]}, {latest.version}"
    with pytest.raises(UsageError, match=rf"version {versions[0]} does not exist, or was removed.* exist: {kept}$"):
        roll_back(table, lease, NOBODY, versions[0])
    assert tags(table) == before


def test_a_version_without_a_vector_column_is_not_published(tmp_path):
    table, lease, versions = published_nights(tmp_path, 2)
    lance.dataset(table.uri).drop_columns(["vector"])
    without = lance.dataset(table.uri).version
    with pytest.raises(UsageError, match=rf"version {without}: .*no vector column `vector`"):
        roll_back(table, lease, NOBODY, without)
    assert published(table) == versions[1]


def test_versions_are_named_in_ranges():
    assert in_ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert in_ranges([4]) == "4"


def test_a_run_that_lost_the_table_does_not_move_the_tag(tmp_path):
    stale, zombie = night(tmp_path, 0)
    table, lease = night(tmp_path, 1, by_force=True)
    publish(table, lease, NOBODY)
    seen = []
    with pytest.raises(LeaseLostError):
        publish(stale, zombie, Events((seen.append,)))
    with pytest.raises(LeaseLostError):
        roll_back(stale, zombie, Events((seen.append,)), stale.version)
    assert published(table) == table.version
    assert seen == []


@pytest.mark.parametrize("tag", [PREVIOUS, PUBLISHED])
@pytest.mark.parametrize("has_published", [True, False], ids=["after it published", "before it publishes"])
def test_a_run_that_loses_the_table_while_it_moves_a_tag_restores_the_tag(tmp_path, tag, has_published):
    first, lease = night(tmp_path, 0)
    publish(first, lease, NOBODY)
    lease.release(first.uri)
    stale, zombie = night(tmp_path, 1)
    seen = []

    def sleeps(event):
        """The process is suspended before it moves the tag, and meanwhile another run takes over."""
        seen.append(event)
        if isinstance(event, TagMoving) and event.tag == tag:
            later, successor = night(tmp_path, 2, by_force=True)
            if has_published:
                publish(later, successor, NOBODY)

    with pytest.raises(LeaseLostError):
        publish(stale, zombie, Events((sleeps,)))
    assert [type(event) for event in seen] == [TagMoving, TagMoving], "it does not claim to have published"
    latest = lance.dataset(stale.uri)
    assert published(latest) == holder_of(latest).published
    rows = lance.dataset(stale.uri, version="published").count_rows()
    assert rows == (3 if has_published else 2), "the successor's version or, if it has none yet, the zombie's"
