"""Which objects needn't be read again, and that what is remembered of them is never believed against the table."""

import lance
import pytest

from pipelines.records import row_digests
from pipelines.sink.fragments import NOT_LASTING
from pipelines.sink.read_objects import as_they_were, forget, held, remembered
from pipelines.sink.table import TableVersion
from tests.tables import address, block, commit, new_committer, rejected, tally, with_other_columns_changed

VERSIONS = {"a.parquet": "etag-a", "b.parquet": "etag-b"}


def night(db, run: str, units: int = 1):
    """A committer of a run that reads both files, each in so many units."""
    committer = new_committer(db, run)
    committer.objects.versions = VERSIONS
    committer.objects.units = dict.fromkeys(VERSIONS, units)
    return committer


def skipped(committer, versions=VERSIONS, reading="reading") -> set[str]:
    """What the next run would not read."""
    dataset = lance.dataset(committer.table.uri)
    known = remembered(committer.objects.uri)
    return set(as_they_were(known, versions, reading, held(TableVersion(dataset.uri, dataset.version))))


@pytest.fixture
def done(tmp_path):
    """Both files were read: a of one bundle, b of two."""
    committer = night(tmp_path, "run-1")
    commit(committer, block({"a1": "x", "a2": "y"}), tally(2, ended=True))
    commit(committer, block({"b1": "x"}, "b.parquet"))
    commit(committer, block({"b2": "x"}, "b.parquet"), tally(2, source_object="b.parquet", ended=True))
    return committer


def test_an_object_is_remembered_once_all_of_it_is_committed(tmp_path):
    committer = night(tmp_path, "run-1", units=2)
    commit(committer, block({"a1": "x"}), tally(2, ended=True))
    assert skipped(committer) == set(), "one unit is missing"
    commit(committer, tally(1, ended=True))
    assert skipped(committer) == set(), "records that were read did not arrive yet"
    commit(committer, block({"a2": "x", "a3": "x"}))
    assert skipped(committer) == {"a.parquet"}


def test_an_object_is_read_again_when_it_or_what_is_made_of_it_changes(done):
    assert skipped(done) == {"a.parquet", "b.parquet"}
    assert skipped(done, VERSIONS | {"a.parquet": "another"}) == {"b.parquet"}
    assert skipped(done, {"a.parquet": "etag-a", "c.parquet": "etag-c"}) == {"a.parquet"}
    assert skipped(done, reading="another") == set()


def test_unchanged_and_rewritten_rows_count_as_those_that_were_written(tmp_path, done):
    again = night(tmp_path, "run-2")
    row = again.table.to_table(filter="id = 'a1'")
    [digest] = row_digests(row["vector_fingerprint"], row["_run"]).tolist()
    counted = tally(2, {0: address(again, "a1")}, ended=True, digest=digest)
    commit(again, counted, with_other_columns_changed(block({"a2": "y"}), 7))
    assert skipped(again) == {"a.parquet", "b.parquet"}
    assert remembered(again.objects.uri)["a.parquet"]["run"] == "run-2"


@pytest.mark.parametrize("reason", sorted(NOT_LASTING))
def test_an_object_with_a_record_that_may_be_good_another_time_is_read_again(tmp_path, reason):
    committer = night(tmp_path, "run-1")
    commit(committer, block({"a1": "x"}), rejected(["a2"], reason=reason), tally(2, ended=True))
    commit(committer, rejected(["b1"], "b.parquet"), tally(1, source_object="b.parquet", ended=True))
    assert skipped(committer) == {"b.parquet"}


def test_an_object_with_a_doubled_id_is_read_again_whichever_record_came_first(tmp_path):
    for number, names in enumerate((["a.parquet", "b.parquet"], ["b.parquet", "a.parquet"])):
        committer = night(tmp_path / str(number), "run-1")
        for name in names:
            commit(committer, block({"x": name}, name), tally(1, source_object=name, ended=True))
        assert skipped(committer) == {"a.parquet"}, "the first in listing order has the id"


@pytest.mark.parametrize("harm", ["delete", "restore", "append", "overwrite", "rewrite"])
def test_whatever_became_of_the_table_a_row_of_it_is_not_believed_blindly(tmp_path, done, harm):
    before = done.table.version
    dataset = lance.dataset(done.table.uri)
    if harm == "delete":
        dataset.delete("id = 'a1'")
    elif harm == "append":
        twin = dataset.to_table(filter="id = 'a1'")
        lance.write_dataset(twin, dataset.uri, mode="append")
    elif harm == "overwrite":
        lance.write_dataset(dataset.to_table(filter="_object = 'b.parquet'"), dataset.uri, mode="overwrite")
    elif harm == "rewrite":
        commit(new_committer(tmp_path, "other"), with_other_columns_changed(block({"a1": "x"}), 7), tally(1))
    else:
        again = night(tmp_path, "run-2")
        commit(again, block({"a1": "CHANGED"}), tally(2, {1: address(again, "a2")}, ended=True))
        lance.dataset(dataset.uri, version=before).restore()
        assert skipped(done) == {"b.parquet"}, "what run-2 remembers is not what the table has now"
        return
    assert skipped(done) == {"b.parquet"}


def test_an_empty_object_is_remembered_too(tmp_path):
    committer = night(tmp_path, "run-1")
    commit(committer, tally(0, ended=True))
    assert skipped(committer) == {"a.parquet"}


def test_what_is_lost_costs_reading_and_what_is_gone_is_forgotten(done):
    rows = remembered(done.objects.uri)
    forget(done.objects.uri, [rows["b.parquet"]])
    assert skipped(done) == {"b.parquet"}
    forget(done.objects.uri, [])
    assert skipped(done) == set()
    assert remembered(done.objects.uri + "-that-is-not-there") == {}
