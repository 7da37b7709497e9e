"""The commit protocol: each bundle is committed as a whole, once, on the very version that it was resolved against."""

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events import FragmentsWritten, TableCommitted
from pipelines.ingest.fragments import Bundle, write_bundle
from pipelines.records import VECTOR
from pipelines.tables.dataset import TableVersion
from pipelines.tables.indexes import index_ids
from pipelines.tables.transactions import CommitConflictError, upsert
from tests.tables import (
    DIMENSION,
    address,
    append_foreign,
    block,
    commit,
    contents,
    new_committer,
    reject_reasons,
    rejected,
    stats,
    vector_of,
    with_other_columns_changed,
)
from vista_core import VistaError


def test_new_rows_are_committed_once_with_all_columns(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one", "b": "two"}), stats(2))
    [row] = lance.dataset(committer.table.uri).to_table(filter="id = 'a'").to_pylist()
    assert row["vector"] == vector_of("one").tolist()
    assert (row["price"], row["modality"], row["truncated"]) == (1, "text", False)
    assert (row["_object"], row["_run"]) == ("a.parquet", "run-1")
    assert contents(committer) == {"a": "one", "b": "two"}
    assert (committer.counts.read, committer.counts.written, committer.counts.resolved) == (2, 2, 2)


def test_a_changed_row_replaces_the_old_one_in_the_same_version(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), stats(2))
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "ONE", "c": "three"}), stats(2))
    assert contents(second) == {"a": "ONE", "b": "two", "c": "three"}
    for version in lance.dataset(second.table.uri).versions():
        ids = lance.dataset(second.table.uri, version=version["version"]).to_table(columns=["id"])["id"].to_pylist()
        assert len(ids) == len(set(ids)), "a version holds an id twice"
        assert version["version"] < second.table.version or "a" in ids


@pytest.mark.parametrize("alone", [True, False], ids=["alone in its fragment", "beside another row"])
def test_a_record_replaces_the_row_that_another_client_appended_with_its_id(tmp_path, alone):
    first = new_committer(tmp_path, extra=pa.schema([("price", pa.int64()), ("note", pa.string())]))
    append_foreign(first, [{"id": "a", "text": "by hand", "note": "kept"}, {"id": "b"}][: 1 if alone else 2])
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "one", "c": "three"}), rejected(["b"]), stats(3))
    found = {row["id"]: row for row in second.table.to_table().to_pylist()}
    assert found.keys() == ({"a", "c"} if alone else {"a", "b", "c"})
    assert found["a"]["vector"] == vector_of("one").tolist()
    assert (found["a"]["text"], found["a"]["_run"], found["a"]["note"]) == ("one", "run-2", "kept")
    assert (second.counts.written, second.counts.removed, second.counts.resolved) == (2, 0, 3)


def test_vectors_are_written_and_copied_in_the_floats_that_another_client_cast_the_column_to(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one"}), stats(1))
    first.table.alter_columns({"path": "vector", "data_type": pa.list_(pa.float32(), DIMENSION)})
    second = new_committer(tmp_path, "run-2")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), block({"b": "two"}), stats(2))
    assert second.table.schema.field("vector").type.value_type == pa.float32()
    found = {row["id"]: row["vector"] for row in second.table.to_table().to_pylist()}
    assert found == {"a": vector_of("one").tolist(), "b": vector_of("two").tolist()}


@pytest.mark.parametrize("before", [True, False], ids=["appended before", "appended after"])
def test_of_two_rows_with_one_id_the_jobs_own_is_the_one_that_a_record_replaces(tmp_path, before):
    first = new_committer(tmp_path / "other")
    commit(first, block({"a": "one", "b": "two"}), stats(2))
    own, theirs = first.table.to_table().to_pylist(), [{"id": key, "text": "theirs", "price": 5} for key in "ab"]
    for rows in (theirs, own) if before else (own, theirs):
        append_foreign(new_committer(tmp_path), rows)
    second = new_committer(tmp_path, "run-2")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), block({"b": "TWO"}), stats(2))
    found = second.table.to_table(["id", "text", "price", "vector"]).to_pylist()
    own = {(row["id"], row["text"]): row["vector"] for row in found if row["price"] != 5}
    assert own == {("a", "one"): vector_of("one").tolist(), ("b", "TWO"): vector_of("TWO").tolist()}
    assert sorted(row["id"] for row in found if row["price"] == 5) == ["a", "b"], "they are for the gate to judge"


