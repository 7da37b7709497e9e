"""Tables that vista didn't make: other ids, other vectors, other indexes, and nothing that names the encoder."""

import dataclasses
import re
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.search import EncoderChoice, Query, Searcher
from tests.pipelines.search.tables import vectors_array, write_table
from vista_core import UsageError

ROWS = 500


def rows(dimension: int = 8, **columns: pa.Array) -> pa.Table:
    vectors = np.random.default_rng(0).standard_normal((ROWS, dimension)).astype(np.float32)
    return pa.table({"vector": vectors_array(vectors), **columns})


def opened(folder, **options: object) -> Searcher:
    return Searcher.open(str(folder), "t", **{"encoder": None} | options)


def nearest(table: pa.Table, to: int, count: int, metric: str = "cosine") -> list[int]:
    vectors = np.array(table["vector"].to_pylist())
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.linalg.norm(vectors - vectors[to], axis=1)
    return [int(row) for row in np.argsort(distances) if row != to][:count]


def test_the_latest_version_is_searched_if_nobody_published_one(tmp_path):
    write_table(f"{tmp_path}/t.lance", rows(sku=pa.array(range(ROWS))), None)
    write_table(f"{tmp_path}/t.lance", rows(sku=pa.array(range(1000, 1000 + ROWS))), None)
    searcher = opened(tmp_path)
    assert searcher.version == 2
    write_table(f"{tmp_path}/t.lance", rows(sku=pa.array(range(ROWS))), None)
    assert searcher.refreshed().version == 3


def test_ids_may_be_numbers_of_a_column_with_a_usual_name(tmp_path):
    table = rows(sku=pa.array(range(1000, 1000 + ROWS)), name=pa.array(["x"] * ROWS))
    write_table(f"{tmp_path}/t.lance", table)
    searcher = opened(tmp_path)
    expected = [1000 + row for row in nearest(table, 7, 5)]
    for key in (1007, "1007"):
        found = searcher.like(key, k=5)
        assert found["id"].to_pylist() == expected
    assert found.schema == searcher.schema
    assert found.schema.names == ["id", "score", "sku", "name"]
    for key in ("7' OR true --", 7):
        with pytest.raises(UsageError, match=re.escape(f"t has no row with the id {key!r}")):
            searcher.like(key)


def test_rows_without_an_id_are_named_by_their_address(tmp_path):
    table = rows(id=pa.array([[1]] * ROWS), score=pa.array(range(ROWS)), score_in_table=pa.array(range(ROWS)))
    write_table(f"{tmp_path}/t.lance", table)
    searcher = opened(tmp_path)
    found = searcher.like("7", k=5)
    assert found["id"].to_pylist() == [str(row) for row in nearest(table, 7, 5)]
    names = ["id", "score", "id_in_table", "score_in_table_in_table", "score_in_table"]
    assert found.schema.names == searcher.schema.names == names


def test_the_vector_column_is_chosen_or_named(tmp_path):
    table = rows(id=pa.array([f"r{i}" for i in range(ROWS)])).rename_columns(["embedding", "id"])
    write_table(f"{tmp_path}/t.lance", table)
    assert opened(tmp_path).table.vector == "embedding"
    both = table.append_column("other", table["embedding"].take(list(range(ROWS))[::-1]))
    write_table(f"{tmp_path}/t.lance", both)
    with pytest.raises(UsageError, match=r"which vector column.*--column. Vector columns: embedding, other"):
        opened(tmp_path)
    one, other = (opened(tmp_path, column=name).like("r7", k=5) for name in ("embedding", "other"))
    assert one["id"].to_pylist() != other["id"].to_pylist()
    assert one.schema.names == ["id", "score"]
    with pytest.raises(UsageError, match=r"--column id: no such vector column. Vector columns: embedding, other"):
        opened(tmp_path, column="id")
    write_table(f"{tmp_path}/t.lance", table.drop_columns(["embedding"]))
    with pytest.raises(UsageError, match="Vector columns: none"):
        opened(tmp_path)


def test_rows_whose_vector_cannot_be_compared_are_not_found(tmp_path):
    table = rows(id=pa.array([f"r{i}" for i in range(ROWS)]))
    vectors = table["vector"].to_pylist()
    vectors[1], vectors[2], vectors[3] = None, [float("nan")] * 8, [0.0] * 8
    table = table.set_column(0, "vector", pa.array(vectors, table["vector"].type))
    write_table(f"{tmp_path}/t.lance", table)
    searcher = opened(tmp_path)
    found = searcher.like("r0", k=ROWS)
    assert set(found["id"].to_pylist()) == {f"r{i}" for i in range(4, ROWS)}
    with pytest.raises(UsageError, match="that row has no vector"):
        searcher.like("r1")


