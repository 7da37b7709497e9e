"""A version in which searches find less is not published; one that finds as much is, and so is a first one."""

import re

import lance
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.gates.judge import GateError
from pipelines.switch import SwitchConfig, switch_column
from pipelines.tables.default_column import default_column
from tests.pipelines.backfill.tables import backfill
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.evaluate.tasks import spoiled_weights, write, write_task
from vista_core import UsageError


@pytest.fixture
def task(tmp_path):
    """36 texts, and for each a query that is the same text: a model that learned anything finds it."""
    folder = write_task(tmp_path / "task")
    texts = [
        f"{colour} {thing} number {n}"
        for n, (colour, thing) in enumerate(
            (colour, thing)
            for colour in ("red", "green", "blue", "white", "black", "grey")
            for thing in ("lamp", "chair", "table", "shelf", "sofa", "desk")
        )
    ]
    write(folder / "corpus.parquet", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    write(folder / "queries.parquet", [{"id": f"q{n}", "text": f"a {text}"} for n, text in enumerate(texts)])
    write(folder / "qrels.parquet", [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(36)])
    return folder


def run(task, **options):
    return embed(
        EmbedConfig(
            source=str(task / "corpus.parquet"),
            db=str(task / "db"),
            table="t",
            dtype="float32",
            gate_task=str(task),
            **options,
        )
    )


def published(task):
    return lance.dataset(str(task / "db" / "t.lance"), version="published").version


def test_a_worse_model_is_refused_and_the_old_one_stays(ray_cluster, task, tmp_path):
    first = run(task)  # nothing is published that it could be worse than
    weights = spoiled_weights(tmp_path / "spoiled.safetensors")
    with pytest.raises(GateError, match=r"retrieval quality: ndcg@10 .*worse by more than 0\.01") as error:
        run(task, reembed=True, weights=weights)
    assert error.value.exit_code == 3
    assert published(task) == first.version
    run(task, reembed=True)  # back to the model that is published
    assert published(task) > first.version
    allowed = run(task, reembed=True, weights=weights, gate_drop=1.0)
    assert published(task) == allowed.version


def test_a_worse_column_does_not_become_the_default_one(ray_cluster, task, tmp_path):
    run(task)
    db, weights = str(task / "db"), spoiled_weights(tmp_path / "spoiled.safetensors")
    backfill(db, table="t", column=("spoiled",), model=("vista-tiny",), weights=(weights,), dtype="float32")
    backfill(db, table="t", column=("as_good",), model=("vista-tiny",), dtype="float32")
    version = published(task)
    with pytest.raises(
        GateError, match=r"`vector` stays the default column: retrieval quality: .*worse by more"
    ) as error:
        switch_column(SwitchConfig(db, "t", "spoiled", gate_task=str(task)))
    assert error.value.exit_code == 3
    assert published(task) == version
    done = switch_column(SwitchConfig(db, "t", "as_good", gate_task=str(task)))
    assert re.search(r"retrieval quality: ndcg@10 .*; difference 0\.0000 .* over 36 queries", str(done))
    assert default_column(lance.dataset(str(task / "db" / "t.lance"), version="published")) == "as_good"
    allowed = switch_column(SwitchConfig(db, "t", "spoiled", gate_task=str(task), gate_drop=1.0))
    assert allowed.before == "as_good"


def test_rows_that_come_and_go_are_no_fault_of_the_vectors(ray_cluster, task):
    first = run(task)
    rows = [{"id": f"d{n}", "text": f"something else, {n}"} for n in range(100, 110)]
    kept = lance.dataset(str(task / "db" / "t.lance")).to_table(["id", "text"]).to_pylist()[:20]
    write(task / "corpus.parquet", [*kept, *rows])
    second = run(task, delete_at_most=30)
    assert second.version > first.version


def test_a_gate_that_sees_nothing_does_not_pass(ray_cluster, task):
    run(task)
    write(task / "qrels.parquet", [{"query-id": "q0", "corpus-id": "another-shop", "score": 1}])
    write(task / "corpus.parquet", [{"id": "new", "text": "new"}])
    with pytest.raises(GateError, match=r"no query of .* can be judged: no relevant row is in both versions"):
        run(task)


@pytest.mark.parametrize("part", ["queries", "qrels"])
def test_a_bad_task_is_known_before_anything_is_embedded(ray_cluster, task, part):
    (task / f"{part}.parquet").unlink()
    with pytest.raises(UsageError, match=f"--gate-task .*no {part} in it"):
        run(task)
    assert not (task / "db").exists()