@pytest.mark.parametrize("all_of_the_fragment", [False, True])
def test_a_row_with_changes_in_other_columns_is_rewritten_with_its_vector(tmp_path, all_of_the_fragment):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two", "c": "three"}), stats(3))
    before = {row["id"]: row for row in first.table.to_table().to_pylist()}
    second = new_committer(tmp_path, "run-2")
    changed = {"a": "one", "b": "two", "c": "three"} if all_of_the_fragment else {"b": "two"}
    others = block({"d": "four"} if all_of_the_fragment else {"d": "four", "c": "THREE"})
    commit(second, with_other_columns_changed(block(changed, "moved.parquet"), 7), others, stats(len(changed)))
    assert second.counts.rewritten == len(changed)
    assert second.counts.written == len(others)
    assert second.counts.rejected == 0
    after = {row["id"]: row for row in second.table.to_table().to_pylist()}
    assert after.keys() == {"a", "b", "c", "d"}
    for key in changed:
        new = {"price": 7, "_run": "run-2", "_object": "moved.parquet"}
        assert after[key] == before[key] | new


def test_a_rewritten_row_keeps_the_values_of_columns_that_the_source_lacks(tmp_path):
    first = new_committer(tmp_path, extra=pa.schema([("price", pa.int64()), ("note", pa.string())]))
    table = block({"a": "one"}).append_column("note", pa.array(["kept"]))
    commit(first, table, stats(1))
    second = new_committer(tmp_path, "run-2")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), stats(1))
    [row] = second.table.to_table().to_pylist()
    assert (row["price"], row["note"]) == (7, "kept")


def test_a_vector_is_copied_from_the_version_that_the_record_was_compared_with(tmp_path):
    """If another writer deletes the row during the run, it is neither lost nor embedded again."""
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), stats(2))
    second = new_committer(tmp_path, "run-2")
    lance.dataset(second.table.uri).delete("id = 'a'")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), stats(1))
    [row] = second.table.to_table(filter="id = 'a'").to_pylist()
    assert (row["vector"], row["price"]) == (vector_of("one").tolist(), 7)


@pytest.mark.parametrize("bad", [["b"], ["a", "b", "c"]], ids=["some of a fragment", "all of it"])
def test_a_row_is_removed_when_its_record_is_rejected(tmp_path, bad):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two", "c": "three"}), stats(3))
    second = new_committer(tmp_path, "run-2")
    commit(second, rejected([*bad, "not in the table"]), block({"d": "four"}), stats(len(bad) + 2))
    assert contents(second).keys() == {"a", "b", "c", "d"} - set(bad)
    assert (second.counts.removed, second.counts.rejected, second.counts.written) == (len(bad), len(bad) + 1, 1)
    assert second.counts.read == second.counts.resolved
    third = new_committer(tmp_path, "run-3")
    commit(third, rejected(bad), stats(len(bad)))
    assert third.counts.removed == 0


@pytest.mark.parametrize(
    ("reason", "keep"), [("image_undecodable", True), ("fetch_timeout", False), ("object_unreadable", False)]
)
def test_a_row_stays_with_keep_stale_or_if_the_reject_says_nothing_about_its_content(tmp_path, reason, keep):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), stats(2))
    second = new_committer(tmp_path, "run-2", keep_stale=keep)
    commit(second, rejected(["b"], reason=reason), stats(1))
    assert contents(second).keys() == {"a", "b"}
    assert second.counts.removed == 0


