"""The protocol: each bundle is committed whole, once, on top of exactly the version it was settled against."""

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.sink.commit
from pipelines.sink.commit import clear_stale_rejects, commit_table
from pipelines.sink.fragments import Bundle, write_bundle
from pipelines.sink.table import TableVersion, index_ids
from tests.tables import (
    address,
    block,
    commit,
    contents,
    new_committer,
    reject_reasons,
    rejected,
    tally,
    vector_of,
    with_other_columns_changed,
)
from vista_core import VistaError


def test_new_rows_are_committed_once_with_their_columns(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one", "b": "two"}), tally(2))
    [row] = lance.dataset(committer.table.uri).to_table(filter="id = 'a'").to_pylist()
    assert row["vector"] == vector_of("one").tolist()
    assert (row["price"], row["modality"], row["truncated"]) == (1, "text", False)
    assert (row["_object"], row["_run"]) == ("a.parquet", "run-1")
    assert contents(committer) == {"a": "one", "b": "two"}
    assert (committer.counts.read, committer.counts.written, committer.counts.settled) == (2, 2, 2)


def test_a_changed_row_replaces_the_old_one_in_the_version_that_adds_it(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "ONE", "c": "three"}), tally(2))
    assert contents(second) == {"a": "ONE", "b": "two", "c": "three"}
    for version in lance.dataset(second.table.uri).versions():
        ids = lance.dataset(second.table.uri, version=version["version"]).to_table(columns=["id"])["id"].to_pylist()
        assert len(ids) == len(set(ids)), "a version holds an id twice"
        assert version["version"] < second.table.version or "a" in ids


@pytest.mark.parametrize("all_of_the_fragment", [False, True])
def test_a_row_of_which_other_columns_changed_is_rewritten_with_its_vector(tmp_path, all_of_the_fragment):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two", "c": "three"}), tally(3))
    before = {row["id"]: row for row in first.table.to_table().to_pylist()}
    second = new_committer(tmp_path, "run-2")
    changed = {"a": "one", "b": "two", "c": "three"} if all_of_the_fragment else {"b": "two"}
    others = block({"d": "four"} if all_of_the_fragment else {"d": "four", "c": "THREE"})
    commit(second, with_other_columns_changed(block(changed, "moved.parquet"), 7), others, tally(len(changed)))
    assert second.counts.rewritten == len(changed)
    assert second.counts.written == len(others)
    assert second.counts.rejected == 0
    after = {row["id"]: row for row in second.table.to_table().to_pylist()}
    assert after.keys() == {"a", "b", "c", "d"}
    for key in changed:
        new = {"price": 7, "_run": "run-2", "_object": "moved.parquet"}
        assert after[key] == before[key] | new


def test_columns_that_the_source_lacks_keep_their_values_when_a_row_is_rewritten(tmp_path):
    first = new_committer(tmp_path, extra=pa.schema([("price", pa.int64()), ("note", pa.string())]))
    table = block({"a": "one"}).append_column("note", pa.array(["kept"]))
    commit(first, table, tally(1))
    second = new_committer(tmp_path, "run-2")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), tally(1))
    [row] = second.table.to_table().to_pylist()
    assert (row["price"], row["note"]) == (7, "kept")


def test_a_vector_that_is_copied_is_that_of_the_version_that_the_record_was_compared_with(tmp_path):
    """Somebody deletes the row while the run is under way: it is not embedded again, nor lost."""
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    lance.dataset(second.table.uri).delete("id = 'a'")
    commit(second, with_other_columns_changed(block({"a": "one"}), 7), tally(1))
    [row] = second.table.to_table(filter="id = 'a'").to_pylist()
    assert (row["vector"], row["price"]) == (vector_of("one").tolist(), 7)


