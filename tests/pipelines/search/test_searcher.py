"""A searcher: one version of a table, searched by vector, by words and by both."""

import dataclasses
import re
import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.search import EncoderChoice, Query, Searcher
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.search_setting import SearchSetting
from pipelines.tables.vector_column import VectorColumn
from tests.pipelines.search.tables import TEXTS, of_vista, vectors_array, write_table
from vista_core import Record, UsageError

CPU = EncoderChoice(device="cpu")


@pytest.fixture(scope="module")
def searcher(db) -> Searcher:
    return Searcher.open(db, "shapes", encoder=CPU)


def ids(table: pa.Table) -> list:
    return table["id"].to_pylist()


def test_results_are_best_first_and_have_the_columns_that_mean_something_to_people(searcher):
    found = searcher.search(TEXTS["ring"], k=3)
    assert found.schema == searcher.schema
    assert found.schema.names == ["id", "score", "text", "price", "score_in_table", "modality"]
    assert found["score"].type == pa.float64()
    assert found["score_in_table"][0].as_py() == "a column of this name"
    assert ids(found)[0] == "ring"
    scores = found["score"].to_pylist()
    assert scores == sorted(scores, reverse=True) and len(scores) == 3


def test_text_and_image_make_one_query(db, searcher, encoder, picture, tmp_path):
    [query] = encoder.encode([Record(TEXTS["disc"], picture)])
    dataset = lance.dataset(f"{db}/shapes.lance", version=PUBLISHED).to_table(columns=["id", "vector"])
    vectors = np.array(dataset["vector"].to_pylist(), np.float32)
    expected = dict(zip(ids(dataset), vectors @ query / np.linalg.norm(vectors, axis=1), strict=True))
    (tmp_path / "query.png").write_bytes(picture)
    for image in (picture, str(tmp_path / "query.png"), tmp_path / "query.png"):
        for row in searcher.search(TEXTS["disc"], image).to_pylist():
            assert row["score"] == pytest.approx(float(expected[row["id"]]), abs=1e-3)


def test_a_filter_is_applied_before_the_search(searcher):
    assert ids(searcher.search(TEXTS["ring"], where="price > 1 AND modality = 'text'", k=3)) == ["disc"]
    assert ids(searcher.search("background", where="price > 1", mode="text", k=3)) == ["disc"]
    assert set(ids(searcher.search("background", where="price > 1", mode="hybrid", k=3))) == {"disc", "picture"}
    for mode in ("vector", "text", "hybrid"):
        assert len(searcher.search("background", where="price > 100", mode=mode)) == 0


def test_words_find_the_texts_that_have_them(searcher):
    assert ids(searcher.search("GREEN", mode="text")) == ["disc"]
    assert ids(searcher.search("no such words", mode="text")) == []
    assert searcher.search("no such words", mode="text").schema == searcher.schema


def test_words_need_a_full_text_index(searcher, db):
    without = Searcher.open(db, "shapes", version=1, encoder=CPU)
    for mode in ("text", "hybrid"):
        with pytest.raises(UsageError, match="no full-text index, so it can't be searched for words: `vista index`"):
            without.search("green", mode=mode)


def test_results_can_be_paged(searcher):
    for mode in ("vector", "text", "hybrid"):
        together = ids(searcher.search("background", mode=mode))
        apart = [
            key for offset in range(4) for key in ids(searcher.search("background", k=1, offset=offset, mode=mode))
        ]
        assert apart == together and len(together) >= 3
        assert len(searcher.search("background", offset=9_000, mode=mode)) == 0


@pytest.mark.parametrize(
    "where",
    [
        *("no_such_column = 1", "price >", "price", "price = 1; DROP TABLE shapes", "1 = 1) UNION SELECT (1"),
        *("true) OR (true", "price > (SELECT max(price) FROM t)", "read_text('/etc/passwd') = ''", "price = 1 LIMIT 1"),
        *(
            "price / 0 = 1",
            "regexp_like(id, '(')",
            "CAST(id AS int) > 1",
            "count(price) > 0",
            "_distance < 1",
            "'",
            ")",
        ),
        *("price = 1 -- ) \n)", "((price = 1)", "\0", "price = 1 /*", "f(" * 200 + ")" * 200),
    ],
)
@pytest.mark.parametrize("mode", ["vector", "text"])
def test_only_a_filter_is_taken_as_one(searcher, where, mode):
    with pytest.raises(UsageError, match=re.escape(f"--where {where!r}")) as raised:
        searcher.search("ring", where=where, mode=mode)
    assert ".rs:" not in str(raised.value)


@pytest.mark.parametrize("where", ["price = 0 -- (", "id = 'ring' OR id = 'a)b'", "`price` = 0 /* ) */", "  "])
def test_a_filter_may_have_comments_and_parentheses_in_strings(searcher, where):
    assert ids(searcher.search(TEXTS["ring"], where=where, k=1)) == ["ring"]