@pytest.mark.parametrize("order", ["together", "good first", "unchanged first"])
def test_a_rejected_record_does_not_remove_the_row_of_another_record_with_its_id(tmp_path, order):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), stats(2))
    second = new_committer(tmp_path, "run-2")
    good, bad = block({"b": "TWO"}), rejected(["b"])
    if order == "together":
        commit(second, bad, good, stats(2))
    elif order == "good first":
        commit(second, good, stats(1))
        commit(second, bad, stats(1))
    else:
        commit(second, stats(1, {0: address(second, "b")}))
        commit(second, bad, stats(1))
    assert contents(second) == {"a": "one", "b": "two" if order == "unchanged first" else "TWO"}
    assert (second.counts.removed, second.counts.rejected) == (0, 1)


def test_a_removed_row_is_not_counted_as_unchanged_for_a_later_record_with_its_id(tmp_path):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), stats(2))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "b")
    commit(second, rejected(["b"]), stats(1))
    commit(second, stats(1, {0: before}))
    assert reject_reasons(second) == [("b", "duplicate_id"), ("b", "image_undecodable")]
    third = new_committer(tmp_path, "run-3")
    commit(third, block({"b": "two"}), stats(1))
    assert contents(third) == {"a": "one", "b": "two"}


def test_replacing_all_rows_of_a_fragment_leaves_no_version_without_them(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), stats(2))
    before = first.table.version
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "ONE", "b": "TWO", "c": "three"}), stats(3))
    assert contents(second) == {"a": "ONE", "b": "TWO", "c": "three"}
    for version in range(before, second.table.version + 1):
        ids = lance.dataset(second.table.uri, version=version).to_table(columns=["id"])["id"].to_pylist()
        assert {"a", "b"} <= set(ids)
        assert len(ids) == len(set(ids))


def test_the_id_index_survives_commits_and_finds_every_row(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({f"id{i}": "x" for i in range(100)}), stats(100))
    index_ids(committer.table.uri)
    committer.reopen_after_indexing()
    commit(committer, block({"late": "y"}), stats(1))
    assert [index.name for index in committer.table.describe_indices()] == ["id_idx"]
    version = TableVersion(committer.table.uri, committer.table.version)
    assert set(version.find(["id7", "late", "absent"])["id"].to_pylist()) == {"id7", "late"}


MOMENTS = {"before the replacement": 0, "after the replacement": 1, "before the upsert": 2}


@pytest.mark.parametrize("moment", MOMENTS)
def test_other_writers_commits_around_a_replacement_duplicate_and_lose_nothing(tmp_path, moment):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), stats(2))
    commit(new_committer(tmp_path, "run-1b"), block({"h": "gone soon", "i": "stays"}), stats(2))
    steps: list[object] = []

    def disturb(event):
        if isinstance(event, FragmentsWritten | TableCommitted):
            steps.append(event)
            if len(steps) == MOMENTS[moment] + 1:
                lance.dataset(second.table.uri).delete("id = 'h'")
                commit(new_committer(tmp_path, "other"), block({"c": "theirs"}), stats(1))

    second = new_committer(tmp_path, "run-2", listener=disturb)
    commit(second, block({"a": "ONE", "b": "TWO", "c": "ours", "i": "I"}), stats(4))
    undisturbed = [FragmentsWritten, TableCommitted, FragmentsWritten][: MOMENTS[moment] + 1]
    assert [type(step) for step in steps][: len(undisturbed)] == undisturbed
    assert contents(second) == {"a": "ONE", "b": "TWO", "c": "ours", "i": "I"}
    assert reject_reasons(second) == []
    assert (second.counts.read, second.counts.written) == (4, 4)


def test_a_duplicate_id_is_found_after_a_compaction(tmp_path):
    for number in range(3):
        commit(new_committer(tmp_path, f"run-{number}"), block({f"{number}-{i}": "x" for i in range(5)}), stats(5))
    last = new_committer(tmp_path, "run-9")
    before = address(last, "1-1")
    commit(last, stats(1, {0: before}))
    lance.dataset(last.table.uri).optimize.compact_files()
    last.reopen()
    commit(last, block({"1-1": "second", "new": "y"}), stats(2))
    assert contents(last)["1-1"] == "x"
    assert reject_reasons(last) == [("1-1", "duplicate_id")]