@pytest.mark.parametrize("bad", [["b"], ["a", "b", "c"]], ids=["some of a fragment", "all of it"])
def test_a_row_whose_record_turned_bad_leaves_the_table(tmp_path, bad):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two", "c": "three"}), tally(3))
    second = new_committer(tmp_path, "run-2")
    commit(second, rejected([*bad, "never was"]), block({"d": "four"}), tally(len(bad) + 2))
    assert contents(second).keys() == {"a", "b", "c", "d"} - set(bad)
    assert (second.counts.removed, second.counts.rejected, second.counts.written) == (len(bad), len(bad) + 1, 1)
    assert second.counts.read == second.counts.settled
    third = new_committer(tmp_path, "run-3")
    commit(third, rejected(bad), tally(len(bad)))
    assert third.counts.removed == 0


@pytest.mark.parametrize(
    ("reason", "keep"), [("image_undecodable", True), ("fetch_timeout", False), ("object_unreadable", False)]
)
def test_a_row_stays_if_asked_for_or_if_nothing_is_known_of_its_content(tmp_path, reason, keep):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), tally(2))
    second = new_committer(tmp_path, "run-2", keep_stale=keep)
    commit(second, rejected(["b"], reason=reason), tally(1))
    assert contents(second).keys() == {"a", "b"}
    assert second.counts.removed == 0


@pytest.mark.parametrize("order", ["together", "good first", "unchanged first"])
def test_a_bad_record_takes_no_row_that_another_record_of_its_id_has(tmp_path, order):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    good, bad = block({"b": "TWO"}), rejected(["b"])
    if order == "together":
        commit(second, bad, good, tally(2))
    elif order == "good first":
        commit(second, good, tally(1))
        commit(second, bad, tally(1))
    else:
        commit(second, tally(1, {0: address(second, "b")}))
        commit(second, bad, tally(1))
    assert contents(second) == {"a": "one", "b": "two" if order == "unchanged first" else "TWO"}
    assert (second.counts.removed, second.counts.rejected) == (0, 1)


def test_a_row_that_left_is_not_counted_as_unchanged_by_a_later_record_of_its_id(tmp_path):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "b")
    commit(second, rejected(["b"]), tally(1))
    commit(second, tally(1, {0: before}))
    assert reject_reasons(second) == [("b", "duplicate_id"), ("b", "image_undecodable")]
    third = new_committer(tmp_path, "run-3")
    commit(third, block({"b": "two"}), tally(1))
    assert contents(third) == {"a": "one", "b": "two"}


def test_rows_that_replace_a_whole_fragment_leave_no_version_without_them(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "b": "two"}), tally(2))
    before = first.table.version
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "ONE", "b": "TWO", "c": "three"}), tally(3))
    assert contents(second) == {"a": "ONE", "b": "TWO", "c": "three"}
    for version in range(before, second.table.version + 1):
        ids = lance.dataset(second.table.uri, version=version).to_table(columns=["id"])["id"].to_pylist()
        assert {"a", "b"} <= set(ids)
        assert len(ids) == len(set(ids))


def test_the_id_index_survives_commits_and_still_finds_every_row(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({f"id{i}": "x" for i in range(100)}), tally(100))
    index_ids(committer.table.uri)
    committer.index_was_updated()
    commit(committer, block({"late": "y"}), tally(1))
    assert [index.name for index in committer.table.describe_indices()] == ["id_idx"]
    version = TableVersion(committer.table.uri, committer.table.version)
    assert set(version.find(["id7", "late", "absent"])["id"].to_pylist()) == {"id7", "late"}


