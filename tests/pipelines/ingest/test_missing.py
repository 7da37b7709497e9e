"""Which rows are missing, which source they belong to, and when they are removed."""

import lance
import pyarrow as pa
import pytest

from pipelines.ingest.manifest import Reading
from pipelines.ingest.missing import delete_missing, find_missing
from tests.tables import address, append_foreign, block, commit, contents, new_committer, rejected, stats

FILES = {"a.parquet": {"a1": "x", "a2": "x", "a3": "x"}, "b.parquet": {"b1": "x"}, "other#c.parquet": {"c1": "x"}}


def own(name: str) -> bool:
    """True if a file belongs to this source, which has no name."""
    return "#" not in name


@pytest.fixture
def db(tmp_path):
    """A table with rows of two files, and of one file of another source."""
    for name, rows in FILES.items():
        commit(new_committer(tmp_path, "run-1"), block(rows, name), stats(len(rows), file=name))
    return tmp_path


def night(db, *names: str, read: tuple[str, ...] = (), run: str = "run-2", keep_stale: bool = False):
    """The committer of a run that lists the files `names` and reads those in `read` (default: all)."""
    reading = Reading("reading", run, dict.fromkeys(names, "v"), dict.fromkeys(read or names, 1))
    return new_committer(db, run, reading=reading, keep_stale=keep_stale)


def unchanged(committer, *keys: str, file: str = "a.parquet", read: int | None = None):
    """The statistics of a unit that was read to its end and found the rows `keys` unchanged."""
    rows = {row: address(committer.base, key) for row, key in enumerate(keys)}
    return stats(len(rows) if read is None else read, rows, file, ended=True)


def missing(committer) -> tuple[int, int]:
    found = find_missing(committer, own)
    return found.rows, found.owned


def test_only_rows_whose_record_is_gone_are_missing(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1", read=2), block({"a2": "changed"}))
    assert missing(committer) == (2, 4)  # a3, and b1, whose file is gone
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "a2": "changed", "c1": "x"}
    assert committer.counts.deleted == 2


@pytest.mark.parametrize("run", ["run-0", "run-2"])
def test_missing_rows_are_removed_also_if_the_clock_of_the_run_that_wrote_them_ran_ahead(db, run):
    committer = night(db, "a.parquet", run=run)
    commit(committer, unchanged(committer, "a1", "a2"))
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "a2": "x", "c1": "x"}
    assert committer.counts.deleted == 2


def test_what_is_removed_is_counted_also_where_a_fragment_is_emptied(db):
    """The fragment of `b.parquet` is, and that of `a.parquet` is not; another writer takes a row first."""
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    lance.dataset(committer.table.uri).delete("id = 'a2'")
    assert missing(committer) == (3, 4)
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "c1": "x"}
    assert committer.counts.deleted == 2


def from_others(committer, id: str | None, **values: str | None) -> None:
    """Another writer appends a copy of the row a1 with another id and other values."""
    table = lance.dataset(committer.table.uri)
    row = table.to_table(filter="id = 'a1'")
    for name, value in ({"id": id} | values).items():
        row = row.set_column(row.schema.get_field_index(name), row.schema.field(name), pa.array([value], pa.string()))
    lance.write_dataset(row, table.uri, mode="append")


def test_rows_of_other_writers_are_missing_if_they_name_a_file_of_the_source_and_were_there_before(db):
    before = new_committer(db)
    from_others(before, "no file", _object=None)
    from_others(before, "no run", _run=None)
    from_others(before, "later run", _run="zzz")
    from_others(before, None)
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1", "a2", "a3"))
    from_others(committer, "meanwhile", _run="run-0")
    lance.dataset(committer.table.uri).update({"_run": "'theirs'"}, where="id = 'b1'")
    delete_missing(committer, own)
    ids = lance.dataset(committer.table.uri).to_table(columns=["id"])["id"].to_pylist()
    assert set(ids) == {"a1", "a2", "a3", "b1", "c1", "no file", "meanwhile", None}
    assert committer.counts.deleted == 2


def test_a_row_of_which_another_writer_appended_a_copy_stays(db):
    """Either may be the one that is missing; the gate on unique ids names them."""
    from_others(new_committer(db), "a1")
    committer = night(db, "a.parquet", "b.parquet", read=("a.parquet",))
    commit(committer, unchanged(committer, "a2", "a3"), block({}))
    committer.accounted.add(min(committer.base.find(["a1"])["_rowaddr"].to_pylist()))
    delete_missing(committer, own)
    ids = lance.dataset(committer.table.uri).to_table(columns=["id"])["id"].to_pylist()
    assert sorted(ids) == ["a1", "a1", "a2", "a3", "b1", "c1"]
    assert committer.counts.deleted == 0


