"""Selection against a real table: which records are new, changed, unchanged, deferred or rejected."""

import dataclasses
from collections import Counter

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from pipelines.batch_stats import BatchStats, split_stats
from pipelines.fingerprint import fingerprint
from pipelines.ingest.reembed import begin_reembedding
from pipelines.reasons import Reject
from pipelines.records import FINGERPRINT, read_schema
from pipelines.stages.select import Decided, Snapshot, file_hashes, select
from pipelines.tables.dataset import LOOKUP_IDS, TableVersion
from pipelines.tables.indexes import index_ids
from pipelines.tables.origin import Origin
from pipelines.tables.vector_column import VectorColumn
from tests.second_column import SECOND, add_second
from tests.tables import COLUMN, EXTRA, address, append_foreign, block, commit, new_committer, run_id

ODD_IDS = ["it's", "''", '"', "a\\b", "a\nb", "%_", "日本", "", " ", "null", "id", "\x00", "x') OR ('1'='1"]


def as_read(rows: list[dict], extra: pa.Schema = EXTRA) -> pa.Table:
    """Records in the form in which a source yields them."""
    numbered = [{"_object": "a.parquet", "_row": number, "price": 1} | row for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=read_schema(extra))


def snapshot(base: TableVersion, present=(), skipped=(), second_pass=False) -> Snapshot:
    """A snapshot of the table, with the files that the source lists and those that this run skips."""
    column = VectorColumn.of(base.open().schema)
    return Snapshot(base, column, file_hashes(present), file_hashes(skipped), second_pass)


def selected(
    records: pa.Table, base: TableVersion | Snapshot, rejects=None, has_ids=True
) -> tuple[list[dict], BatchStats]:
    """The rows that were passed on, and the row of batch statistics that follows them."""
    to = base if isinstance(base, Snapshot) else snapshot(base)
    tables = list(select(records, rejects or {}, [None] * len(records), has_ids, to))
    assert len({table.schema for table in tables}) == 1
    rows, [stats] = split_stats(pa.concat_tables(tables))
    assert sum(file.unchanged for file in stats.files) == len(stats.unchanged_rows)
    return rows.to_pylist(), stats


def read(stats: BatchStats) -> int:
    """The number of records read."""
    return sum(file.read for file in stats.files)


def reasons(rows: list[dict]) -> dict[object, str | None]:
    return {row["id"]: row["_reason"] for row in rows}


@pytest.fixture
def empty(tmp_path) -> TableVersion:
    committer = new_committer(tmp_path)
    return TableVersion(committer.table.uri, committer.table.version)


def holding(db, contents: dict[str, str]) -> TableVersion:
    """A table with these texts under these ids."""
    committer = new_committer(db)
    commit(committer, block(contents))
    index_ids(committer.table.uri)
    table = lance.dataset(committer.table.uri)
    return TableVersion(table.uri, table.version)


def test_new_and_changed_records_are_selected_and_unchanged_ones_counted_with_their_address(tmp_path):
    base = holding(tmp_path, {"same": "x", "changed": "x", "gone": "x", "same too": "y"})
    records = as_read(
        [
            {"id": "new", "text": "x"},
            {"id": "same", "text": "x"},
            {"id": "changed", "text": "z"},
            {"id": "same too", "text": "y"},
        ]
    )
    rows, stats = selected(records, base)
    assert reasons(rows) == {"new": None, "changed": None}
    assert [row[FINGERPRINT] for row in rows] == [fingerprint("x", None), fingerprint("z", None)]
    assert (read(stats), stats.unchanged_rows) == (4, [1, 3])
    found = lance.dataset(base.uri)._take_rows(stats.unchanged_addresses, columns=["id"])
    assert found["id"].to_pylist() == ["same", "same too"]