@pytest.mark.parametrize("moment", ["before the refill", "after the refill", "before the merge"])
def test_somebody_elses_commits_around_a_refill_double_and_lose_nothing(tmp_path, monkeypatch, moment):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), tally(2))
    commit(new_committer(tmp_path, "run-1b"), block({"h": "gone soon", "i": "stays"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    times = iter([True])

    def disturb(step):
        def disturbed(table, written):
            if step != "after the refill" and next(times, False):
                interfere()
            result = originals[step](table, written)
            if step == "after the refill" and next(times, False):
                interfere()
            return result

        return disturbed

    def interfere():
        dataset = lance.dataset(second.table.uri)
        dataset.delete("id = 'h'")
        commit(new_committer(tmp_path, "other"), block({"c": "theirs"}), tally(1))

    refill, merge = pipelines.sink.commit.commit_refill, pipelines.sink.commit.commit_table
    originals = {"before the refill": refill, "after the refill": refill, "before the merge": merge}
    name = "commit_table" if moment == "before the merge" else "commit_refill"
    monkeypatch.setattr(pipelines.sink.commit, name, disturb(moment))
    commit(second, block({"a": "ONE", "b": "TWO", "c": "ours", "i": "I"}), tally(4))
    assert contents(second) == {"a": "ONE", "b": "TWO", "c": "ours", "i": "I"}
    assert reject_reasons(second) == []
    assert (second.counts.read, second.counts.written) == (4, 4)


def test_a_second_record_of_an_id_is_found_after_a_compaction_too(tmp_path):
    for number in range(3):
        commit(new_committer(tmp_path, f"run-{number}"), block({f"{number}-{i}": "x" for i in range(5)}), tally(5))
    last = new_committer(tmp_path, "run-9")
    before = address(last, "1-1")
    commit(last, tally(1, {0: before}))
    lance.dataset(last.table.uri).optimize.compact_files()
    last.table = lance.dataset(last.table.uri)
    commit(last, block({"1-1": "second", "new": "y"}), tally(2))
    assert contents(last)["1-1"] == "x"
    assert reject_reasons(last) == [("1-1", "duplicate_id")]


def test_the_marks_of_matched_rows_take_next_to_nothing_where_rows_are_in_order(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({f"id{i}": "x" for i in range(20_000)}), tally(20_000))
    second = new_committer(tmp_path, "run-2")
    known = TableVersion(second.table.uri, second.table.version).find([f"id{i}" for i in range(20_000)])
    addresses = sorted(known["_rowaddr"].to_pylist())
    commit(second, tally(20_000, dict(enumerate(addresses))))
    assert second.counts.unchanged == 20_000
    assert len(second.matched.serialize()) < 200


@pytest.mark.parametrize("together", [True, False], ids=["one bundle", "two bundles"])
def test_the_second_record_of_an_id_is_rejected(tmp_path, together):
    committer = new_committer(tmp_path)
    one, two = block([("a", "first"), ("b", "other")]), block([("a", "second")], "b.parquet")
    if together:
        commit(committer, one, tally(2), two, tally(1))
    else:
        commit(committer, one, tally(2))
        commit(committer, two, tally(1))
    assert contents(committer) == {"a": "first", "b": "other"}
    assert reject_reasons(committer) == [("a", "duplicate_id")]
    assert committer.counts.read == committer.counts.settled == 3


@pytest.mark.parametrize("order", [0, 1], ids=["unchanged first", "changed first"])
@pytest.mark.parametrize("together", [True, False], ids=["one bundle", "two bundles"])
def test_an_unchanged_row_and_another_record_of_its_id_make_one_row_and_one_reject(tmp_path, order, together):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one", "z": "last"}), tally(2))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "a")
    bundles = [[tally(1, {0: before})], [block({"a": "changed"}, "b.parquet"), tally(1)]]
    bundles = bundles[::-1] if order else bundles
    for blocks in [bundles[0] + bundles[1]] if together else bundles:
        commit(second, *blocks)
    assert set(contents(second)) == {"a", "z"}
    assert reject_reasons(second) == [("a", "duplicate_id")]
    assert second.counts.read == second.counts.settled == 2


def test_two_unchanged_records_of_one_id_make_one_unchanged_and_one_reject(tmp_path):
    first = new_committer(tmp_path)
    commit(first, block({"a": "one"}), tally(1))
    second = new_committer(tmp_path, "run-2")
    before = address(second, "a")
    commit(second, tally(1, {0: before}))
    commit(second, tally(1, {5: before}, "b.parquet"))
    [reject] = lance.dataset(second.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["object"], reject["row"], reject["run"]) == ("a", "b.parquet", 5, "run-2")
    assert (second.counts.unchanged, second.counts.rejected, second.counts.settled) == (1, 1, 2)


def test_rejected_records_go_to_the_rejects_with_their_reason(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one"}), rejected(["bad"]), tally(2))
    assert contents(committer) == {"a": "one"}
    [reject] = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["stage"], reject["reason"]) == ("bad", "decode", "image_undecodable")
    assert (reject["message"], reject["object"], reject["run"]) == ("not an image", "a.parquet", "run-1")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1.5])
def test_a_vector_that_is_not_of_norm_one_never_reaches_the_table(tmp_path, value):
    good, bad = block({"a": "one"}), block({"b": "two"})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([value] * 8, pa.float16()), 8)
    bad = bad.set_column(bad.schema.get_field_index("vector"), "vector", vectors)
    committer = new_committer(tmp_path)
    commit(committer, good, bad, tally(2))
    assert contents(committer) == {"a": "one"}
    assert reject_reasons(committer) == [("b", "bad_vector")]