def test_rows_of_a_skipped_file_are_not_missing(db):
    committer = night(db, "a.parquet", "b.parquet", read=("a.parquet",))
    commit(committer, unchanged(committer, "a1"))
    assert missing(committer) == (2, 4)


def test_rows_of_files_in_a_folder_that_could_not_be_listed_are_not_missing(db):
    commit(new_committer(db, "run-1"), block({"d1": "x", "d2": "x"}, "sub/deep/d.parquet"), stats(2, file="d"))
    committer = night(db, "a.parquet", "sub")
    commit(committer, unchanged(committer, "a1", "a2", "a3"), rejected(["x"], "sub", "object_unreadable"))
    found = find_missing(committer, own)
    assert (found.rows, found.owned) == (1, 6)  # b1, whose file is gone
    assert "1 files could not be read in full, such as sub" in found.refusal(None)


def test_rows_of_other_clients_are_of_no_source_and_never_missing(db):
    append_foreign(new_committer(db), [{"id": "by hand"}, {"id": None}, {"id": "their run", "_run": "x"}])
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1", read=1))
    assert missing(committer) == (3, 4)
    delete_missing(committer, own)
    ids = lance.dataset(committer.base.uri).to_table(["id"])["id"].to_pylist()
    assert sorted(map(str, ids)) == ["None", "a1", "by hand", "c1", "their run"]


def test_a_row_that_moved_is_not_missing(db):
    committer = night(db, "b.parquet")
    commit(committer, block({"a1": "moved"}, "b.parquet"), unchanged(committer, "b1", file="b.parquet", read=2))
    assert missing(committer) == (2, 4)
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "moved", "b1": "x", "c1": "x"}


@pytest.mark.parametrize("ended", [True, False])
def test_rows_of_a_file_that_was_not_read_to_its_end_are_not_missing(db, ended):
    committer = night(db, "a.parquet", "b.parquet")
    commit(committer, unchanged(committer, "b1", file="b.parquet"))
    commit(committer, stats(1, {0: address(committer.base, "a1")}, ended=ended))
    assert missing(committer)[0] == (2 if ended else 0)


def test_a_row_that_is_kept_although_its_record_was_rejected_is_not_missing(db):
    committer = night(db, "a.parquet", "b.parquet", keep_stale=True)
    commit(committer, unchanged(committer, "b1", file="b.parquet"))
    commit(committer, rejected(["a1"]), rejected(["a2"], reason="fetch_timeout"), stats(2, ended=True))
    assert missing(committer) == (1, 4)
    delete_missing(committer, own)
    assert contents(committer).keys() == {"a1", "a2", "b1", "c1"}


def test_an_unreadable_file_keeps_its_rows_and_blocks_the_removal_of_missing_rows(db):
    committer = night(db, "a.parquet")
    commit(committer, rejected(["a1"], reason="object_unreadable"), stats(1, ended=True))
    found = find_missing(committer, own)
    assert (found.rows, found.unread) == (1, ("a.parquet",))
    assert "not removing 1 missing rows, since 1 files could not be read in full, such as a.parquet" in found.refusal(9)


def test_more_than_a_tenth_of_the_rows_is_removed_only_if_the_number_is_confirmed(tmp_path):
    rows = {f"id{number}": "x" for number in range(30)}
    commit(new_committer(tmp_path), block(rows), stats(30))
    few, many = night(tmp_path, "a.parquet"), night(tmp_path, "a.parquet")
    commit(few, unchanged(few, *list(rows)[:27]))
    commit(many, unchanged(many, *list(rows)[:26]))
    assert find_missing(few, own).refusal(None) is None
    refusal = find_missing(many, own).refusal(None)
    assert refusal.startswith("not removing 4 missing rows, 13.3% of the source's 30 in the table")
    assert "--delete-at-most 4" in refusal
    assert find_missing(many, own).refusal(3) is not None
    assert find_missing(many, own).refusal(4) is None


def test_a_compaction_by_another_writer_before_the_removal_is_harmless(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    lance.dataset(committer.table.uri).optimize.compact_files()
    delete_missing(committer, own)
    assert contents(committer) == {"a1": "x", "c1": "x"}


def test_no_version_during_the_removal_lacks_a_row_that_is_not_missing(db):
    committer = night(db, "a.parquet")
    commit(committer, unchanged(committer, "a1"))
    before = committer.table.version
    delete_missing(committer, own)
    for version in range(before, committer.table.version + 1):
        ids = lance.dataset(committer.table.uri, version=version).to_table(columns=["id"])["id"].to_pylist()
        assert {"a1", "c1"} <= set(ids)
