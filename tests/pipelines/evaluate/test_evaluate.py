"""An evaluation gives the scores that follow from the vectors, embeds nothing twice, and refuses a bad task."""

import json
import math
from pathlib import Path

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.evaluate.compare import compare
from pipelines.evaluate.config import CompareConfig, EvaluateConfig
from tests.pipelines.evaluate.tasks import COLOURS, spoiled_weights, write, write_task
from tests.pipelines.evaluate.warm import evaluate
from vista_core import Encoder, EncoderSettings, Record, UsageError

K = (1, 3, 5, 10, 20, 100)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task") / "shapes")


@pytest.fixture(scope="module")
def evaluated(ray_cluster, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    config = EvaluateConfig(
        db=str(folder / "db"), output=str(folder / "out"), task=str(task), by=("kind",), dtype="float32"
    )
    return config, evaluate(config)


def vectors_of(uri):
    rows = lance.dataset(uri).to_table(["id", "vector"])
    return rows["id"].to_pylist(), np.array(rows["vector"].to_pylist(), np.float64)


def by_hand(queries, documents, grades):
    """All scores of rankings by cosine, from the definitions. No ties are expected."""
    names, vectors = queries
    keys, others = documents
    length = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None, :]
    found = {}
    for name, row in zip(names, (vectors @ others.T) / length, strict=True):
        if name not in grades:
            continue
        order, judged = [keys[at] for at in np.argsort(-row)], grades[name]
        relevant = {key for key, grade in judged.items() if grade > 0}
        gains = [judged.get(key, 0) / math.log2(rank + 2) for rank, key in enumerate(order[:10])]
        ideal = [grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(judged.values(), reverse=True)[:10])]
        first = next((rank for rank, key in enumerate(order[:10], start=1) if key in relevant), None)
        found[name] = {"ndcg@10": sum(gains) / sum(ideal), "mrr@10": 1 / first if first else 0.0}
        for k in K:
            hits = len(relevant.intersection(order[:k]))
            found[name] |= {f"recall@{k}": hits / len(relevant), f"hit_rate@{k}": float(hits > 0)}
    return found


def grades_of(task):
    grades = {}
    for row in pq.read_table(task / "qrels.parquet").to_pylist():
        grades.setdefault(row["query-id"], {})[row["corpus-id"]] = row["score"]
    return grades


def test_the_scores_follow_from_the_vectors(evaluated, task):
    config, _ = evaluated
    metrics = json.loads(Path(config.output, "metrics.json").read_text())
    corpus = metrics["corpus"]["table"]
    expected = by_hand(vectors_of(metrics["queries"]["table"]), vectors_of(corpus), grades_of(task))
    assert len(expected) == 11 == metrics["queries"]["evaluated"]
    for name in expected["text-red"]:
        assert metrics[name] == pytest.approx(np.mean([each[name] for each in expected.values()]), abs=1e-6), name
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high
    rows = pq.read_table(f"{config.output}/per_query.parquet").to_pylist()
    for row in rows:
        for name, value in expected[row["query"]].items():
            assert row[name] == pytest.approx(value, abs=1e-6)
    assert metrics["queries"]["excluded"] == {"nothing is judged relevant": 1}
    edits = [query for query in expected if query.startswith("edit")]
    assert metrics["by"]["kind"]["edit"]["queries"] == len(edits) == 5
    assert metrics["by"]["kind"]["edit"]["recall@5"] == pytest.approx(np.mean([expected[q]["recall@5"] for q in edits]))


def test_the_baselines_are_those_of_one_modality(evaluated, task):
    config, _ = evaluated
    metrics = json.loads(Path(config.output, "metrics.json").read_text())
    encoder = Encoder.load(EncoderSettings("vista-tiny", device="cpu", dtype="float32"))
    queries = pq.read_table(task / "queries.parquet").to_pylist()
    names = [query["id"] for query in queries]
    corpus = vectors_of(metrics["corpus"]["table"])
    for baseline, only in (("text alone", "text"), ("image alone", "image")):
        records = []
        for query in queries:
            has_it = query[only] is not None
            records.append(
                Record(
                    query["text"] if only == "text" or not has_it else None, query["image"] if only == "image" else None
                )
            )
        expected = by_hand((names, encoder.encode(records)), corpus, grades_of(task))
        for name in ("recall@3", "hit_rate@1", "ndcg@10"):
            mean = np.mean([each[name] for each in expected.values()])
            assert metrics["beside"][baseline][name] == pytest.approx(mean, abs=0.02), (baseline, name)
    assert metrics["beside"]["chance"]["recall@3"] == pytest.approx(3 / 18)


