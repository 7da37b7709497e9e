"""A table that is there is evaluated as it is, with judgements of a shop's own; two columns side by side."""

import json
from pathlib import Path

import lance
import pytest

from pipelines.backfill.config import BackfillConfig
from pipelines.backfill.run import backfill
from pipelines.embed.config import EmbedConfig
from pipelines.evaluate.config import EvaluateConfig
from pipelines.index.config import IndexConfig
from pipelines.index.run import index_table
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.evaluate.tasks import COLOURS, SHAPES, spoiled_weights, write_task
from tests.pipelines.evaluate.warm import evaluate
from vista_core import UsageError


@pytest.fixture(scope="module")
def shop(ray_cluster, tmp_path_factory):
    """A published table `shapes` with a second column by spoiled weights, and a file of clicks."""
    folder = tmp_path_factory.mktemp("shop")
    task = write_task(folder / "task")
    db, weights = str(folder / "db"), spoiled_weights(folder / "spoiled.safetensors")
    embed(EmbedConfig(source=str(task / "corpus.parquet"), db=db, table="shapes", dtype="float32", store_images=True))
    backfill(BackfillConfig(db, "shapes", ("other",), ("vista-tiny",), weights=(weights,), dtype="float32"))
    clicks = [f'"a {colour} {shape}, please",{colour}-{shape}' for colour in COLOURS for shape in SHAPES]
    (folder / "clicks.csv").write_text("\n".join(["query,id", *clicks]) + "\n")
    return folder


def evaluated(shop, output, **options):
    config = EvaluateConfig(
        db=str(shop / "db"), output=str(shop / output), table="shapes", judgements=str(shop / "clicks.csv"), **options
    )
    return evaluate(config)


def test_a_file_of_clicks_is_enough(shop):
    before = lance.dataset(str(shop / "db" / "shapes.lance")).version
    [found] = evaluated(shop, "clicks").evaluations
    metrics = json.loads(Path(shop, "clicks", "metrics.json").read_text())
    assert metrics["queries"]["evaluated"] == 18 and metrics["corpus"]["rows"] == 18
    assert 0 < metrics["hit_rate@5"] <= metrics["hit_rate@10"] <= 1
    assert metrics["corpus"]["column"] == "vector"
    assert found.published == {}
    assert lance.dataset(str(shop / "db" / "shapes.lance")).version == before


def test_two_columns_side_by_side(shop):
    found = evaluated(shop, "columns", column=("vector", "other"))
    assert [each.result.table.vector for each in found.evaluations] == ["vector", "other"]
    comparison = json.loads(Path(shop, "columns", "comparison.json").read_text())["differences"]["ndcg@10"]
    one, other = (
        json.loads(Path(shop, "columns", name, "metrics.json").read_text())["ndcg@10"] for name in ("vector", "other")
    )
    assert (comparison["first"], comparison["second"]) == (pytest.approx(one), pytest.approx(other))
    page = Path(found.report).read_text()
    assert "Differences" in page and "won / lost / tied" in page
    assert "won/lost/tied" in str(found)


def test_queries_with_images_come_from_a_source(shop):
    found = evaluate(
        EvaluateConfig(
            db=str(shop / "db"),
            output=str(shop / "images"),
            table="shapes",
            queries=str(shop / "task" / "queries.parquet"),
            judgements=str(shop / "task" / "qrels.parquet"),
            by=("kind",),
        )
    )
    [evaluation] = found.evaluations
    assert {"text alone", "image alone", "chance"} == set(evaluation.result.beside)
    assert set(evaluation.metrics()["by"]["kind"]) == {"text", "edit"}


def test_a_table_without_an_index_cannot_be_searched_through_one(shop):
    with pytest.raises(UsageError, match=r"has no vector index: `vista index`"):
        evaluated(shop, "index", index=True)


def test_what_an_index_costs(ray_cluster, tmp_path):
    (tmp_path / "texts.csv").write_text("id,text\n" + "".join(f"d{n},number {n} of many\n" for n in range(600)))
    db = str(tmp_path / "db")
    embed(EmbedConfig(source=str(tmp_path / "texts.csv"), db=db, table="texts", dtype="float32"))
    index_table(IndexConfig(db, "texts", kind="IVF_PQ", recall=0.5))
    clicks = "".join(f"number {n} of many,d{n}\n" for n in range(0, 600, 40))
    (tmp_path / "clicks.csv").write_text(f"query,id\n{clicks}")
    config = EvaluateConfig(
        db=db, output=str(tmp_path / "out"), table="texts", judgements=str(tmp_path / "clicks.csv"), index=True
    )
    [found] = evaluate(config).evaluations
    beside = found.metrics()["beside"]["through the index"]
    assert 0 < beside["hit_rate@100"] <= 1
    assert found.metrics()["hit_rate@1"] == 1


def test_images_may_be_allowed_by_a_relative_folder(shop, monkeypatch):
    monkeypatch.chdir(shop)
    found = evaluated(shop, "allowed", allow_prefix=("./task/", "10.1.0.0/16"))
    assert Path(found.report).is_file()


def test_an_unknown_column_to_break_down_by_is_an_error(shop):
    with pytest.raises(UsageError, match="--by colour: no such column of the queries"):
        evaluated(shop, "by", by=("colour",))