def test_somebody_elses_commit_in_between_is_survived(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"a": "one", "b": "two"}), tally(2))
    runs = iter([True])

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"a": "ONE", "c": "three"}), tally(2))
        if next(runs, False):  # after the bundle is settled, before it is committed
            other = new_committer(tmp_path, "other")
            commit(other, block({"c": "theirs", "d": "four"}), tally(2))
        return written

    second = new_committer(tmp_path, "run-2")
    second.commit(write)
    assert contents(second) == {"a": "ONE", "b": "two", "c": "three", "d": "four"}
    assert second.counts.written == 2


def test_a_compaction_in_between_moves_rows_and_loses_none(tmp_path):
    committer = new_committer(tmp_path)
    for number in range(4):
        commit(committer, block({f"{number}-{i}": "x" for i in range(10)}), tally(10))
    runs = iter([True])

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"2-3": "changed", "new": "y"}), tally(2))
        if next(runs, False):
            lance.dataset(bundle.table.uri).optimize.compact_files()
        return written

    second = new_committer(tmp_path, "run-2")
    second.commit(write)
    found = contents(second)
    assert len(found) == 41
    assert found["2-3"] == "changed"


def test_a_stale_commit_fails(tmp_path):
    stale, current = new_committer(tmp_path), new_committer(tmp_path, "run-2")
    version = TableVersion(stale.table.uri, stale.table.version)
    written = write_bundle(
        Bundle(version, stale.base, stale.rejects.uri, "run-1", stale.matched.serialize()), block({"a": "x"})
    )
    commit(current, block({"a": "y"}), tally(1))
    with pytest.raises(lance.commit.CommitConflictError):
        commit_table(stale.table, written)
    assert contents(current) == {"a": "y"}


def test_a_writer_that_never_stops_ends_the_run_with_a_message(tmp_path):
    committer = new_committer(tmp_path)
    number = iter(range(100))

    def write(bundle: Bundle):
        written = write_bundle(bundle, block({"a": "x"}))
        commit(new_committer(tmp_path, "other"), block({f"other-{next(number)}": "y"}), tally(1))
        return written

    with pytest.raises(VistaError, match="another writer committed"):
        committer.commit(write)


def test_rejects_of_earlier_runs_are_cleared_for_the_objects_read_again(tmp_path):
    first = new_committer(tmp_path)
    commit(first, rejected(["a"], "it's.parquet"), rejected(["b"], "other.parquet"), tally(2))
    second = new_committer(tmp_path, "run-2")
    commit(second, rejected(["a"], "it's.parquet"), tally(1))
    clear_stale_rejects(second.rejects, {"it's.parquet": "run-2"})
    rows = lance.dataset(second.rejects.uri).to_table().to_pylist()
    assert sorted((row["id"], row["run"]) for row in rows) == [("a", "run-2"), ("b", "run-1")]
    clear_stale_rejects(second.rejects, {"it's.parquet": "run-1"})  # a run that began before leaves them alone
    assert reject_reasons(second) == [("a", "image_undecodable"), ("b", "image_undecodable")]