def test_the_bitmap_of_accounted_rows_is_tiny_where_rows_are_in_order(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({f"id{i}": "x" for i in range(20_000)}), stats(20_000))
    second = new_committer(tmp_path, "run-2")
    known = TableVersion(second.table.uri, second.table.version).find([f"id{i}" for i in range(20_000)])
    addresses = sorted(known["_rowaddr"].to_pylist())
    commit(second, stats(20_000, dict(enumerate(addresses))))
    assert second.counts.unchanged == 20_000
    assert len(second.accounted.serialize()) < 200


@pytest.mark.parametrize("together", [True, False], ids=["one bundle", "two bundles"])
def test_a_duplicate_id_is_rejected(tmp_path, together):
    committer = new_committer(tmp_path)
    one, two = block([("a", "first"), ("b", "other")]), block([("a", "second")], "b.parquet")
    if together:
        commit(committer, one, stats(2), two, stats(1))
    else:
        commit(committer, one, stats(2))
        commit(committer, two, stats(1))
    assert contents(committer) == {"a": "first", "b": "other"}
    assert reject_reasons(committer) == [("a", "duplicate_id")]
    assert committer.counts.read == committer.counts.resolved == 3


@pytest.mark.parametrize("order", [0, 1], ids=["unchanged first", "changed first"])
@pytest.mark.parametrize("together", [True, False], ids=["one bundle", "two bundles"])
def test_an_unchanged_row_and_a_duplicate_of_its_id_make_one_row_and_one_reject(tmp_path, order, together):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "z": "last"}), stats(2))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "a")
    bundles = [[stats(1, {0: before})], [block({"a": "changed"}, "b.parquet"), stats(1)]]
    bundles = bundles[::-1] if order else bundles
    for blocks in [bundles[0] + bundles[1]] if together else bundles:
        commit(second, *blocks)
    assert set(contents(second)) == {"a", "z"}
    assert reject_reasons(second) == [("a", "duplicate_id")]
    assert second.counts.read == second.counts.resolved == 2


def test_two_unchanged_records_with_one_id_make_one_unchanged_row_and_one_reject(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one"}), stats(1))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "a")
    commit(second, stats(1, {0: before}))
    commit(second, stats(1, {5: before}, "b.parquet"))
    [reject] = lance.dataset(second.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["object"], reject["row"], reject["run"]) == ("a", "b.parquet", 5, "run-2")
    assert (second.counts.unchanged, second.counts.rejected, second.counts.resolved) == (1, 1, 2)


def test_rejected_records_are_written_to_the_rejects_with_their_reason(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one"}), rejected(["bad"]), stats(2))
    assert contents(committer) == {"a": "one"}
    [reject] = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["stage"], reject["reason"]) == ("bad", "decode", "image_undecodable")
    assert (reject["message"], reject["object"], reject["run"]) == ("not an image", "a.parquet", "run-1")


def test_the_message_of_a_reject_is_written_without_credentials(tmp_path):
    records = rejected(["bad"])
    said = pa.array(["GET https://cdn.example.com/1.png?w=3&Signature=s3cr3t failed"])
    records = records.set_column(records.schema.get_field_index("_message"), "_message", said)
    committer = new_committer(tmp_path)
    commit(committer, records, stats(1))
    [reject] = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    assert reject["message"] == "GET https://cdn.example.com/1.png?w=***&Signature=*** failed"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1.5])
def test_a_vector_without_norm_one_is_rejected(tmp_path, value):
    good, bad = block({"a": "one"}), block({"b": "two"})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([value] * 8, pa.float16()), 8)
    bad = bad.set_column(bad.schema.get_field_index(VECTOR), VECTOR, vectors)
    committer = new_committer(tmp_path)
    commit(committer, good, bad, stats(2))
    assert contents(committer) == {"a": "one"}
    assert reject_reasons(committer) == [("b", "bad_vector")]