KINDS = {
    "price": (pa.int64(), [1, 1, None, 1, None], [1, 2, None, None, 1]),
    "ratio": (pa.float64(), [0.5, float("nan"), None, 1.0, 2.0], [0.5, float("nan"), None, 1.5, None]),
    "tags": (pa.list_(pa.string()), [["a"], [], None, ["a"], ["a", None]], [["a"], [], None, ["b"], ["a"]]),
    "size": (pa.struct([("w", pa.float32())]), [{"w": 1}, {"w": None}, None, {"w": 1}, {"w": 1}], None),
    "name": (pa.large_string(), ["ü", "", None, "", "a"], ["ü", "", None, None, "b"]),
    "blob": (pa.binary(), [b"1", b"", None, b"", b"1"], [b"1", b"", None, None, b"2"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_record_with_changes_only_in_other_columns_is_marked_to_keep_its_vector(tmp_path, name):
    kind, before, after = KINDS[name]
    after = after or [*before[:3], {"w": 2}, None]
    keys = list("abcde")
    table = block(dict.fromkeys(keys, "x"))
    schema = pa.schema([(name, kind)])
    committer = new_committer(tmp_path, extra=schema)
    if name != "price":
        table = table.drop_columns(["price"]).append_column(name, pa.array(before, kind))
    else:
        table = table.set_column(table.schema.get_field_index("price"), "price", pa.array(before, kind))
    commit(committer, table)
    base = TableVersion(committer.table.uri, committer.table.version)
    read = [{"id": key, "text": "x", name: value} for key, value in zip(keys, after, strict=True)]
    rows, stats = selected(as_read(read, schema), base)
    same = [at for at in range(5) if repr(before[at]) == repr(after[at])]
    assert stats.unchanged_rows == same
    assert {row["id"] for row in rows} == {key for at, key in enumerate(keys) if at not in same}
    assert all(row["_has_vector"] and row["_reason"] is None for row in rows)
    assert len(same) >= 2


def test_a_record_that_gained_an_image_is_changed(tmp_path):
    base = holding(tmp_path, {"came": "x", "text": "x"})
    records = as_read([{"id": "came", "text": "x", "image": b"1"}, {"id": "text", "text": "x", "image": None}])
    rows, stats = selected(records, base)
    assert reasons(rows) == {"came": None}
    assert stats.unchanged_rows == [1]


def test_a_row_that_another_client_appended_makes_no_record_unchanged_or_a_duplicate(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block({"own": "x"}))
    table = append_foreign(committer, [{"id": key, "text": "x", "price": 1} for key in ("own", "theirs")])
    records = as_read([{"id": "own", "text": "x"}, {"id": "theirs", "text": "x"}])
    rows, stats = selected(records, TableVersion(table.uri, table.version))
    assert [(row["id"], row["_reason"], row["_has_vector"]) for row in rows] == [("theirs", None, False)]
    assert stats.unchanged_addresses == [address(committer, "own")]


def test_records_are_compared_with_the_version_at_the_start_of_the_run(tmp_path):
    committer = new_committer(tmp_path)
    base = TableVersion(committer.table.uri, committer.table.version)
    commit(committer, block({"a": "x"}))
    records = as_read([{"id": "a", "text": "x"}])
    assert reasons(selected(records, base)[0]) == {"a": None}, "a retried task selects the same records"
    now = TableVersion(committer.table.uri, committer.table.version)
    assert selected(records, now)[1].unchanged_rows == [0]


def test_without_ids_the_id_is_the_fingerprint_of_the_content(tmp_path):
    contents = [("x", None), ("x", b"1"), (None, b"1")]
    base = holding(tmp_path, {fingerprint("x", None).hex(): "x"})
    records = as_read([{"text": text, "image": image} for text, image in contents])
    rows, stats = selected(records, base, has_ids=False)
    assert [row["id"] for row in rows] == [fingerprint(*content).hex() for content in contents[1:]]
    assert stats.unchanged_rows == [0]


def test_records_that_cannot_be_embedded_are_rejected_with_a_reason(empty):
    records = as_read(
        [
            {"id": None, "text": "x"},
            {"id": "nothing"},
            {"id": "empty", "text": ""},
            {"id": "image", "image": b"1"},
            {"id": "empty image", "image": b""},
        ]
    )
    rows, stats = selected(records, empty)
    assert reasons(rows) == {
        None: "missing_id",
        "nothing": "empty_record",
        "empty": "empty_record",
        "image": None,
        "empty image": None,
    }
    assert {row["_stage"] for row in rows if row["_reason"]} == {"select"}
    assert (read(stats), stats.unchanged_addresses, stats.unchanged_rows) == (5, [], [])


def test_records_rejected_while_reading_keep_their_reason(tmp_path):
    base = holding(tmp_path, {"b": "x"})
    records = as_read([{}, {"id": "b", "text": "x"}])
    rejects = {row: Reject("read", "object_unreadable", "damaged") for row in range(2)}
    rows, stats = selected(records, base, rejects)
    assert reasons(rows) == {None: "object_unreadable", "b": "object_unreadable"}
    assert stats.unchanged_rows == [], "a row that could not be read is not unchanged"
    rows, _ = selected(as_read([{}]), base, {0: rejects[0]}, has_ids=False)
    assert reasons(rows) == {None: "object_unreadable"}, "an unread record gets no id made from its content"


def test_ids_with_special_characters_are_found(tmp_path):
    base = holding(tmp_path, dict.fromkeys(ODD_IDS, "x"))
    _, stats = selected(as_read([{"id": key, "text": "x"} for key in ODD_IDS]), base)
    assert stats.unchanged_rows == list(range(len(ODD_IDS)))


def test_more_ids_are_found_than_one_query_takes(tmp_path):
    ids = [f"k{number}" for number in range(LOOKUP_IDS + 1)]
    base = holding(tmp_path, dict.fromkeys(ids[::2], "x"))
    rows, stats = selected(as_read([{"id": key, "text": "x"} for key in ids]), base)
    assert [row["id"] for row in rows] == ids[1::2]
    assert stats.unchanged_rows == list(range(0, len(ids), 2))


def owned(db) -> TableVersion:
    """A table with rows of several files, one of them of another source."""
    for name in ("a.parquet", "m.parquet", "gone.parquet", "shop#a.parquet", "/x.lance#2", "/x.lance#10"):
        commit(new_committer(db), block({f"id of {name}": "x"}, name))
    return holding(db, {})


@pytest.mark.parametrize(
    ("owner", "mine", "skipped", "becomes"),
    [
        ("m.parquet", "m.parquet", [], "unchanged"),
        ("a.parquet", "m.parquet", [], "deferred"),
        ("m.parquet", "a.parquet", [], "taken"),  # the record's file comes first in the listing
        ("gone.parquet", "m.parquet", [], "taken"),
        ("a.parquet", "m.parquet", ["a.parquet"], "duplicate_id"),
        ("m.parquet", "a.parquet", ["m.parquet"], "taken"),
        ("shop#a.parquet", "m.parquet", [], "duplicate_id"),
        ("shop#a.parquet", "shop#b.parquet", [], "taken"),
        ("a.parquet", "shop#b.parquet", [], "duplicate_id"),
        ("/x.lance#10", "/x.lance#2", [], "taken"),  # fragments are ordered by number
        ("/x.lance#2", "/x.lance#10", [], "deferred"),
    ],
)
@pytest.mark.parametrize("text", ["x", "y"])
def test_which_record_gets_an_id_that_the_table_has_from_another_file(tmp_path, owner, mine, skipped, becomes, text):
    base, present = owned(tmp_path), ["a.parquet", "m.parquet", "shop#b.parquet", "/x.lance#2", "/x.lance#10"]
    records = as_read([{"id": f"id of {owner}", "text": text, "_object": mine}])
    rows, stats = selected(records, snapshot(base, present, skipped))
    again = list(select(records, {}, [None], True, snapshot(base, present, skipped, second_pass=True)))
    assert read(stats) == 1
    assert sum(file.deferred for file in stats.files) == len(again) == (becomes == "deferred")
    if becomes == "unchanged":
        assert stats.unchanged_rows == ([0] if text == "x" else [])
    elif becomes == "deferred":
        assert rows == stats.unchanged_rows == []
        [row] = again[0].to_pylist()
        assert (row["_reason"], row["_has_vector"]) == (None, text == "x")
    else:
        [row] = rows
        assert row["_reason"] == (None if becomes == "taken" else "duplicate_id")
        assert row["_has_vector"] == (becomes == "taken" and text == "x")


def test_a_deferred_record_is_passed_on_once_even_if_it_is_rejected(tmp_path):
    base = owned(tmp_path)
    records = as_read([{"id": "id of a.parquet", "_object": "m.parquet"}, {"id": "new", "_object": "m.parquet"}])
    rows, _ = selected(records, snapshot(base, ["a.parquet", "m.parquet"]))
    assert reasons(rows) == {"new": "empty_record"}
    [again] = select(records, {}, [None, None], True, snapshot(base, ["a.parquet", "m.parquet"], second_pass=True))
    assert reasons(again.to_pylist()) == {"id of a.parquet": "empty_record"}


def test_the_second_pass_encodes_no_record_whose_id_the_first_one_gave_to_another(tmp_path):
    """The first pass rewrote one of two rows, found the other one unchanged, and removed a third one."""
    first = new_committer(tmp_path, run_id(1))
    commit(first, block({"rewritten": "x", "unchanged": "x", "moved": "x", "gone": "x"}))
    base, keys = TableVersion(first.table.uri, first.table.version), ("rewritten", "unchanged", "moved", "gone")
    records = as_read([{"id": key, "text": "y", "_object": "m.parquet"} for key in keys])
    addresses = {row["id"]: row["_rowaddr"] for row in base.find(["unchanged", "rewritten"]).to_pylist()}
    second = new_committer(tmp_path, run_id(2))
    commit(second, block({"rewritten": "z"}))
    lance.dataset(base.uri).delete("id = 'gone'")
    now = TableVersion(base.uri, lance.dataset(base.uri).version)
    decided = Decided(now, run_id(2), BitMap64(addresses.values()).serialize())
    before = dataclasses.replace(snapshot(base, ["a.parquet", "m.parquet"], second_pass=True), decided=decided)
    [again] = select(records, {}, [None] * 4, True, before)
    assert reasons(again.to_pylist()) == {
        "rewritten": "duplicate_id",
        "unchanged": "duplicate_id",
        "moved": None,
        "gone": None,
    }


def test_rows_with_vectors_of_the_previous_encoder_are_embedded_again(tmp_path):
    """So are those of which it isn't known, since another writer put something into `_run`."""
    commit(new_committer(tmp_path, run_id(1)), block({"old": "x"}))
    commit(new_committer(tmp_path, "zzz"), block({"of another writer": "x"}))
    begin_reembedding(lance.dataset(f"{tmp_path}/t.lance"), COLUMN, Origin("vista-tiny"), run_id(2))
    commit(new_committer(tmp_path, run_id(2)), block({"new": "x"}))
    records = as_read([{"id": key, "text": "x"} for key in ("old", "of another writer", "new")])
    rows, stats = selected(records, holding(tmp_path, {}))
    assert [(row["id"], row["_has_vector"]) for row in rows] == [("old", False), ("of another writer", False)]
    assert stats.unchanged_rows == [2]


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> TableVersion:
    return holding(tmp_path_factory.mktemp("some"), {"a": "x", "b": "y", "c": "z"})


@settings(max_examples=50)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.sampled_from([None, "a", "b", "c", "d"]), "text": st.sampled_from([None, "", "x", "y"])}
        ),
        min_size=1,
        max_size=12,
    ),
    st.sets(st.integers(0, 11)),
)
def test_each_record_is_selected_rejected_or_unchanged_exactly_once(some, rows, unreadable):
    rejects = {row: Reject("read", "object_unreadable", "damaged") for row in unreadable if row < len(rows)}
    passed_on, stats = selected(as_read(rows), some, rejects)
    seen = Counter([row["_row"] for row in passed_on] + stats.unchanged_rows)
    assert seen == Counter(range(len(rows)))
    assert read(stats) == len(rows)
    assert len(stats.unchanged_addresses) == len(stats.unchanged_rows)
    for row in passed_on:
        assert (row["_reason"] == "object_unreadable") == (row["_row"] in rejects)


def test_each_slot_says_whether_the_table_has_its_vector(tmp_path):
    committer = new_committer(tmp_path)
    commit(committer, block(dict.fromkeys(["same", "price", "null", "changed"], "x")))
    add_second(committer, without=("null",))
    commit(committer, block({"none": "x"}))  # by a run that did not know the column
    table = lance.dataset(committer.base.uri)
    both = dataclasses.replace(snapshot(TableVersion(table.uri, table.version)), others=(SECOND,))
    read = [{"id": key, "text": "x"} for key in ("same", "null", "none")]
    read += [{"id": "price", "text": "x", "price": 2}, {"id": "changed", "text": "y"}, {"id": "new", "text": "x"}]
    rows, stats = selected(as_read(read), both)
    assert {row["id"]: (row["_has_vector"], row["_has_vector_1"]) for row in rows} == {
        "null": (True, False),
        "none": (True, False),
        "price": (True, True),
        "changed": (False, False),
        "new": (False, False),
    }
    assert stats.unchanged_rows == [0]
