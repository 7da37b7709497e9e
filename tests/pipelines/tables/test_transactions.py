"""The contract with Lance: if an upgrade changes what exactly-once embedding relies on, these tests fail first."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import lance
import pyarrow as pa
import pytest
from lance.file import LanceFileWriter
from lance.fragment import DataFile
from lance.optimize import Compaction

from pipelines.tables.dataset import TableVersion
from pipelines.tables.transactions import (
    CommitConflictError,
    append,
    barrier,
    exchange_index,
    from_json,
    is_conflict,
    merge,
    on_latest,
    overwrite,
    replace_columns,
    replace_fragments,
    set_config,
    to_json,
    upsert,
)
from tests.pipelines.tables.conftest import contents, fragments

UPDATES = 8
A, B = ["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]

# What becomes of a commit that was prepared (column) if another one (row) came first.
MATRIX = """
another commit                      upsert   insert   barrier  replace  append   config   empty    exchange columns

append                              conflict conflict conflict passes   passes   passes   conflict passes   passes
update of the same row              conflict conflict conflict conflict passes   passes   conflict passes   conflict
update of the same fragment         conflict conflict conflict conflict passes   passes   conflict passes   conflict
update of another fragment          conflict conflict conflict passes   passes   passes   conflict passes   passes
merge_insert into another fragment  conflict conflict conflict passes   passes   passes   conflict passes   passes
delete of the same row              conflict conflict conflict conflict passes   passes   conflict passes   conflict
delete of the same fragment         conflict conflict conflict conflict passes   passes   conflict passes   conflict
delete in another fragment          conflict conflict conflict passes   passes   passes   conflict passes   passes
delete of another fragment          conflict conflict conflict passes   passes   passes   conflict passes   passes
merge without a change              conflict conflict conflict conflict conflict passes   conflict passes   conflict
merge of a new column               conflict conflict conflict conflict conflict passes   conflict passes   conflict
project (a dropped column)          conflict conflict conflict passes   passes   passes   conflict passes   passes
rewrite (compaction)                conflict conflict conflict conflict passes   passes   conflict conflict conflict
restore                             conflict conflict conflict conflict conflict passes   conflict conflict conflict
overwrite                           conflict conflict conflict conflict conflict passes   conflict conflict conflict
metadata of the schema              conflict conflict conflict passes   passes   passes   conflict passes   passes
metadata of a field                 conflict conflict conflict passes   passes   passes   conflict passes   passes
config, same key                    passes   passes   passes   passes   passes   conflict conflict passes   passes
config, same key removed            passes   passes   passes   passes   passes   conflict conflict passes   passes
config, another key                 passes   passes   passes   passes   passes   passes   conflict passes   passes
tag                                 passes   passes   passes   passes   passes   passes   passes   passes   passes
index, created                      passes   passes   passes   passes   passes   passes   conflict passes   passes
index, updated                      passes   passes   passes   passes   passes   passes   conflict conflict passes
index, dropped                      passes   passes   passes   passes   passes   passes   conflict passes   passes
"""


def cells() -> list[tuple[str, str, str]]:
    """(another commit, the prepared commit, what becomes of it)."""
    head, *lines = [line for line in MATRIX.splitlines() if line]
    prepared = head[36:].split()
    found = [(line[:36].strip(), zip(prepared, line[36:].split(), strict=True)) for line in lines]
    return [(other, kind, outcome) for other, outcomes in found for kind, outcome in outcomes]


def rows(ids: list[str], text: str) -> pa.Table:
    return pa.table({"id": ids, "text": [text] * len(ids), "price": [1] * len(ids)})


def without(table: lance.LanceDataset, fragment: int, offsets: list[int]) -> list[str]:
    """A fragment with some of its rows deleted, not committed."""
    return to_json([table.get_fragment(fragment).delete_rows(offsets)])


def latest(table: lance.LanceDataset) -> lance.LanceDataset:
    return lance.dataset(table.uri)


def index_names(table: lance.LanceDataset) -> list[str]:
    return sorted(index.name for index in table.describe_indices())


@pytest.fixture
def table(tmp_path) -> lance.LanceDataset:
    """Fragments of the rows a0 to a3, b0 to b3, and c0; the index on `id` doesn't have the last one yet."""
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(rows(A, "old"), uri)
    lance.write_dataset(rows(B, "old"), uri, mode="append")
    lance.dataset(uri).create_scalar_index("id", "BTREE", name="id_idx")
    lance.write_dataset(rows(["c0"], "old"), uri, mode="append")
    lance.dataset(uri).update_config({"key": "old", "another": "old"})
    return lance.dataset(uri)


