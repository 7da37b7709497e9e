"""Maintenance changes how a table is kept, never what is found in it, and removes nothing that is still needed."""

import logging
import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

import pipelines.sink.maintain
from pipelines.sink.maintain import SMALL_FRAGMENTS, bring_indexes_up_to_date, clean_up, compact
from pipelines.sink.table import unindexed_rows
from tests.tables import block, commit, new_committer, tally, vector_of

VECTOR_INDEXES = {"IVF_PQ": {"num_sub_vectors": 4}, "IVF_HNSW_SQ": {}, "IVF_RQ": {}}
ALL = timedelta(0)


def night(db, contents, run="run-1"):
    """A run that commits `contents` in one bundle."""
    committer = new_committer(db, run)
    commit(committer, block(contents), tally(len(contents)))
    return lance.dataset(committer.table.uri)


def nights(db, number, rows=20):
    """A table of one small fragment for each night."""
    for n in range(number):
        table = night(db, {f"{n}-{row}": f"text {n} {row}" for row in range(rows)}, f"run-{n}")
    return table


def with_vector_index(table, kind):
    """`table` with an index on its vectors, as a user builds one."""
    table.create_index("vector", kind, metric="cosine", num_partitions=2, **VECTOR_INDEXES[kind])
    return lance.dataset(table.uri)


def nearest(table, text, k=5):
    """Texts and distances of the rows that a search through the index finds."""
    query = {"column": "vector", "q": vector_of(text), "k": k, "nprobes": 2, "refine_factor": 10}
    rows = table.to_table(columns=["id", "text", "_distance"], nearest=query).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows), "an id was found twice"
    return [(row["text"], row["_distance"]) for row in rows]


def search_plan(table):
    return table.scanner(nearest={"column": "vector", "q": vector_of("x"), "k": 5}).explain_plan()


def texts_with(table, word):
    """Texts that a full-text search finds."""
    query = {"columns": ["text"], "query": word}
    return sorted(table.to_table(columns=["text", "_score"], full_text_query=query)["text"].to_pylist())


def in_this_process(table):
    """Runs tasks as they are, one after the other."""
    return lambda tasks: [task.execute(table) for task in tasks]


def not_to_be_called(tasks):
    raise AssertionError("there is nothing to compact")


def data_files(uri):
    return {path.name for path in Path(uri, "data").iterdir()}


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_compaction_merges_small_fragments_and_changes_nothing_that_is_found(tmp_path, kind):
    nights(tmp_path, SMALL_FRAGMENTS, rows=80)
    before = with_vector_index(bring_indexes_up_to_date(night(tmp_path, {"0-3": "changed", "new": "y"})), kind)
    before.create_scalar_index("text", "INVERTED", name="text_idx")
    latest = bring_indexes_up_to_date(lance.dataset(before.uri))
    before = lance.dataset(latest.uri, version=latest.version)
    after = compact(latest, in_this_process(latest))
    assert (len(before.get_fragments()), len(after.get_fragments())) == (SMALL_FRAGMENTS + 1, 1)
    assert after.version > before.version
    assert sorted(after.to_table().to_pylist(), key=str) == sorted(before.to_table().to_pylist(), key=str)
    assert {index.name: unindexed_rows(after, index.name) for index in after.describe_indices()} == {
        "id_idx": 0,
        "_object_idx": 0,
        "vector_idx": 0,
        "text_idx": 0,
    }
    for table in (before, after):
        assert table.to_table(["text"], filter="id = '0-3'")["text"].to_pylist() == ["changed"]
        assert "ScalarIndexQuery" in table.scanner(filter="id = '0-3'").explain_plan()
        assert nearest(table, "changed")[0] == ("changed", pytest.approx(0, abs=1e-3))
        assert nearest(table, "text 0 3")[0][1] > 1e-3
        assert texts_with(table, "changed") == ["changed"]
    assert nearest(after, "text 5 7") == nearest(before, "text 5 7")


def test_a_table_that_is_compact_is_left_alone(tmp_path):
    table = nights(tmp_path, SMALL_FRAGMENTS - 1)
    assert table.version == compact(table, not_to_be_called).version
    table = nights(tmp_path, SMALL_FRAGMENTS)
    table = compact(table, in_this_process(table))
    assert table.version == compact(table, not_to_be_called).version == lance.dataset(table.uri).version