def test_several_queries_are_answered_in_order(searcher, picture):
    queries = [
        Query(TEXTS["star"], k=1),
        Query(image=picture, k=1),
        Query("green", mode="text"),
        Query(like="ring", k=2),
    ]
    first, second, third, fourth = searcher.search_many(queries)
    assert (ids(first), ids(second), ids(third)) == (["star"], ["picture"], ["disc"])
    assert ids(fourth) == ids(searcher.like("ring", k=2))
    assert searcher.search_many([]) == []


def test_a_query_that_cannot_be_answered_costs_no_other_one_its_results(searcher):
    bad = [Query(image=b"no image"), Query("x", where="price >"), Query(like="nobody"), Query("")]
    good = Query(TEXTS["star"], k=1)
    *errors, last = searcher.answers([*bad, good])
    messages = ["--image: ", "--where 'price >'", "no row with the id 'nobody'", "--text: neither text nor image"]
    for error, message in zip(errors, messages, strict=True):
        assert isinstance(error, UsageError) and message in str(error)
    assert ids(last) == ["star"]
    with pytest.raises(UsageError, match="--image: "):
        searcher.search_many([good, *bad])


def test_rows_like_another_one_are_found_by_its_vector(db, searcher):
    rows = lance.dataset(f"{db}/shapes.lance", version=PUBLISHED).to_table(columns=["id", "vector"])
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    cosines = dict(zip(ids(rows), vectors @ vectors[ids(rows).index("ring")], strict=True))
    del cosines["ring"]
    assert ids(searcher.like("ring")) == sorted(cosines, key=lambda key: -cosines[key])
    assert len(searcher.like("ring", k=2)) == 2
    assert ids(searcher.like("ring", k=1, offset=1)) == ids(searcher.like("ring"))[1:2]


def test_an_image_with_a_change_is_one_query(searcher, picture):
    expected = searcher.search("but green", picture, where="id != 'picture'")
    assert searcher.like("picture", "but green").equals(expected)
    with pytest.raises(UsageError, match="the row 'ring' has no image to change"):
        searcher.like("ring", "but green")


def test_like_works_without_an_encoder_and_vectors_do_not(db):
    searcher = Searcher.open(db, "shapes", encoder=None)
    assert len(searcher.like("ring")) == 3
    assert ids(searcher.search("green", mode="text")) == ["disc"]
    for query in (Query("green"), Query("green", mode="hybrid"), Query("green", like="picture")):
        with pytest.raises(UsageError, match="opened without an encoder"):
            searcher.search_many([query])


def test_images_are_found_by_id(searcher, picture):
    assert searcher.image_bytes(["picture", "ring", "nobody"]) == {"picture": picture}


def test_a_hybrid_search_ranks_as_lancedb_does(searcher):
    from lancedb.rerankers import RRFReranker

    version = searcher.table.dataset
    [vector] = searcher.vectors([Query("a red ring")])
    nearest = version.to_table(
        ["id"],
        nearest={"column": "vector", "q": vector, "k": 200, "metric": "cosine", "use_index": False},
        with_row_id=True,
    )
    words = version.to_table(
        ["id", "_score"], full_text_query={"query": "a red ring", "columns": ["text"]}, limit=200, with_row_id=True
    ).sort_by([("_score", "descending"), ("_rowid", "ascending")])
    expected = RRFReranker().rerank_hybrid("a red ring", nearest, words)
    found = searcher.search("a red ring", mode="hybrid")
    assert set(ids(found)) == set(ids(expected))
    scores = dict(zip(ids(expected), expected["_relevance_score"].to_pylist(), strict=True))
    assert found["score"].to_pylist() == pytest.approx([scores[key] for key in ids(found)])
    assert found["score"].to_pylist() == pytest.approx(expected["_relevance_score"].to_pylist())


def test_a_version_or_a_tag_can_be_searched(db):
    assert Searcher.open(db, "shapes", encoder=None).version == 2
    for version in (3, "3"):
        latest = Searcher.open(db, "shapes", version=version, encoder=None)
        assert latest.version == 3 and len(latest.like("ring")) == 4
    assert Searcher.open(db, "shapes", version=PUBLISHED, encoder=None).version == 2
    for version in (0, 4, 99, -1):
        with pytest.raises(UsageError, match=f"version {version} does not exist, or was removed. .*: 1-3"):
            Searcher.open(db, "shapes", version=version, encoder=None)
    with pytest.raises(UsageError, match=r"--version nightly: .* has no such tag. Tags: published"):
        Searcher.open(db, "shapes", version="nightly", encoder=None)