def test_a_bundle_is_resolved_again_after_another_writers_commit(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one", "b": "two"}), stats(2))
    runs = iter([True])

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"a": "ONE", "c": "three"}), stats(2))
        if next(runs, False):  # after the bundle is resolved, before it is committed
            other = new_committer(tmp_path, "other")
            commit(other, block({"c": "theirs", "d": "four"}), stats(2))
        return written

    second = new_committer(tmp_path, "run-2")
    second.commit(write)
    assert contents(second) == {"a": "ONE", "b": "two", "c": "three", "d": "four"}
    assert second.counts.written == 2


def test_a_compaction_between_resolving_and_committing_loses_no_row(tmp_path):
    committer = new_committer(tmp_path)
    for number in range(4):
        commit(committer, block({f"{number}-{i}": "x" for i in range(10)}), stats(10))
    runs = iter([True])

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"2-3": "changed", "new": "y"}), stats(2))
        if next(runs, False):
            lance.dataset(bundle.table.uri).optimize.compact_files()
        return written

    second = new_committer(tmp_path, "run-2")
    second.commit(write)
    found = contents(second)
    assert len(found) == 41
    assert found["2-3"] == "changed"


def test_a_commit_on_a_stale_version_fails(tmp_path):
    stale, current = new_committer(tmp_path), new_committer(tmp_path, "run-2")
    version = TableVersion(stale.table.uri, stale.table.version)
    assert stale.bundle({}).table == version
    written = write_bundle(stale.bundle({}), block({"a": "x"}))
    commit(current, block({"a": "y"}), stats(1))
    with pytest.raises(CommitConflictError):
        upsert(stale.table, written.fragments, written.changed)
    assert contents(current) == {"a": "y"}


def test_a_writer_that_keeps_committing_ends_the_run_with_a_message(tmp_path):
    committer = new_committer(tmp_path)
    number = iter(range(100))

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"a": "x"}))
        commit(new_committer(tmp_path, "other"), block({f"other-{next(number)}": "y"}), stats(1))
        return written

    with pytest.raises(VistaError, match="another writer committed"):
        committer.commit(write)


def test_rejects_of_earlier_runs_are_cleared_for_files_that_were_read_again(tmp_path):
    first = new_committer(tmp_path)
    commit(first, rejected(["a"], "it's.parquet"), rejected(["b"], "other.parquet"), stats(2))
    second = new_committer(tmp_path, "run-2")
    commit(second, rejected(["a"], "it's.parquet"), stats(1))
    second.clear_stale_rejects({"it's.parquet": "run-2"})
    rows = lance.dataset(second.rejects.uri).to_table().to_pylist()
    assert sorted((row["id"], row["run"]) for row in rows) == [("a", "run-2"), ("b", "run-1")]
    second.clear_stale_rejects({"it's.parquet": "run-1"})  # an earlier run does not clear the rejects of a later one
    assert reject_reasons(second) == [("a", "image_undecodable"), ("b", "image_undecodable")]


@pytest.mark.parametrize("alone", [True, False], ids=["alone in its fragment", "among others"])
@pytest.mark.parametrize("kind", ["new", "unchanged", "rewritten"])
def test_the_record_of_the_first_file_in_the_listing_gets_the_id_even_if_it_arrives_late(tmp_path, kind, alone):
    others = {} if alone else {"other": "z"}
    if kind != "new":
        commit(new_committer(tmp_path), block({"x": "of b"} | others, "b.parquet"), stats(1))
    committer = new_committer(tmp_path, "run-2")
    if kind == "new":
        commit(committer, block({"x": "of b"} | others, "b.parquet"), stats(1 + len(others)))
    elif kind == "unchanged":
        commit(committer, stats(1, {3: address(committer.base, "x")}, "b.parquet"))
    else:
        commit(committer, with_other_columns_changed(block({"x": "of b"}, "b.parquet"), 7), stats(1))
    commit(committer, block({"x": "of a"}, "a.parquet"), stats(1))
    assert contents(committer) == {"x": "of a"} | others
    [reject] = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["object"], reject["reason"]) == ("x", "b.parquet", "duplicate_id")
    assert "in a.parquet" in reject["message"]
    assert committer.counts.read == committer.counts.resolved
    commit(committer, block({"x": "again"}, "c.parquet"), stats(1))
    assert contents(committer)["x"] == "of a"
    assert committer.counts.read == committer.counts.resolved