@dataclass(frozen=True)
class Commit:
    """A commit, and what it makes of a table: `texts` by id, ids without a text are removed."""

    do: Callable[[lance.LanceDataset], object]
    texts: dict[str, str | None]
    holds: Callable[[lance.LanceDataset], bool] = lambda table: True


def prepared_upsert(table: lance.LanceDataset) -> Callable[[], object]:
    new, changed = fragments(table, rows(["a0", "new"], "ours")), without(table, 0, [0])
    return lambda: upsert(table, new, changed)


def prepared_insert(table: lance.LanceDataset) -> Callable[[], object]:
    new = fragments(table, rows(["new"], "ours"))
    return lambda: upsert(table, new, [])


def prepared_replacement(table: lance.LanceDataset) -> Callable[[], object]:
    new = fragments(table, rows(A, "ours"))
    return lambda: replace_fragments(table, [0], new)


def prepared_append(table: lance.LanceDataset) -> Callable[[], object]:
    new = fragments(table, rows(["new"], "ours"))
    return lambda: append(table, new)


def prepared_exchange(table: lance.LanceDataset) -> Callable[[], object]:
    fragments = [each.fragment_id for each in table.get_fragments()]
    new = table.create_index_uncommitted("id", "BTREE", name="new_idx", fragment_ids=fragments)
    return lambda: exchange_index(table, new, ["id_idx"])


def prepared_columns(table: lance.LanceDataset) -> Callable[[], object]:
    schema = pa.schema([("text", pa.string())])
    with LanceFileWriter(f"{table.uri}/data/ours.lance", schema, version=table.data_storage_version) as writer:
        writer.write_batch(pa.record_batch([pa.array(["ours"] * len(A))], schema=schema))
    file = DataFile.create(table, "ours.lance")
    return lambda: replace_columns(table, {0: file})


OURS = {
    "columns": (prepared_columns, Commit(lambda table: None, dict.fromkeys(A, "ours"))),
    "upsert": (prepared_upsert, Commit(lambda table: None, {"a0": "ours", "new": "ours"})),
    "insert": (prepared_insert, Commit(lambda table: None, {"new": "ours"})),
    "barrier": (lambda table: lambda: barrier(table), Commit(lambda table: None, {})),
    "replace": (prepared_replacement, Commit(lambda table: None, dict.fromkeys(A, "ours"))),
    "append": (prepared_append, Commit(lambda table: None, {"new": "ours"})),
    "empty": (
        lambda table: lambda: overwrite(table, pa.schema([("id", pa.string()), ("text", pa.string())])),
        Commit(lambda table: None, dict.fromkeys([*A, *B, "c0"]), lambda table: table.config()["key"] == "old"),
    ),
    "exchange": (
        prepared_exchange,
        Commit(lambda table: None, {}, lambda table: {"new_idx", "id_idx"} & set(index_names(table)) == {"new_idx"}),
    ),
    "config": (
        lambda table: lambda: set_config(table, {"key": "ours"}),
        Commit(lambda table: None, {}, lambda table: table.config()["key"] == "ours"),
    ),
}


def update(where: str) -> Callable[[lance.LanceDataset], object]:
    return lambda table: table.update({"text": "'theirs'"}, where=where)


def merge_insert(table: lance.LanceDataset) -> None:
    into = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    into.execute(rows(["b0", "theirs"], "theirs"))


