"""Indexes cover every row after a run, users' included, and searches through them find each row as it is now."""

import logging
import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from lance.indices import IndicesBuilder

from pipelines.tables.indexes import bring_indexes_up_to_date, index_ids, index_names, lacks_ids, unindexed_rows
from pipelines.tables.upkeep import LIMITS, UpkeepError, UpkeepLimits, compact
from tests.pipelines.tables.conftest import in_this_process, new_table, nights, write
from tests.tables import vector_of

VECTOR_INDEXES = {"IVF_PQ": {"num_sub_vectors": 4}, "IVF_HNSW_SQ": {}, "IVF_RQ": {}}


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


def test_the_index_on_ids_is_built_once_there_are_rows_and_then_kept_up_to_date(tmp_path):
    uri = new_table(tmp_path).uri
    assert not lacks_ids(lance.dataset(uri))
    index_ids(uri)
    assert index_names(lance.dataset(uri)) == [], "an empty table needs none"
    for contents in ({"a": "one"}, {"b": "two", "a": "new"}):
        assert lacks_ids(write(tmp_path, contents))
        index_ids(uri)
        table = lance.dataset(uri)
        assert not lacks_ids(table)
        assert unindexed_rows(table, "id_idx") == 0
        assert "ScalarIndexQuery" in table.scanner(filter="id = 'a'").explain_plan()
    assert table.to_table(filter="id = 'a'")["text"].to_pylist() == ["new"]


def test_the_promised_indexes_are_created_once_there_are_rows(tmp_path):
    empty = new_table(tmp_path)
    assert empty.version == bring_indexes_up_to_date(empty).version
    table = bring_indexes_up_to_date(write(tmp_path, {"a": "one"}))
    assert {index.name: index.index_type for index in table.describe_indices()} == {
        "id_idx": "BTree",
        "_object_idx": "BTree",
    }
    assert table.version == bring_indexes_up_to_date(table).version
    later = bring_indexes_up_to_date(write(tmp_path, {"b": "two"}))
    assert [unindexed_rows(later, name) for name in ("id_idx", "_object_idx")] == [0, 0]
    assert later.count_rows("_object = 'a.parquet'") == 2


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_a_search_through_an_updated_index_finds_replaced_rows_as_they_are_now(tmp_path, kind):
    with_vector_index(write(tmp_path, {f"{row}": f"old {row}" for row in range(600)}), kind)
    for n, rows in enumerate((range(0, 600, 30), range(0, 600, 60))):  # some are replaced twice
        table = write(tmp_path, {f"{row}": f"new {n} {row}" for row in rows}, f"run-{n + 2}")
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
    write(tmp_path, {f"{row}": f"old {row}" for row in range(600)})
    table = with_vector_index(write(tmp_path, {"last": "old last"}, "run-2"), kind)
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
def test_the_segments_of_a_vector_index_stay_few_and_then_fragments_are_merged(tmp_path, kind):
    limits = UpkeepLimits(small_fragments=3, index_segments=3)
    with_vector_index(write(tmp_path, {f"{row}": f"old {row}" for row in range(600)}), kind)
    segments, fragments = [], []
    for n in range(8):
        table = write(tmp_path, {f"{row}": f"new {n} {row}" for row in (n, n + 10, 500)}, f"run-{n + 2}")
        table = bring_indexes_up_to_date(compact(table, in_this_process(table), limits), limits)
        segments.append(table.stats.index_stats("vector_idx")["num_indices"])
        fragments.append(len(table.get_fragments()))
        assert nearest(table, f"new {n} {n}")[0] == (f"new {n} {n}", pytest.approx(0, abs=1e-3))
        assert nearest(table, f"new {n} 500")[0] == (f"new {n} 500", pytest.approx(0, abs=1e-3))
        assert nearest(table, f"new {n - 1} 500")[0][1] > 1e-3
    assert max(segments) <= 3
    assert max(fragments) <= 6