def test_small_fragments_between_large_ones_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.sink.maintain, "FRAGMENT_ROWS", 100)
    for n in range(SMALL_FRAGMENTS):
        night(tmp_path, {f"large {n} {row}": "x" for row in range(100)})
        table = night(tmp_path, {f"small {n}": "x"})
    assert len(table.get_fragments()) == 2 * SMALL_FRAGMENTS
    assert table.version == compact(table, not_to_be_called).version


def test_fragments_of_commits_that_came_out_short_are_not_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.sink.maintain, "FRAGMENT_ROWS", 100)
    for n, rows in enumerate((90, 60, 50, *(3,) * SMALL_FRAGMENTS)):
        table = night(tmp_path, {f"{n}-{row}": "x" for row in range(rows)})
    before = [fragment.fragment_id for fragment in table.get_fragments()]
    table = compact(table, in_this_process(table))
    assert [fragment.count_rows() for fragment in table.get_fragments()] == [90, 60, 50, 3 * SMALL_FRAGMENTS]
    assert [fragment.fragment_id for fragment in table.get_fragments()][:3] == before[:3]


@pytest.mark.parametrize("deleted", [10, 11])
def test_a_fragment_is_rewritten_once_more_than_a_tenth_of_it_is_deleted(tmp_path, deleted):
    night(tmp_path, {f"{row}": "old" for row in range(100)})
    before = night(tmp_path, {f"{row}": "new" for row in range(deleted)}, "run-2")
    after = compact(before, in_this_process(before) if deleted > 10 else not_to_be_called)
    assert sum(fragment.num_deletions for fragment in after.get_fragments()) == (0 if deleted > 10 else deleted)
    assert after.count_rows() == before.count_rows() == 100


@pytest.mark.parametrize("kind", ["commit", "delete", "compaction"])
def test_another_writers_commit_during_a_compaction_wins(tmp_path, caplog, kind):
    table = nights(tmp_path, SMALL_FRAGMENTS)

    def disturbed(tasks):
        rewrites = in_this_process(table)(tasks)
        if kind == "commit":
            night(tmp_path, {"1-1": "theirs"}, "other")
        elif kind == "delete":
            lance.dataset(table.uri).delete("id = '1-1'")
        else:
            lance.dataset(table.uri).optimize.compact_files()
        return rewrites

    with caplog.at_level(logging.WARNING, "pipelines.sink.maintain"):
        after = compact(table, disturbed)
    assert table.uri in caplog.text
    found = after.to_table(["text"], filter="id = '1-1'")["text"].to_pylist()
    assert found == {"commit": ["theirs"], "delete": [], "compaction": ["text 1 1"]}[kind]
    assert after.count_rows() == 20 * SMALL_FRAGMENTS - (kind == "delete")
    compacted = compact(after, in_this_process(after))
    assert len(compacted.get_fragments()) == 1
    assert compacted.count_rows() == after.count_rows()


def test_other_writers_appends_pass_a_compaction(tmp_path):
    table = nights(tmp_path, SMALL_FRAGMENTS)

    def disturbed(tasks):
        lance.write_dataset(table.to_table(limit=1), table.uri, mode="append")
        return in_this_process(table)(tasks)

    after = compact(table, disturbed)
    assert len(after.get_fragments()) == 2
    assert after.count_rows() == 20 * SMALL_FRAGMENTS + 1


def test_what_is_not_a_conflict_is_raised(tmp_path):
    table = nights(tmp_path, SMALL_FRAGMENTS)

    def overwritten(tasks):
        rewrites = in_this_process(table)(tasks)
        lance.write_dataset(table.to_table(limit=1), table.uri, mode="overwrite")
        return rewrites

    with pytest.raises(OSError, match="incompatible"):
        compact(table, overwritten)