def test_the_run_file_ranks_as_trec_eval_does(evaluated):
    config, _ = evaluated
    lines = [line.split("\t") for line in Path(config.output, "run.trec").read_text().splitlines()]
    of_query = [line for line in lines if line[0] == "text-red"]
    assert [int(line[3]) for line in of_query] == list(range(1, 19))
    keys = [(np.float32(line[4]), line[2]) for line in of_query]
    assert keys == sorted(keys, reverse=True)


def test_a_second_evaluation_embeds_nothing_again(evaluated, task):
    config, first = evaluated
    again = evaluate(EvaluateConfig(db=config.db, output=f"{config.output}-2", task=str(task), dtype="float32"))
    [before], [after] = first.evaluations, again.evaluations
    assert after.facts["corpus"]["version"] == before.facts["corpus"]["version"]
    assert after.metrics()["recall@5"] == before.metrics()["recall@5"]


def test_the_page_shows_the_worst_queries_with_pictures(evaluated):
    config, found = evaluated
    page = Path(found.report).read_text()
    assert "The worst queries" in page and "should have been found" in page
    assert page.count("data:image/webp;base64,") > 20
    assert "hit_rate@5" in page and "By kind" in page
    assert found.report == f"{config.output}/report.html"


def test_two_models_are_compared_query_by_query(evaluated, task, tmp_path):
    config, _ = evaluated
    other = EvaluateConfig(
        db=config.db,
        output=str(tmp_path / "other"),
        task=str(task),
        dtype="float32",
        weights=spoiled_weights(tmp_path / "spoiled.safetensors"),
    )
    evaluate(other)
    found = compare(CompareConfig(config.output, other.output, json=True))
    change = json.loads(str(found))["differences"]["hit_rate@10"]
    assert change["difference"] == pytest.approx(change["second"] - change["first"])
    assert change["won"] + change["lost"] + change["tied"] == 11
    low, high = change["interval"]
    assert low <= change["difference"] <= high
    text = str(compare(CompareConfig(config.output, other.output)))
    assert "won/lost/tied" in text and "11 queries" in text


def test_what_is_no_output_cannot_be_compared(evaluated, tmp_path):
    config, _ = evaluated
    with pytest.raises(UsageError, match="no output of `vista evaluate`"):
        compare(CompareConfig(config.output, str(tmp_path)))


def changed(task, folder, **parts):
    """A copy of the task, with some of its parts replaced by rows, or left out."""
    folder.mkdir()
    for name in ("corpus", "queries", "qrels"):
        if name not in parts:
            (folder / f"{name}.parquet").write_bytes((task / f"{name}.parquet").read_bytes())
        elif parts[name] is not None:
            write(folder / f"{name}.parquet", parts[name])
    return str(folder)


QREL = {"query-id": "text-red", "corpus-id": "red-circle", "score": 1}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"qrels": None}, "no qrels in it"),
        ({"corpus": None}, "no corpus in it"),
        ({"queries": None}, "no queries in it"),
        ({"qrels": [QREL, QREL | {"query-id": "who"}]}, "1 judged queries are not among the queries: 'who'"),
        (
            {"qrels": [QREL, QREL | {"corpus-id": "pink-circle"}]},
            "1 of 2 judged documents are not.*: 'pink-circle'",
        ),
        ({"qrels": [QREL | {"score": 0}]}, "no query is left to evaluate"),
        ({"qrels": [QREL, QREL | {"score": 2}]}, "are judged 1 and 2"),
        ({"queries": [{"id": "text-red", "text": "a"}, {"id": "text-red", "text": "b"}]}, "1 ids are there twice"),
        ({"corpus": [{"id": "red-circle", "text": "a"}] * 2, "qrels": [QREL]}, "1 ids are there twice"),
        ({"queries": [{"name": "a red thing"}]}, "no column with ids"),
    ],
)
def test_a_bad_task_is_an_error(ray_cluster, task, tmp_path, parts, message):
    bad = changed(task, tmp_path / "bad", **parts)
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluateConfig(db=str(tmp_path / "db"), output=str(tmp_path / "out"), task=bad))