def test_an_updated_full_text_index_finds_new_text_and_not_old(tmp_path):
    first = write(tmp_path, {f"{row}": f"stale shared {row}" for row in range(50)})
    first.create_scalar_index("text", "INVERTED", name="text_idx")
    table = bring_indexes_up_to_date(write(tmp_path, {"7": "fresh shared 7", "new": "fresh shared"}, "run-2"))
    assert unindexed_rows(table, "text_idx") == 0
    assert texts_with(table, "fresh") == ["fresh shared", "fresh shared 7"]
    assert "stale shared 7" not in texts_with(table, "stale")
    assert len(texts_with(table, "stale")) == 49
    assert len(texts_with(table, "shared")) == 51


@pytest.mark.parametrize("kind", ["IVF_SQ", "IVF_HNSW_SQ"])
def test_an_index_whose_segments_cannot_be_merged_is_built_anew(tmp_path, caplog, kind):
    table = nights(tmp_path, LIMITS.index_segments, 300)
    centroids = IndicesBuilder(table, "vector").train_ivf(num_partitions=2, distance_type="cosine").centroids
    options = {"index_type": kind, "metric": "cosine", "num_partitions": 2, "ivf_centroids": centroids}
    segments = [
        table.create_index_uncommitted("vector", **options, name="vector_idx", fragment_ids=[fragment.fragment_id])
        for fragment in table.get_fragments()
    ]
    table.commit_existing_index_segments("vector_idx", "vector", segments)
    with caplog.at_level(logging.WARNING, "pipelines.tables.indexes"):
        table = bring_indexes_up_to_date(write(tmp_path, {"new": "text"}))
    assert f"the {LIMITS.index_segments} segments of the index 'vector_idx' can't be merged" in caplog.text
    assert table.stats.index_stats("vector_idx")["num_indices"] == 1
    assert unindexed_rows(table, "vector_idx") == 0
    assert nearest(table, "text")[0] == ("text", pytest.approx(0, abs=1e-3))


def test_an_index_that_cannot_be_updated_keeps_no_other_from_being_updated(tmp_path):
    table = bring_indexes_up_to_date(with_vector_index(nights(tmp_path, 3, 200), "IVF_PQ"))
    [index] = [each for each in table.describe_indices() if each.name == "vector_idx"]
    for segment in index.segments:
        shutil.rmtree(Path(table.uri, "_indices", str(segment.uuid)))
    write(tmp_path, {"new": "text"})
    said = "^the index 'vector_idx' was not updated, and what it lacks is scanned by searches: .*Not found"
    with pytest.raises(UpkeepError, match=said):
        bring_indexes_up_to_date(table)
    table = lance.dataset(table.uri)
    assert [unindexed_rows(table, name) for name in ("id_idx", "_object_idx")] == [0, 0]


def test_the_job_goes_on_without_its_index_on_ids(tmp_path, caplog):
    table = nights(tmp_path, 3)
    table.drop_columns(["id"])  # whatever makes the building of it fail
    with caplog.at_level(logging.WARNING, "pipelines.tables.indexes"):
        index_ids(table.uri)
    assert f"{table.uri}: the index on `id` was not updated, so lookups are slow: " in caplog.text


def test_an_internal_index_of_lance_is_left_alone(tmp_path):
    table = bring_indexes_up_to_date(nights(tmp_path, 3))
    table.optimize.compact_files(defer_index_remap=True)
    table = lance.dataset(table.uri)
    assert "__lance_frag_reuse" in [index.name for index in table.describe_indices()]
    assert table.version == bring_indexes_up_to_date(table).version


@pytest.mark.parametrize("kind", VECTOR_INDEXES)
def test_a_compaction_merges_small_fragments_and_changes_nothing_that_is_found(tmp_path, kind):
    nights(tmp_path, LIMITS.small_fragments, rows_each=80)
    before = with_vector_index(bring_indexes_up_to_date(write(tmp_path, {"0-3": "changed", "new": "y"})), kind)
    before.create_scalar_index("text", "INVERTED", name="text_idx")
    latest = bring_indexes_up_to_date(lance.dataset(before.uri))
    before = lance.dataset(latest.uri, version=latest.version)
    after = compact(latest, in_this_process(latest))
    assert (len(before.get_fragments()), len(after.get_fragments())) == (LIMITS.small_fragments + 1, 1)
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