def test_a_searcher_keeps_to_its_version_until_it_is_refreshed(tmp_path, write, shapes):
    write(tmp_path)
    searcher = Searcher.open(str(tmp_path), "shapes", encoder=CPU)
    assert searcher.refreshed() is searcher
    write_table(f"{tmp_path}/shapes.lance", shapes(["star", "unpublished"]))
    assert set(ids(searcher.search("x"))) == {"ring", "star", "disc", "picture"}
    after = searcher.refreshed()
    assert after.table.dataset.session().is_same_as(searcher.table.dataset.session()), "they share their caches"
    assert (searcher.version, after.version) == (2, 4)
    assert set(ids(after.search("x"))) == {"star", "unpublished"}
    assert after.encoder is searcher.encoder
    pinned = Searcher.open(str(tmp_path), "shapes", version=1, encoder=None)
    assert pinned.refreshed() is pinned


def test_a_version_that_another_encoder_filled_is_not_searched_with_this_one(tmp_path, write, shapes, encoder):
    write(tmp_path)
    searcher = Searcher.open(str(tmp_path), "shapes", encoder=CPU)
    before = searcher.search(TEXTS["ring"])
    other = VectorColumn("vector", dataclasses.replace(encoder.identity, weights="0" * 64))
    rows = shapes(["ring", "star"])
    write_table(f"{tmp_path}/shapes.lance", rows.set_column(0, other.field, rows["vector"]))
    assert searcher.search(TEXTS["ring"]).equals(before)
    with pytest.raises(UsageError, match="embedded with another encoder"):
        searcher.refreshed()
    with pytest.raises(UsageError, match=r"shapes was embedded with another encoder: weights: .*--weights"):
        Searcher.open(str(tmp_path), "shapes", encoder=CPU)


def test_a_model_that_did_not_fill_the_column_is_refused_with_both_named(db):
    with pytest.raises(UsageError, match=r"another encoder: --model bge-visualized-m3, but vista-tiny in the table"):
        Searcher.open(db, "shapes", encoder=EncoderChoice(model="bge-visualized-m3"))


def test_a_column_of_lower_precision_is_searched_in_float32(tmp_path, write, encoder):
    column = VectorColumn("vector", dataclasses.replace(encoder.identity, dtype="bfloat16"))
    write(tmp_path, lambda table: table.set_column(0, column.field, table["vector"]))
    assert ids(Searcher.open(str(tmp_path), "shapes", encoder=CPU).search(TEXTS["ring"]))[0] == "ring"


def test_a_table_that_is_not_there_or_was_never_published_is_named(tmp_path, write):
    with pytest.raises(UsageError, match=f"there is no table shapes in {tmp_path}"):
        Searcher.open(str(tmp_path), "shapes")
    write(tmp_path, publish=False)
    with pytest.raises(UsageError, match=r"never published: .* shapes_runs says why"):
        Searcher.open(str(tmp_path), "shapes")


def test_a_searcher_serves_several_threads(searcher):
    found = [None] * 8

    def search(place: int) -> None:
        found[place] = ids(searcher.search(TEXTS["ring"], mode=("vector", "hybrid")[place % 2], k=1))

    threads = [threading.Thread(target=search, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["ring"]] * 8


def random_rows(encoder, rows: int, seed: int = 0) -> pa.Table:
    vectors = np.random.default_rng(seed).standard_normal((rows, encoder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = {"vector": vectors_array(vectors.astype(np.float16)), "id": pa.array([f"r{i}" for i in range(rows)])}
    columns |= {
        "group": pa.array([i % 100 for i in range(rows)]),
        "text": pa.array([f"number {i}" for i in range(rows)]),
    }
    return of_vista(columns, encoder)


def test_an_index_is_searched_with_its_stored_setting_and_exactly_on_request(tmp_path, encoder):
    uri = f"{tmp_path}/t.lance"
    dataset = write_table(uri, random_rows(encoder, 2_000), None)
    dataset.create_index("vector", "IVF_FLAT", name="vector_1", num_partitions=32, metric="cosine")
    open_latest = lambda: Searcher.open(str(tmp_path), "t", version=lance.dataset(uri).version, encoder=CPU)  # noqa: E731
    exact = ids(open_latest().search("number 7", k=50))
    assert exact == ids(open_latest().search("number 7", k=50, exact=True)), "no setting: exact"
    SearchSetting("vector_1", 1, 0, 0.95, 0.96).store(lance.dataset(uri))
    approximate = open_latest()
    assert approximate.advice is None
    found = ids(approximate.search("number 7", k=50))
    assert len(found) == 50 and found != exact, "one partition of 32 has not all the nearest rows"
    assert ids(approximate.search("number 7", k=50, exact=True)) == exact
    SearchSetting("vector_1", 32, 4, 0.95, 1.0).store(lance.dataset(uri))
    assert ids(open_latest().search("number 7", k=50)) == exact
    filtered = approximate.search("number 7", k=20, where="`group` = 3")
    assert len(filtered) == 20, "partitions are looked at until enough rows pass the filter"
