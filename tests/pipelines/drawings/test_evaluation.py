"""The tasks of drawn scenes."""

import pyarrow.parquet as pq
import pytest

import pipelines.drawings
from pipelines.drawings.scenes import Scene, differences
from pipelines.evaluate.task import Task
from tests.pipelines.drawings.said import said, said_by_caption


def scene_of(name: str) -> Scene:
    """The scene of an id of the corpus."""
    number, size, pattern, colour, shape, place, _, background = name.split("-")
    return Scene(shape, colour, background, pattern, size, number, place)


def rows(folder, part):
    """The rows of a part of a task."""
    return pq.read_table(folder / f"{part}.parquet").to_pylist()


@pytest.fixture(scope="module", params=["cir", "t2i"])
def task(request, evaluation):
    return evaluation / request.param


def wanted(query: dict) -> dict[str, str]:
    """What a picture has to show to be relevant, by the words of the query and the name of its picture."""
    if query["image"] is None:
        return said_by_caption(query["text"])
    scene = scene_of(query["image"]["path"].removesuffix(".png"))
    return vars(scene) | said(query["text"])


def test_every_picture_that_fits_a_query_is_relevant_and_no_other(task):
    corpus = {row["id"]: vars(scene_of(row["id"])) for row in rows(task, "corpus")}
    judged = {(row["query-id"], row["corpus-id"]): row["score"] for row in rows(task, "qrels")}
    conditions = {query["id"]: wanted(query).items() for query in rows(task, "queries")}
    fitting = {
        (query, name)
        for query, condition in conditions.items()
        for name, shown in corpus.items()
        if condition <= shown.items()
    }
    assert set(judged) == fitting
    assert set(judged.values()) == {1}
    assert {query for query, _ in judged} == {query["id"] for query in rows(task, "queries")}


def test_queries_and_what_is_relevant_have_combinations_that_are_held_out(task):
    assert all(scene_of(row["corpus-id"]).held_out for row in rows(task, "qrels"))
    for query in rows(task, "queries"):
        shown = wanted(query)
        assert Scene(shown["shape"], shown["colour"], "none", shown["pattern"]).held_out
        if query["image"] is not None:
            assert scene_of(query["image"]["path"].removesuffix(".png")).held_out


def test_the_corpus_has_pictures_of_both_kinds(task):
    corpus = rows(task, "corpus")
    assert 1_800 < len(corpus) < 2_200
    assert len({row["image"]["bytes"] for row in corpus}) == len({row["id"] for row in corpus}) == len(corpus)
    assert 0.3 < sum(scene_of(row["id"]).held_out for row in corpus) / len(corpus) < 0.7
    assert {row["text"] for row in corpus} == {None}


def test_queries_are_different_and_about_all_attributes(task):
    queries = rows(task, "queries")
    assert 500 <= len(queries) <= 1_000
    assert len({(query["text"], (query["image"] or {}).get("path")) for query in queries}) == len(queries)
    kinds = {row["id"]: row["kind"] for row in rows(task, "queries_meta")}
    assert set(kinds) == {query["id"] for query in queries}
    for query in queries:
        count = len(said_by_caption(query["text"])) if query["image"] is None else len(said(query["text"]))
        named = f"{count} attributes" if query["image"] is None else "two attributes" if count == 2 else None
        assert kinds[query["id"]] == (named or next(iter(said(query["text"]))))


def test_the_picture_of_a_query_is_in_the_corpus_among_others_like_it(evaluation):
    corpus = {row["id"]: row["image"]["bytes"] for row in rows(evaluation / "cir", "corpus")}
    scenes = [scene_of(name) for name in corpus]
    pictures = {}
    for query in rows(evaluation / "cir", "queries"):
        name = query["image"]["path"].removesuffix(".png")
        assert corpus[name] == query["image"]["bytes"]
        pictures[name] = scene_of(name)
    assert len(pictures) == 80
    for scene in pictures.values():
        assert sum(len(differences(scene, each)) == 1 for each in scenes) >= 15


def test_evaluate_understands_the_task(task):
    judgements = Task.open(str(task)).judgements()
    assert len(judgements.grades) == len(rows(task, "queries"))


def test_chance_is_what_the_documentation_says(evaluation):
    shares = {}
    for name in ("cir", "t2i"):
        pairs = len(rows(evaluation / name, "queries")) * len(rows(evaluation / name, "corpus"))
        shares[name] = f"{100 * len(rows(evaluation / name, 'qrels')) / pairs:.2f} % for `{name}`"
    assert f"relevant is {shares['cir']} and {shares['t2i']}" in pipelines.drawings.__doc__
