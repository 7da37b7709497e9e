"""Several vector columns: the default one, which may become another, and those that are not filled yet."""

import dataclasses

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.search import EncoderChoice, Query, Searcher
from pipelines.search.config import SearchConfig
from pipelines.search.run import search
from pipelines.tables.dataset import PUBLISHED
from pipelines.tables.default_column import set_default_column
from pipelines.tables.vector_column import EncoderFiles, VectorColumn, completed
from tests.pipelines.search.tables import TEXTS, retrained, with_column, write_table
from vista_core import Encoder, EncoderSettings, Record, UsageError

CPU = EncoderChoice(device="cpu")
IDS = ["ring", "star", "disc"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(retrained(tmp_path_factory.mktemp("weights") / "other.safetensors"))


@pytest.fixture(scope="module")
def second(weights) -> Encoder:
    return Encoder.load(EncoderSettings(device="cpu", weights=weights))


@pytest.fixture(scope="module")
def column(second, weights) -> VectorColumn:
    return VectorColumn("vector_b", second.identity, files=EncoderFiles(weights))


@pytest.fixture
def two(tmp_path, shapes, second, column) -> lance.LanceDataset:
    """A published table with a second column, by other weights."""
    vectors = second.encode([Record(TEXTS[key]) for key in IDS])
    return write_table(f"{tmp_path}/shapes.lance", with_column(shapes(IDS), column, vectors))


def publish(table: lance.LanceDataset) -> lance.LanceDataset:
    table.tags.update(PUBLISHED, table.version)
    return table


def opened(table: lance.LanceDataset, **options) -> Searcher:
    return Searcher.open(table.uri.rpartition("/")[0], "shapes", **{"encoder": CPU} | options)


def best(searcher: Searcher) -> list[str]:
    return [searcher.search(TEXTS[key], k=1)["id"].to_pylist()[0] for key in IDS]


def test_a_second_column_finds_the_files_of_its_encoder(two, encoder, second):
    first, other = opened(two), opened(two, column="vector_b")
    assert (first.table.vector, other.table.vector) == ("vector", "vector_b")
    assert first.encoder.identity.weights == encoder.identity.weights != second.identity.weights
    assert other.encoder.identity.weights == second.identity.weights
    assert best(first) == best(other) == IDS
    assert (first.model, other.model) == ("vista-tiny", "vista-tiny")


def test_who_named_no_column_follows_to_another_default_column_and_back(two, encoder, second):
    following, staying = opened(two), opened(two, column="vector")
    publish(set_default_column(two, "vector_b"))
    assert best(following) == IDS, "it keeps to its version"
    there, stayed = following.refreshed(), staying.refreshed()
    assert (there.table.vector, there.encoder.identity.weights) == ("vector_b", second.identity.weights)
    assert (stayed.table.vector, stayed.encoder is staying.encoder) == ("vector", True)
    assert there.version == stayed.version
    assert best(there) == best(stayed) == IDS
    assert opened(two).table.vector == "vector_b"
    assert opened(two, version=two.version).table.vector == "vector", "a version pins its default"
    two.tags.update(PUBLISHED, two.version)  # a rollback
    back = there.refreshed()
    assert (back.table.vector, back.encoder.identity.weights) == ("vector", encoder.identity.weights)
    assert best(back) == IDS


def test_what_the_user_said_of_the_encoder_is_said_of_the_column_that_was_searched_first(two, encoder, second):
    built_in = EncoderChoice(model="vista-tiny", device="cpu", from_pretrained=None)
    following = opened(two, encoder=built_in)
    publish(set_default_column(two, "vector_b"))
    there = following.refreshed()
    assert (there.encoder.identity.weights, there.model) == (second.identity.weights, "vista-tiny")


def test_without_a_model_it_follows_as_well(two):
    following = opened(two, encoder=None)
    publish(set_default_column(two, "vector_b"))
    there = following.refreshed()
    assert (there.table.vector, there.encoder) == ("vector_b", None)
    assert there.like("ring", k=5)["id"].to_pylist() != following.like("ring", k=1)["id"].to_pylist()


@pytest.fixture
def filling(tmp_path, shapes, second, column) -> lance.LanceDataset:
    """A published table whose second column has only some of its vectors yet."""
    first, *_ = second.encode([Record(TEXTS[key]) for key in IDS])
    rows = with_column(shapes(IDS), dataclasses.replace(column, filling=True), [first, None, None])
    dataset = write_table(f"{tmp_path}/shapes.lance", rows, None)
    dataset.create_scalar_index("text", "INVERTED", with_position=False)
    dataset = lance.dataset(dataset.uri)
    dataset.tags.create(PUBLISHED, dataset.version)
    return dataset


def test_an_incomplete_column_is_searched_only_on_request(filling):
    with pytest.raises(UsageError, match=r"column `vector_b` is incomplete.*`vista backfill`.*--allow-incomplete"):
        opened(filling, column="vector_b")
    assert opened(filling).table.vector == "vector"
    searcher = opened(filling, column="vector_b", allow_incomplete=True)
    for exact in (False, True):
        assert searcher.search("a star", k=10, exact=exact)["id"].to_pylist() == ["ring"]
    assert searcher.search("star", k=10, mode="text")["id"].to_pylist() == ["star"]
    hybrid = searcher.search("star", k=10, mode="hybrid")
    assert sorted(hybrid["id"].to_pylist()) == ["ring", "star"], "one by its vector, the other by its words"
    with pytest.raises(UsageError, match="has no vector"):
        searcher.like("star")
    publish(completed(filling, "vector_b"))
    assert searcher.refreshed().version == filling.version + 1
    assert opened(filling, column="vector_b").table.vector == "vector_b"


def test_a_searcher_of_a_column_that_becomes_incomplete_says_so(two, column):
    searcher = opened(two, column="vector_b")
    two.update_field_metadata(dataclasses.replace(column, filling=True).field_update)
    publish(lance.dataset(two.uri))
    with pytest.raises(UsageError, match="incomplete"):
        searcher.refreshed()


def test_the_command_has_the_option(filling):
    options = {"text": "a ring", "column": "vector_b", "device": "cpu", "json": True}
    db = filling.uri.rpartition("/")[0]
    with pytest.raises(UsageError, match="incomplete"):
        search(SearchConfig(db, "shapes", **options))
    found = search(SearchConfig(db, "shapes", **options, allow_incomplete=True))
    assert found.found["id"].to_pylist() == ["ring"]


def test_the_only_column_of_a_foreign_table_is_refused_while_it_is_filled(tmp_path, second, column):
    vectors = [second.encode([Record("x")])[0], None]
    rows = with_column(pa.table({"id": ["a", "b"]}), dataclasses.replace(column, filling=True), vectors)
    write_table(f"{tmp_path}/t.lance", rows, None)
    with pytest.raises(UsageError, match="column `vector_b` is incomplete"):
        Searcher.open(str(tmp_path), "t", encoder=CPU)
    found = Searcher.open(str(tmp_path), "t", encoder=CPU, allow_incomplete=True).search("x", k=5)
    assert found["id"].to_pylist() == ["a"]


@pytest.mark.parametrize("kind", [None, "IVF_FLAT", "IVF_RQ", "IVF_HNSW_SQ"])
def test_rows_without_a_vector_take_no_place_among_the_results(tmp_path, kind):
    """Also where most rows have none, in an index or beside it."""
    vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    known = np.arange(600) % 3 == 0
    column = pa.array(
        [each if has else None for each, has in zip(vectors, known, strict=True)], pa.list_(pa.float32(), 8)
    )
    rows = pa.table({"id": pa.array(range(600)), "vector": column, "text": ["a lamp"] * 600})
    dataset = write_table(f"{tmp_path}/t.lance", rows, None)
    if kind is not None:
        dataset.create_index("vector", kind, num_partitions=2, metric="cosine")
    lance.dataset(dataset.uri).create_scalar_index("text", "INVERTED", with_position=False)
    lance.write_dataset(rows.set_column(0, "id", pa.array(range(600, 1200))), dataset.uri, mode="append")
    searcher = Searcher.open(str(tmp_path), "t", encoder=None)
    allowed = {each for each in range(1200) if each % 3 == 0}
    for exact in (False, True):
        for where in (None, "id > 100"):
            found = searcher.like(0, k=50, exact=exact, where=where)["id"].to_pylist()
            assert len(found) == 50 and set(found) <= allowed
        assert set(searcher.like(0, k=1200, exact=True)["id"].to_pylist()) == allowed - {0}
    [ranked] = searcher.search_many([Query("lamp", mode="text", k=5)])
    assert len(ranked) == 5