def test_an_index_that_nobody_measured_is_searched_by_its_own_distance(tmp_path):
    table = rows(id=pa.array(range(ROWS)))
    write_table(f"{tmp_path}/t.lance", table).create_index("vector", "IVF_FLAT", num_partitions=4, metric="L2")
    searcher = opened(tmp_path, version=2)
    assert "nobody measured the index 'vector_idx' of t" in searcher.advice
    for exact in (False, True):
        found = searcher.like(7, k=20, exact=exact)
        assert found["id"].to_pylist() == nearest(table, 7, 20, "l2")
    scores = found["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)


def test_the_model_has_to_be_named_and_to_fit(tmp_path, encoder):
    write_table(f"{tmp_path}/t.lance", rows(8))
    with pytest.raises(UsageError, match=r"column `vector` does not name the encoder of its vectors.*: --model"):
        opened(tmp_path, encoder=EncoderChoice())
    with pytest.raises(UsageError, match=r"dimension 8, but those of --model vista-tiny have 128"):
        opened(tmp_path, encoder=EncoderChoice(model="vista-tiny"))
    write_table(f"{tmp_path}/t.lance", rows(encoder.dimension))
    searcher = opened(tmp_path, encoder=EncoderChoice(model="vista-tiny", device="cpu"))
    assert searcher.model == "vista-tiny"
    assert len(searcher.search("a lamp", k=3)) == 3
    write_table(f"{tmp_path}/t.lance", rows(8))
    with pytest.raises(UsageError, match="dimension 8"):
        searcher.refreshed()


def test_an_empty_table_has_no_results(tmp_path, encoder):
    write_table(f"{tmp_path}/t.lance", rows(encoder.dimension, id=pa.array(range(ROWS)))[:0])
    searcher = dataclasses.replace(opened(tmp_path), encoder=encoder)
    found = searcher.search("a lamp")
    assert (len(found), found.schema) == (0, searcher.schema)


@pytest.mark.parametrize("name", ["_distance", "_score"])
def test_a_column_that_lance_gives_results_is_refused(tmp_path, name):
    write_table(f"{tmp_path}/t.lance", rows(**{name: pa.array(range(ROWS))}))
    with pytest.raises(UsageError, match=f"has a column `{name}`"):
        opened(tmp_path)


def test_a_version_whose_files_were_removed_is_named(tmp_path):
    write_table(f"{tmp_path}/t.lance", rows(id=pa.array(range(ROWS))), None)
    searcher = opened(tmp_path)
    write_table(f"{tmp_path}/t.lance", rows(id=pa.array(range(ROWS))), None)
    lance.dataset(f"{tmp_path}/t.lance").cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    for where in (None, "id > 0"):
        with pytest.raises(UsageError, match="t: files of version 1 were removed"):
            searcher.like(7, where=where)
    assert len(searcher.refreshed().like(7)) == 10


def test_rows_of_another_client_have_nulls_where_vista_has_values(tmp_path, write):
    write(tmp_path)
    dataset = lance.dataset(f"{tmp_path}/shapes.lance")
    vector = dataset.to_table(["vector"], limit=1)["vector"]
    row = pa.table({"id": ["foreign"], "vector": vector.combine_chunks()})
    lance.write_dataset(
        row.cast(pa.schema([("id", pa.string()), dataset.schema.field("vector")])), dataset, mode="append"
    )
    version = dataset.latest_version
    found = Searcher.open(str(tmp_path), "shapes", version=version, encoder=None).like("ring", k=1).to_pylist()
    assert found[0] | {"score": 1} == {
        "id": "foreign",
        "score": 1,
        **dict.fromkeys(["text", "price", "score_in_table", "modality"]),
    }


def test_search_many_of_nothing_like_a_row_that_is_gone(tmp_path):
    write_table(f"{tmp_path}/t.lance", rows(id=pa.array(range(ROWS))))
    found, missing = opened(tmp_path).answers([Query(like=1, k=2), Query(like=ROWS)])
    assert len(found) == 2 and isinstance(missing, UsageError)