def test_the_promised_indexes_are_created_once_there_are_rows(tmp_path):
    empty = new_committer(tmp_path).table
    assert empty.version == bring_indexes_up_to_date(empty).version
    table = bring_indexes_up_to_date(night(tmp_path, {"a": "one"}))
    assert {index.name: index.index_type for index in table.describe_indices()} == {
        "id_idx": "BTree",
        "_object_idx": "BTree",
    }
    assert table.version == bring_indexes_up_to_date(table).version
    later = bring_indexes_up_to_date(night(tmp_path, {"b": "two"}))
    assert [unindexed_rows(later, name) for name in ("id_idx", "_object_idx")] == [0, 0]
    assert later.count_rows("_object = 'a.parquet'") == 2


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_a_search_through_an_updated_index_finds_replaced_rows_as_they_are_now(tmp_path, kind):
    with_vector_index(night(tmp_path, {f"{row}": f"old {row}" for row in range(600)}), kind)
    for n, rows in enumerate((range(0, 600, 30), range(0, 600, 60))):  # some are replaced twice
        table = night(tmp_path, {f"{row}": f"new {n} {row}" for row in rows}, f"run-{n + 2}")
        assert unindexed_rows(table, "vector_idx") == len(rows)
        assert "KNN" in search_plan(table)  # a scan of what the index doesn't cover
        table = bring_indexes_up_to_date(table)
        assert unindexed_rows(table, "vector_idx") == 0
        assert "ANNSubIndex" in search_plan(table)
        assert "KNN" not in search_plan(table)
    for row in range(0, 600, 30):
        n = int(row % 60 == 0)
        assert nearest(table, f"new {n} {row}")[0] == (f"new {n} {row}", pytest.approx(0, abs=1e-3))
        old = [f"old {row}", f"new 0 {row}"][: n + 1]
        assert not any(text in old for gone in old for text, _ in nearest(table, gone, k=20))
    assert table.version == bring_indexes_up_to_date(table).version


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_vectors_that_somebody_changed_in_place_are_found_once_and_as_they_are_now(tmp_path, kind):
    night(tmp_path, {f"{row}": f"old {row}" for row in range(600)})
    table = with_vector_index(night(tmp_path, {"last": "old last"}, "run-2"), kind)
    fragment = table.get_fragments()[-1]
    changed = fragment.to_table(["vector"], with_row_id=True).select(["_rowid"])
    vectors = pa.array([vector_of("new last").tolist()], table.schema.field("vector").type)
    updated, fields = fragment.update_columns(changed.append_column("vector", vectors))
    operation = lance.LanceOperation.Update(updated_fragments=[updated], fields_modified=fields)
    table = lance.LanceDataset.commit(table.uri, operation, read_version=table.version)
    assert unindexed_rows(table, "vector_idx") == 1
    table = bring_indexes_up_to_date(table)
    assert unindexed_rows(table, "vector_idx") == 0
    assert nearest(table, "new last", k=20)[0] == ("old last", pytest.approx(0, abs=1e-3))  # the text is still the old
    assert nearest(table, "old last", k=20)[0][1] > 1e-3


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_the_segments_of_a_vector_index_stay_few_and_then_fragments_are_merged(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(pipelines.sink.maintain, "INDEX_SEGMENTS", 3)
    monkeypatch.setattr(pipelines.sink.maintain, "SMALL_FRAGMENTS", 3)
    with_vector_index(night(tmp_path, {f"{row}": f"old {row}" for row in range(600)}), kind)
    segments, fragments = [], []
    for n in range(8):
        table = night(tmp_path, {f"{row}": f"new {n} {row}" for row in (n, n + 10, 500)}, f"run-{n + 2}")
        table = bring_indexes_up_to_date(compact(table, in_this_process(table)))
        segments.append(table.stats.index_stats("vector_idx")["num_indices"])
        fragments.append(len(table.get_fragments()))
        assert nearest(table, f"new {n} {n}")[0] == (f"new {n} {n}", pytest.approx(0, abs=1e-3))
        assert nearest(table, f"new {n} 500")[0] == (f"new {n} 500", pytest.approx(0, abs=1e-3))
        assert nearest(table, f"new {n - 1} 500")[0][1] > 1e-3
    assert max(segments) <= 3
    assert max(fragments) <= 6


def test_an_updated_full_text_index_finds_new_text_and_not_old(tmp_path):
    first = night(tmp_path, {f"{row}": f"stale shared {row}" for row in range(50)})
    first.create_scalar_index("text", "INVERTED", name="text_idx")
    table = bring_indexes_up_to_date(night(tmp_path, {"7": "fresh shared 7", "new": "fresh shared"}, "run-2"))
    assert unindexed_rows(table, "text_idx") == 0
    assert texts_with(table, "fresh") == ["fresh shared", "fresh shared 7"]
    assert "stale shared 7" not in texts_with(table, "stale")
    assert len(texts_with(table, "stale")) == 49
    assert len(texts_with(table, "shared")) == 51


def test_another_writers_compaction_during_an_update_of_an_index_wins(tmp_path, caplog):
    bring_indexes_up_to_date(nights(tmp_path, 3))
    stale = night(tmp_path, {"late": "x"})
    lance.dataset(stale.uri).optimize.compact_files()
    with caplog.at_level(logging.WARNING, "pipelines.sink.maintain"):
        table = bring_indexes_up_to_date(stale)
    assert table.uri in caplog.text
    assert table.count_rows() == 61
    table = bring_indexes_up_to_date(table)
    assert [unindexed_rows(table, name) for name in ("id_idx", "_object_idx")] == [0, 0]
    assert table.to_table(["text"], filter="id = 'late'")["text"].to_pylist() == ["x"]


def test_an_index_that_lance_keeps_for_itself_is_passed_over(tmp_path):
    table = bring_indexes_up_to_date(nights(tmp_path, 3))
    table.optimize.compact_files(defer_index_remap=True)
    table = lance.dataset(table.uri)
    assert "__lance_frag_reuse" in [index.name for index in table.describe_indices()]
    assert table.version == bring_indexes_up_to_date(table).version


def test_versions_with_a_tag_and_the_latest_stay_and_the_others_go_with_their_files(tmp_path):
    table = night(tmp_path, {"a": "one", "b": "two"})
    table.tags.create("published", table.version)
    for text in ("ONE", "First", "1"):  # each replaces the only fragment
        latest = night(tmp_path, {"a": text, "b": text}, f"run-{text}")
    assert len(data_files(latest.uri)) == 4
    assert clean_up(latest.uri, ALL) > 0
    assert [version["version"] for version in lance.dataset(latest.uri).versions()] == [table.version, latest.version]
    assert len(data_files(latest.uri)) == 2
    assert lance.dataset(latest.uri, version="published").to_table(["text"])["text"].to_pylist() == ["one", "two"]
    assert lance.dataset(latest.uri).to_table(["text"])["text"].to_pylist() == ["1", "1"]
    assert clean_up(latest.uri, ALL) == 0


def test_versions_younger_than_the_retention_stay(tmp_path):
    old = nights(tmp_path, 2)
    time.sleep(0.6)
    young = night(tmp_path, {"a": "one"})
    latest = night(tmp_path, {"b": "two"})
    made = {version["version"]: version["timestamp"] for version in latest.versions()}
    for manifest in Path(latest.uri, "_versions").iterdir():  # the times that count are written in them
        os.utime(manifest, (0, 0))
    between = made[old.version] + (made[young.version] - made[old.version]) / 2
    clean_up(latest.uri, datetime.now() - between)
    assert [version["version"] for version in lance.dataset(latest.uri).versions()] == [young.version, latest.version]
    assert lance.dataset(latest.uri).count_rows() == 42


@pytest.mark.parametrize("retention", [ALL, timedelta(days=30)])
def test_files_that_were_never_committed_go_after_seven_days_and_not_before(tmp_path, retention):
    table = nights(tmp_path, 2)
    committed = data_files(table.uri)
    orphans = {}
    for days in (0, 6.9, 7.1):
        [orphan] = write_fragments(table.to_table(), table.uri, mode="append")
        orphans[days] = orphan.files[0].path
        written = time.time() - timedelta(days=days).total_seconds()
        os.utime(Path(table.uri, "data", orphans[days]), (written, written))
    clean_up(table.uri, retention)
    assert data_files(table.uri) == committed | {orphans[0], orphans[6.9]}
    assert lance.dataset(table.uri).to_table().num_rows == 40