def update_index(table: lance.LanceDataset) -> None:
    table.optimize.optimize_indices(index_names=["id_idx"])


THEIRS = {
    "append": Commit(
        lambda table: lance.write_dataset(rows(["theirs"], "theirs"), table.uri, mode="append"), {"theirs": "theirs"}
    ),
    "update of the same row": Commit(update("id = 'a0'"), {"a0": "theirs"}),
    "update of the same fragment": Commit(update("id = 'a2'"), {"a2": "theirs"}),
    "update of another fragment": Commit(update("id = 'b0'"), {"b0": "theirs"}),
    "merge_insert into another fragment": Commit(merge_insert, {"b0": "theirs", "theirs": "theirs"}),
    "delete of the same row": Commit(lambda table: table.delete("id = 'a0'"), {"a0": None}),
    "delete of the same fragment": Commit(lambda table: table.delete("id LIKE 'a%'"), dict.fromkeys(A)),
    "delete in another fragment": Commit(lambda table: table.delete("id = 'b0'"), {"b0": None}),
    "delete of another fragment": Commit(lambda table: table.delete("id LIKE 'b%'"), dict.fromkeys(B)),
    "merge without a change": Commit(barrier, {}),
    "merge of a new column": Commit(
        lambda table: table.add_columns({"more": "'x'"}), {}, lambda table: "more" in table.schema.names
    ),
    "project (a dropped column)": Commit(
        lambda table: table.drop_columns(["price"]), {}, lambda table: "price" not in table.schema.names
    ),
    "rewrite (compaction)": Commit(lambda table: table.optimize.compact_files(), {}),
    "restore": Commit(lambda table: lance.dataset(table.uri, version=2).restore(), {"c0": None}),
    "overwrite": Commit(
        lambda table: lance.write_dataset(rows(["theirs"], "theirs"), table.uri, mode="overwrite"),
        dict.fromkeys([*A, *B, "c0"]) | {"theirs": "theirs"},
    ),
    "metadata of the schema": Commit(
        lambda table: table.update_schema_metadata({"x": "y"}), {}, lambda table: table.schema.metadata == {b"x": b"y"}
    ),
    "metadata of a field": Commit(
        lambda table: table.update_field_metadata({"text": {"x": "y"}}),
        {},
        lambda table: table.schema.field("text").metadata == {b"x": b"y"},
    ),
    "config, same key": Commit(
        lambda table: table.update_config({"key": "theirs"}), {}, lambda table: table.config()["key"] == "theirs"
    ),
    "config, same key removed": Commit(
        lambda table: table.delete_config_keys(["key"]), {}, lambda table: "key" not in table.config()
    ),
    "config, another key": Commit(
        lambda table: table.update_config({"another": "theirs"}),
        {},
        lambda table: table.config()["another"] == "theirs",
    ),
    "tag": Commit(
        lambda table: table.tags.create("published", table.version), {}, lambda table: "published" in table.tags.list()
    ),
    "index, created": Commit(
        lambda table: table.create_scalar_index("text", "BTREE", name="text_idx"),
        {},
        lambda table: "text_idx" in index_names(table),
    ),
    "index, updated": Commit(update_index, {}, lambda table: index_names(table) == ["id_idx"]),
    "index, dropped": Commit(
        lambda table: table.drop_index("id_idx"), {}, lambda table: "id_idx" not in index_names(table)
    ),
}


def after(commits: list[Commit]) -> dict[str, str]:
    """Id to text of the table when all of these commits have happened."""
    texts: dict[str, str | None] = dict.fromkeys([*A, *B, "c0"], "old")
    for commit in commits:
        texts |= commit.texts
    return {key: text for key, text in texts.items() if text is not None}


