"""The measurement: what counts as found, and that it is compared with exact search."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.cluster.calls import in_this_process
from pipelines.index.measure import (
    NOBODY,
    Asked,
    Point,
    Queries,
    Searched,
    best_scores,
    found_shares,
    measure,
    sample_queries,
    stored_queries,
    sweep,
)
from pipelines.tables.dataset import TableVersion
from tests.pipelines.index.tables import DIMENSION, foreign_table, rows_of, vectors


def searched(uri, metric="cosine"):
    return Searched(TableVersion(uri, lance.dataset(uri).version), "embedding", metric)


def indexed(uri, metric="cosine"):
    lance.dataset(uri).create_index("embedding", "IVF_RQ", metric=metric, num_partitions=8, num_bits=1)
    return searched(uri, metric)


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_exact_scores_are_those_of_lance(tmp_path, metric):
    uri = foreign_table(tmp_path, 900, 3)
    where = searched(uri, metric)
    queries = sample_queries(where, 20)
    best = best_scores(where, queries, in_this_process)
    table = lance.dataset(uri)
    for vector, address, found in zip(queries.vectors, queries.addresses, best, strict=True):
        nearest = {"column": "embedding", "q": vector, "k": 11, "metric": metric, "use_index": False}
        rows = table.to_table(["_distance"], nearest=nearest, with_row_address=True)
        distances = rows.filter(pa.array(rows["_rowaddr"].to_numpy() != address))["_distance"].to_numpy()[:10]
        wanted = -distances if metric == "l2" else 1 - distances
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_search_by_every_partition_and_much_refinement_finds_all(tmp_path):
    where = indexed(foreign_table(tmp_path))
    queries = sample_queries(where, 40)
    asked = [Asked(queries, best_scores(where, queries, in_this_process))]
    everything, _ = measure(where, asked, Point(8, 64))
    little, error = measure(where, asked, Point(1, 0))
    assert everything.recall == 1
    assert little.recall < 0.9
    assert 0 < error < 0.1
    assert everything.p95_ms >= everything.p50_ms > 0


def test_the_cheapest_setting_that_reaches_the_recall_is_chosen(tmp_path):
    where = indexed(foreign_table(tmp_path))
    queries = sample_queries(where, 40)
    asked = [Asked(queries, best_scores(where, queries, in_this_process))]
    swept = sweep(where, asked, 8, 0.9)
    reaching = [each for each in swept.settings if each.recall >= 0.9]
    assert (swept.chosen.nprobes, swept.chosen.refine_factor) in {(e.nprobes, e.refine_factor) for e in reaching}
    assert swept.chosen.recall >= 0.9
    assert len(swept.settings) < 30
    assert sweep(where, asked, 8, 1.1).chosen is None


def test_rows_with_equal_vectors_stand_for_each_other(tmp_path):
    uri = f"{tmp_path}/t.lance"
    lance.write_dataset(rows_of(np.repeat(vectors(20), 50, axis=0)), uri)
    where = searched(uri)
    queries = sample_queries(where, 20)
    best = best_scores(where, queries, in_this_process)
    np.testing.assert_allclose(best, 1, atol=1e-5)  # each row has 49 others like it
    exact, _ = measure(indexed(uri), [Asked(queries, best)], Point(8, 64))
    assert exact.recall == 1


def test_rows_without_a_usable_vector_are_no_queries_and_found_by_none(tmp_path):
    uri = foreign_table(tmp_path, 300, 1)
    broken = rows_of(np.full((50, DIMENSION), np.nan, np.float32), 300)
    nulls = broken.set_column(1, "embedding", pa.nulls(50, broken.schema.field("embedding").type))
    lance.write_dataset(broken, uri, mode="append")
    lance.write_dataset(nulls, uri, mode="append")
    where = searched(uri)
    queries = sample_queries(where, 400)
    assert len(queries) == 300
    assert np.isfinite(best_scores(where, queries, in_this_process)).all()


def test_with_a_filter_only_rows_that_pass_it_count(tmp_path):
    where = searched(foreign_table(tmp_path, 600, 2))
    queries = sample_queries(where, 10)
    few = best_scores(where, queries, in_this_process, "sku < 'sku-000005'")
    assert (np.isfinite(few).sum(axis=1) <= 5).all()
    assert found_shares(few, few).mean() == 1


def test_stored_queries_are_the_rows_of_a_table_beside(tmp_path):
    where = searched(foreign_table(tmp_path, 300, 1))
    assert len(stored_queries(where)) == 0
    lance.write_dataset(rows_of(vectors(30, seed=5)), f"{tmp_path}/t_queries.lance")
    queries = stored_queries(where, 20)
    np.testing.assert_array_equal(queries.vectors, vectors(30, seed=5)[10:])
    assert (queries.addresses == NOBODY).all()
    other = pa.table({"embedding": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    lance.write_dataset(other, f"{tmp_path}/t_queries.lance", mode="overwrite")
    assert len(stored_queries(where)) == 0


def test_shares_count_only_what_exists():
    best = np.array([[3.0, 2, -np.inf], [5, 4, 3], [-np.inf] * 3], np.float32)
    found = np.array([[3.0, 1, 1], [5, 4, 3], [1, 1, 1]], np.float32)
    np.testing.assert_allclose(found_shares(found, best), [0.5, 1])
    assert Queries(np.zeros((2, 3)), np.zeros(2)).vectors.shape == (2, 3)