@pytest.mark.parametrize("alone", [True, False], ids=["alone in its fragment", "among others"])
@pytest.mark.parametrize("kind", ["new", "unchanged", "rewritten"])
def test_an_id_is_that_of_the_record_whose_object_comes_first_also_if_it_comes_late(tmp_path, kind, alone):
    others = {} if alone else {"other": "z"}
    if kind != "new":
        commit(new_committer(tmp_path), block({"x": "of b"} | others, "b.parquet"), tally(1))
    committer = new_committer(tmp_path, "run-2")
    if kind == "new":
        commit(committer, block({"x": "of b"} | others, "b.parquet"), tally(1 + len(others)))
    elif kind == "unchanged":
        commit(committer, tally(1, {3: address(committer.base, "x")}, "b.parquet"))
    else:
        commit(committer, with_other_columns_changed(block({"x": "of b"}, "b.parquet"), 7), tally(1))
    commit(committer, block({"x": "of a"}, "a.parquet"), tally(1))
    assert contents(committer) == {"x": "of a"} | others
    [reject] = lance.dataset(committer.rejects.uri).to_table().to_pylist()
    assert (reject["id"], reject["object"], reject["reason"]) == ("x", "b.parquet", "duplicate_id")
    assert "in a.parquet" in reject["message"]
    assert committer.counts.read == committer.counts.settled
    commit(committer, block({"x": "again"}, "c.parquet"), tally(1))
    assert contents(committer)["x"] == "of a"
    assert committer.counts.read == committer.counts.settled


def test_columns_that_only_the_table_has_stay_while_the_content_does(tmp_path):
    commit(new_committer(tmp_path), block({"a": "one", "b": "two"}), tally(2))
    dataset = lance.dataset(f"{tmp_path}/t.lance")
    dataset.add_columns({"note": "concat('note on ', id)"})
    second = new_committer(tmp_path, "run-2")
    commit(second, block({"a": "one", "b": "TWO"}), tally(2))  # both with a new vector, as when it is replaced
    notes = {row["id"]: row["note"] for row in lance.dataset(dataset.uri).to_table().to_pylist()}
    assert notes == {"a": "note on a", "b": None}


ids = st.sampled_from("abcdefgh")
bundles = st.lists(st.lists(st.tuples(ids, st.sampled_from("xyz")), max_size=6), max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(ids, st.sampled_from(["a", "b", "c"])), max_size=6), max_size=5), st.randoms())
def test_in_whatever_order_objects_arrive_an_id_is_that_of_the_first(tmp_path_factory, bundles, random):
    db = tmp_path_factory.mktemp("db")
    committer = new_committer(db)
    first: dict[str, str] = {}
    for rows in bundles:
        rows = list(dict.fromkeys(rows))
        random.shuffle(rows)
        for name in "abc":
            here = [(key, f"{key} of {name}") for key, of in rows if of == name]
            commit(committer, block(here, name), tally(len(here), source_object=name))
        for key, name in rows:
            first[key] = min(name, first.get(key, name))
    assert contents(committer) == {key: f"{key} of {name}" for key, name in first.items()}
    assert committer.counts.read == committer.counts.settled


@settings(max_examples=25, deadline=None)
@given(runs=st.lists(bundles, min_size=1, max_size=3))
def test_whatever_arrives_each_id_is_there_once_and_every_row_is_accounted_for(tmp_path_factory, runs):
    db = tmp_path_factory.mktemp("db")
    expected: dict[str, str] = {}
    for number, run in enumerate(runs):
        committer = new_committer(db, f"run-{number}")
        seen: dict[str, str] = {}
        for rows in run:
            commit(committer, block(rows), tally(len(rows)))
            for key, text in rows:
                seen.setdefault(key, text)  # the first record of an id counts
        expected |= seen
        assert contents(committer) == expected
        assert committer.counts.read == committer.counts.settled
        assert committer.counts.written == len(seen)