def test_what_cannot_be_read_is_counted_and_is_no_wrong_number(ray_cluster, task, tmp_path):
    documents = pq.read_table(task / "corpus.parquet").to_pylist()
    documents[0]["image"] = documents[0]["image"][:100]  # red-circle
    queries = pq.read_table(task / "queries.parquet").to_pylist()
    queries += [{"id": "empty", "text": "", "image": None}, {"id": "broken", "text": "x", "image": b"no image"}]
    qrels = pq.read_table(task / "qrels.parquet").to_pylist()
    qrels += [QREL | {"query-id": name} for name in ("empty", "broken")]
    bad = changed(task, tmp_path / "bad", corpus=documents, queries=queries, qrels=qrels)
    [found] = evaluate(EvaluateConfig(db=str(tmp_path / "db"), output=str(tmp_path / "out"), task=bad)).evaluations
    assert len(found.result.queries) == 11
    excluded = found.metrics()["queries"]["excluded"]
    assert excluded["rejected: empty_record"] == 1 and sum(excluded.values()) == 3
    assert sum(found.metrics()["corpus"]["rejected"].values()) == 1
    # The document that can't be read is relevant all the same, and can't be found.
    at = found.result.queries.index("text-red")
    assert found.result.scored.values["recall@100"][at] == pytest.approx(2 / 3)
    assert "can't be found: 1 documents, image_" in str(found)


def test_an_unknown_name_says_which_are_known(ray_cluster, tmp_path):
    with pytest.raises(UsageError, match=r"no such folder.*cirr.*remuq"):
        evaluate(EvaluateConfig(db=str(tmp_path), output=str(tmp_path), task=str(tmp_path / "cir")))
    with pytest.raises(UsageError, match="all 40 digits"):
        evaluate(EvaluateConfig(db=str(tmp_path), output=str(tmp_path), task="hf://datasets/mteb/x@main"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a --task, or a --table"),
        ({"task": "t", "table": "t"}, "either a --task, or a --table"),
        ({"table": "t"}, "name the --judgements"),
        ({"task": "t", "judgements": "j"}, "go with --table"),
        ({"table": "t", "judgements": "j", "column": ("a", "a")}, "two different ones"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        EvaluateConfig(db="db", output="out", **options)


def test_competing_documents_are_ranked_among_themselves(ray_cluster, task, tmp_path):
    folder = changed(task, tmp_path / "subset")
    subsets = [
        {"query-id": q["id"], "corpus-ids": [f"{c}-circle" for c in COLOURS]}
        for q in pq.read_table(task / "queries.parquet").to_pylist()
    ]
    write(tmp_path / "subset" / "top_ranked.parquet", subsets)
    [found] = evaluate(EvaluateConfig(db=str(tmp_path / "db"), output=str(tmp_path / "out"), task=folder)).evaluations
    metrics = found.metrics()
    assert metrics["recall_subset@1"] <= metrics["recall_subset@2"] <= metrics["recall_subset@3"]
    assert 0 < metrics["recall_subset@3"] <= 1


def test_title_and_text_are_embedded_together(ray_cluster, tmp_path):
    folder = tmp_path / "beir"
    folder.mkdir()
    rows = [{"_id": f"d{n}", "title": f"title {n}", "text": f"words {n}"} for n in range(5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "title 3"}\n')
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nother\td1\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n")
    [found] = evaluate(
        EvaluateConfig(db=str(tmp_path / "db"), output=str(tmp_path / "out"), task=str(folder))
    ).evaluations
    assert lance.dataset(found.facts["corpus"]["table"]).to_table()["text"].to_pylist()[0] == "title 0\nwords 0"
    assert found.metrics()["hit_rate@5"] == 1