@pytest.mark.parametrize(("other", "kind", "outcome"), cells())
def test_a_prepared_commit_conflicts_with_another_or_passes_it(table, other, kind, outcome):
    (prepare, ours), theirs = OURS[kind], THEIRS[other]
    commit = prepare(table)
    theirs.do(latest(table))
    theirs_alone = latest(table)
    assert (theirs_alone.version > table.version) == (other != "tag"), "a tag alone is no commit"
    assert contents(theirs_alone) == after([theirs])
    assert theirs.holds(theirs_alone)
    if outcome == "conflict":
        with pytest.raises(CommitConflictError) as raised:
            commit()
        assert is_conflict(raised.value)
        assert latest(table).version == theirs_alone.version
        assert theirs.holds(latest(table))
    else:
        commit()
        both = latest(table)
        assert both.version == theirs_alone.version + 1
        assert contents(both) == after([theirs, ours])
        assert theirs.holds(both)
        assert ours.holds(both)


def test_the_matrix_has_every_commit():
    assert {other for other, _, _ in cells()} == set(THEIRS)
    assert {kind for _, kind, _ in cells()} == set(OURS)
    assert len(cells()) == len(THEIRS) * len(OURS)


def test_an_upsert_replaces_rows_in_one_step_so_that_each_version_has_each_id_once(table):
    first = table.version
    upsert(table, fragments(table, rows(["a0", "b3", "new"], "1")), without(table, 0, [0]) + without(table, 1, [3]))
    second = latest(table)
    upsert(second, fragments(second, rows(["a1", "new 2"], "2")), without(second, 0, [1]))
    third = latest(table)
    replace_fragments(third, [1], fragments(third, rows(["b0", "b1", "b2"], "3")))
    upsert(latest(table), [], without(latest(table), 0, [2]))
    old = after([])
    one = old | {"a0": "1", "b3": "1", "new": "1"}
    two = one | {"a1": "2", "new 2": "2"}
    three = two | dict.fromkeys(["b0", "b1", "b2"], "3")
    four = {key: text for key, text in three.items() if key != "a2"}
    versions = [contents(lance.dataset(table.uri, version=first + number)) for number in range(5)]
    assert versions == [old, one, two, three, four]


def test_an_upsert_keeps_the_index_on_ids_which_finds_replaced_rows_as_they_are_now(table):
    upsert(table, fragments(table, rows(["a0", "new"], "ours")), without(table, 0, [0]))
    [index] = latest(table).describe_indices()
    assert (index.name, index.index_type) == ("id_idx", "BTree")
    assert latest(table).stats.index_stats("id_idx")["num_unindexed_rows"] == 3, "c0 and the new rows"
    assert "ScalarIndexQuery" in latest(table).scanner(filter="id = 'a0'").explain_plan()
    for key, text in {"a0": "ours", "a1": "old", "b0": "old", "new": "ours"}.items():
        assert latest(table).to_table(filter=f"id = '{key}'")["text"].to_pylist() == [text]
    found = TableVersion(table.uri, latest(table).version).find(["a0", "a1", "new", "nowhere"], ["text"])
    assert dict(zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True)) == {
        "a0": "ours",
        "a1": "old",
        "new": "ours",
    }


def test_an_index_that_was_begun_before_an_upsert_finds_no_replaced_row(table):
    stale = latest(table)
    upsert(table, fragments(table, rows(["a0"], "ours")), without(table, 0, [0]))
    stale.create_scalar_index("text", "BTREE", name="text_idx")
    assert index_names(latest(table)) == ["id_idx", "text_idx"]
    assert sorted(latest(table).to_table(filter="text = 'old'")["id"].to_pylist()) == ["a1", "a2", "a3", *B, "c0"]
    assert latest(table).to_table(filter="text = 'ours'")["id"].to_pylist() == ["a0"]


def test_a_merge_refuses_to_drop_a_fragment(table):
    [first, *_] = [fragment.metadata for fragment in table.get_fragments()]
    with pytest.raises(OSError, match="reduced fragment count"):
        merge(table, [first])
    assert latest(table).version == table.version


def test_a_fragment_whose_rows_are_all_deleted_has_no_metadata(table):
    """Such a fragment must be replaced; it can't be part of an upsert."""
    assert table.get_fragment(0).delete_rows([0, 1, 2, 3]) is None


