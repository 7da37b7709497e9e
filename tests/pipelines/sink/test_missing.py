"""Which rows are missing, whose they are, and when they are removed."""

import lance
import pytest

from pipelines.sink.missing import delete_missing, find_missing
from tests.tables import address, block, commit, contents, new_committer, rejected, tally

FILES = {"a.parquet": {"a1": "x", "a2": "x", "a3": "x"}, "b.parquet": {"b1": "x"}, "other#c.parquet": {"c1": "x"}}


def own(name: str) -> bool:
    """The source is the files without a name before them."""
    return "#" not in name


@pytest.fixture
def db(tmp_path):
    """A table of two files, and one of another source."""
    for name, rows in FILES.items():
        commit(new_committer(tmp_path, "run-1"), block(rows, name), tally(len(rows), source_object=name))
    return tmp_path


def night(db, *names: str, run: str = "run-2", keep_stale: bool = False):
    """A committer of a run that lists and reads the files `names`."""
    committer = new_committer(db, run, keep_stale=keep_stale)
    committer.objects.versions = dict.fromkeys(names, "v")
    committer.objects.units = dict.fromkeys(names, 1)
    return committer


def unchanged(committer, *keys: str, source_object: str = "a.parquet", read: int | None = None):
    """What a unit says that was read to its end."""
    rows = {row: address(committer.base, key) for row, key in enumerate(keys)}
    return tally(len(rows) if read is None else read, rows, source_object, ended=True)


def missing(committer) -> tuple[int, int]:
    found = find_missing(committer, own)
    return found.rows, found.owned


def test_rows_whose_record_is_gone_are_missing_and_nothing_else_is(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1", read=2), block({"a2": "changed"}))
    assert missing(committer) == (2, 4)  # a3, and b1 whose file is gone
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "a2": "changed", "c1": "x"}
    assert committer.counts.deleted == 2


def test_of_a_file_that_is_as_it_was_nothing_is_missing(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    committer.objects.versions = {"a.parquet": "v", "b.parquet": "v"}  # b is listed, and not read
    assert missing(committer) == (2, 4)


def test_a_row_that_moved_is_not_missing(db):
    committer = night(db, "b.parquet")
    commit(
        committer, block({"a1": "moved"}, "b.parquet"), unchanged(committer, "b1", source_object="b.parquet", read=2)
    )
    assert missing(committer) == (2, 4)
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "moved", "b1": "x", "c1": "x"}


@pytest.mark.parametrize("ended", [True, False])
def test_nothing_is_missing_in_a_file_that_was_not_read_to_its_end(db, ended):
    committer = night(db, "a.parquet", "b.parquet")
    commit(committer, unchanged(committer, "b1", source_object="b.parquet"))
    commit(committer, tally(1, {0: address(committer.base, "a1")}, ended=ended))
    assert missing(committer)[0] == (2 if ended else 0)


def test_a_row_whose_record_is_rejected_for_now_is_not_missing(db):
    committer = night(db, "a.parquet", "b.parquet", keep_stale=True)
    commit(committer, unchanged(committer, "b1", source_object="b.parquet"))
    commit(committer, rejected(["a1"]), rejected(["a2"], reason="fetch_timeout"), tally(2, ended=True))
    assert missing(committer) == (1, 4)
    delete_missing(committer, own)
    assert contents(committer).keys() == {"a1", "a2", "b1", "c1"}


def test_a_file_that_could_not_be_read_keeps_its_rows_and_forbids_to_remove_any(db):
    committer = night(db, "a.parquet")
    commit(committer, rejected(["a1"], reason="object_unreadable"), tally(1, ended=True))
    found = find_missing(committer, own)
    assert (found.rows, found.unread) == (1, ("a.parquet",))
    assert "not removing 1 missing rows, since 1 objects could not be read in full, such as a.parquet" in found.refusal(
        9
    )


def test_more_than_a_tenth_is_removed_only_if_told_how_many(tmp_path):
    rows = {f"id{number}": "x" for number in range(30)}
    commit(new_committer(tmp_path), block(rows), tally(30))
    few, many = night(tmp_path, "a.parquet"), night(tmp_path, "a.parquet")
    commit(few, unchanged(few, *list(rows)[:27]))
    commit(many, unchanged(many, *list(rows)[:26]))
    assert find_missing(few, own).refusal(None) is None
    refusal = find_missing(many, own).refusal(None)
    assert refusal.startswith("not removing 4 missing rows, 13.3% of the source's 30 in the table")
    assert "--delete-at-most 4" in refusal
    assert find_missing(many, own).refusal(3) is not None
    assert find_missing(many, own).refusal(4) is None


def test_somebody_elses_compaction_before_they_are_removed_does_no_harm(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    lance.dataset(committer.table.uri).optimize.compact_files()
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "c1": "x"}


def test_no_version_lacks_a_row_that_is_not_missing(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    before = committer.table.version
    delete_missing(committer, own)
    for version in range(before, committer.table.version + 1):
        ids = lance.dataset(committer.table.uri, version=version).to_table(columns=["id"])["id"].to_pylist()
        assert {"a1", "c1"} <= set(ids)