def test_table_only_columns_stay_while_the_content_is_unchanged(tmp_path):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), stats(2))
    dataset = lance.dataset(f"{tmp_path}/t.lance")
    dataset.add_columns({"note": "concat('note on ', id)"})
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "one", "b": "TWO"}), stats(2))  # both have a new vector, as in a re-embedding
    notes = {row["id"]: row["note"] for row in lance.dataset(dataset.uri).to_table().to_pylist()}
    assert notes == {"a": "note on a", "b": None}


def test_a_column_that_another_writer_adds_during_the_run_keeps_its_values(tmp_path):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two", "c": "three"}), stats(3))
    second = new_committer(tmp_path, "run-2")
    lance.dataset(second.table.uri).add_columns({"note": "concat('note on ', id)"})
    second.reopen()
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), block({"b": "TWO"}), stats(2))
    notes = {row["id"]: row["note"] for row in lance.dataset(second.table.uri).to_table().to_pylist()}
    assert notes == {"a": "note on a", "b": None, "c": "note on c"}


def test_the_reject_of_an_unchanged_record_names_the_file_that_has_its_id_now(tmp_path):
    commit(new_committer(tmp_path), block({"x": "of b"}, "b.parquet"), stats(1))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "x")
    commit(second, block({"x": "of a"}, "a.parquet"), stats(1))
    commit(second, stats(1, {3: before}, "b.parquet"))
    [reject] = lance.dataset(second.rejects.uri).to_table().to_pylist()
    assert (reject["object"], reject["row"]) == ("b.parquet", 3)
    assert "in a.parquet" in reject["message"]


ids = st.sampled_from("abcdefgh")
bundles = st.lists(st.lists(st.tuples(ids, st.sampled_from("xyz")), max_size=6), max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(ids, st.sampled_from(["a", "b", "c"])), max_size=6), max_size=5), st.randoms())
def test_the_first_file_in_the_listing_gets_the_id_in_any_order_of_arrival(tmp_path_factory, bundles, random):
    db = tmp_path_factory.mktemp("db")
    committer = new_committer(db)
    first: dict[str, str] = {}
    for rows in bundles:
        rows = list(dict.fromkeys(rows))
        random.shuffle(rows)
        for name in "abc":
            here = [(key, f"{key} of {name}") for key, of in rows if of == name]
            commit(committer, block(here, name), stats(len(here), file=name))
        for key, name in rows:
            first[key] = min(name, first.get(key, name))
    assert contents(committer) == {key: f"{key} of {name}" for key, name in first.items()}
    assert committer.counts.read == committer.counts.resolved


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(bundles, min_size=1, max_size=3))
def test_for_any_bundles_each_id_is_in_the_table_once_and_every_row_is_accounted_for(tmp_path_factory, runs):
    db = tmp_path_factory.mktemp("db")
    expected: dict[str, str] = {}
    for number, run in enumerate(runs):
        committer = new_committer(db, f"run-{number}")
        seen: dict[str, str] = {}
        for rows in run:
            commit(committer, block(rows), stats(len(rows)))
            for key, text in rows:
                seen.setdefault(key, text)  # the first record with an id gets it
        expected |= seen
        assert contents(committer) == expected
        assert committer.counts.read == committer.counts.resolved
        assert committer.counts.written == len(seen)