def test_an_upsert_without_changes_commits_nothing(table):
    assert upsert(table, [], []) is table
    assert latest(table).version == table.version


def test_a_barrier_changes_nothing_but_the_version(table):
    after_it = barrier(table)
    assert after_it.version == table.version + 1
    assert contents(after_it) == contents(table)
    assert after_it.schema.equals(table.schema, check_metadata=True)
    assert [each.metadata for each in after_it.get_fragments()] == [each.metadata for each in table.get_fragments()]
    assert (after_it.config(), index_names(after_it)) == (table.config(), index_names(table))


@pytest.mark.parametrize("kind", ["upsert", "insert", "barrier", "replace", "config"])
def test_a_commit_whose_response_was_lost_conflicts_with_itself_when_it_is_repeated(table, kind):
    prepare, ours = OURS[kind]
    commit = prepare(table)
    commit()
    with pytest.raises(CommitConflictError):
        commit()
    assert latest(table).version == table.version + 1
    assert contents(latest(table)) == after([ours])


def test_an_append_whose_response_was_lost_is_doubled_when_it_is_repeated(table):
    """Why `append` is only for tables with a single writer, who doesn't repeat it."""
    commit = prepared_append(table)
    commit()
    commit()
    assert latest(table).to_table()["id"].to_pylist().count("new") == 2


def test_fragments_travel_as_text(table):
    found = [fragment.metadata for fragment in table.get_fragments()]
    texts = to_json(found)
    assert all(isinstance(text, str) for text in texts)
    assert [from_json(text) for text in texts] == found


def test_only_conflicts_are_taken_for_conflicts(table):
    stale = latest(table)
    rewrites = [task.execute(stale) for task in Compaction.plan(stale, {}).tasks]
    table.delete("id = 'a0'")
    with pytest.raises(OSError, match="conflict") as raised:
        Compaction.commit(stale, rewrites)
    assert not isinstance(raised.value, CommitConflictError), "its message has to be looked at"
    assert is_conflict(raised.value)
    assert not is_conflict(OSError("No space left on device"))
    assert not is_conflict(ValueError("Dataset was not found"))


def test_a_change_of_columns_is_tried_again_if_another_writer_commits(table):
    def add(latest: lance.LanceDataset) -> None:
        if len(tried) < 2:
            lance.write_dataset(rows([f"new{len(tried)}"], "theirs"), latest.uri, mode="append")
        tried.append(latest.version)
        latest.add_columns(pa.field("more", pa.int64()))

    tried: list[int] = []
    changed = on_latest(table.uri, add)
    assert len(tried) == 3
    assert "more" in changed.schema.names
    assert changed.count_rows("id LIKE 'new%'") == 2


def test_updates_of_different_keys_at_the_same_moment_all_pass(tmp_path):
    """Each wants the number of the next version; whoever comes too late for it takes the one after."""
    table = lance.write_dataset(pa.table({"id": A}), tmp_path / "t.lance")
    together = threading.Barrier(UPDATES)

    def update(number: int) -> None:
        together.wait()
        set_config(table, {f"key-{number}": "ours"})

    with ThreadPoolExecutor(UPDATES) as threads:
        list(threads.map(update, range(UPDATES)))
    assert set(lance.dataset(table.uri).config()) >= {f"key-{number}" for number in range(UPDATES)}


def test_of_updates_of_one_key_at_the_same_moment_one_passes(tmp_path):
    table = lance.write_dataset(pa.table({"id": A}), tmp_path / "t.lance")
    together = threading.Barrier(UPDATES)

    def update(number: int) -> bool:
        together.wait()
        try:
            set_config(table, {"key": f"of {number}"})
        except CommitConflictError:
            return False
        return True

    with ThreadPoolExecutor(UPDATES) as threads:
        passed = list(threads.map(update, range(UPDATES)))
    assert passed.count(True) == 1
    assert lance.dataset(table.uri).config()["key"] == f"of {passed.index(True)}"
