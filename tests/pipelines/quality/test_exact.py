"""Exact search finds what a plain product finds, however the table is cut; equal scores are in trec_eval's order."""

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cluster.calls import in_this_process
from pipelines.quality.exact import Vectors, search_exactly, vectors_by_id
from pipelines.tables.dataset import TableVersion


def table_of(folder, vectors, rows_per_fragment=64, null=()):
    mask = pa.array([number in null for number in range(len(vectors))])
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.asarray(vectors, np.float16).reshape(-1)), vectors.shape[1], mask=mask
    )
    names = pa.array([f"d{number}" for number in range(len(vectors))])
    uri = str(folder / "t.lance")
    lance.write_dataset(pa.table({"id": names, "vector": column}), uri, max_rows_per_file=rows_per_fragment)
    return uri


def vectors_of(uri):
    return Vectors(TableVersion(uri, lance.dataset(uri).version), "vector", "id")


def expected(stored, queries, depth, missing=()):
    """By a product in float64 of the stored values, rounded to float32; of equal scores the larger id first."""
    stored = np.asarray(stored, np.float16).astype(np.float64)
    length = np.linalg.norm(stored, axis=1, keepdims=True)
    stored = stored / np.where(length == 0, 1, length)
    asked = queries.astype(np.float64)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    scores = (asked @ stored.T).astype(np.float32)
    left = [number for number in range(len(stored)) if number not in missing]
    return [
        sorted((f"d{at}" for at in left), key=lambda key: (row[int(key[1:])], key), reverse=True)[:depth]
        for row in scores
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 40), st.sampled_from([7, 64, 1000]))
def test_what_is_found_is_what_a_plain_product_finds(tmp_path_factory, seed, rows, depth, fragment):
    random = np.random.default_rng(seed)
    stored = random.standard_normal((rows, 16))
    stored[:: max(1, rows // 5)] = stored[0]  # equal vectors
    queries = random.standard_normal((9, 16)).astype(np.float32)
    uri = table_of(tmp_path_factory.mktemp("exact"), stored, fragment)
    found = search_exactly(vectors_of(uri), queries, depth, in_this_process)
    assert found.ids == expected(stored, queries, depth)


def test_rows_that_were_deleted_or_have_no_vector_are_not_found(tmp_path):
    random = np.random.default_rng(0)
    stored, queries = random.standard_normal((200, 8)), random.standard_normal((5, 8)).astype(np.float32)
    null = {3, 4, 100}
    uri = table_of(tmp_path, stored, null=null)
    lance.dataset(uri).delete("id IN ('d7', 'd64', 'd199')")
    found = search_exactly(vectors_of(uri), queries, 50, in_this_process)
    assert found.ids == expected(stored, queries, 50, missing=null | {7, 64, 199})
    assert all(np.all(np.diff(scores) <= 0) for scores in found.scores)


def test_an_empty_table_finds_nothing(tmp_path):
    uri = table_of(tmp_path, np.zeros((3, 8)))
    lance.dataset(uri).delete("true")
    assert search_exactly(vectors_of(uri), np.ones((2, 8), np.float32), 5, in_this_process).ids == [[], []]


def test_vectors_by_id(tmp_path):
    stored = np.random.default_rng(0).standard_normal((150, 8))
    uri = table_of(tmp_path, stored, null={5})
    ids, vectors = vectors_by_id(vectors_of(uri), ["d149", "d5", "d0", "unknown"])
    assert ids == ["d149", "d0"]
    assert vectors == pytest.approx(stored[[149, 0]].astype(np.float16))
