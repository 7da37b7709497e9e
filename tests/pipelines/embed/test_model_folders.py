"""A model folder through the commands: it is named once, and found again by what the table says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest

from pipelines.backfill import run as backfill_run
from pipelines.backfill.config import BackfillConfig
from pipelines.embed.config import EmbedConfig
from pipelines.evaluate.config import EvaluateConfig
from pipelines.gates.judge import GateError
from pipelines.search import EncoderChoice, Searcher
from pipelines.search.config import SearchConfig
from pipelines.search.run import search
from pipelines.tables.origin import Origin, encoder_files
from pipelines.tables.vector_column import VectorColumn
from tests.model_folders import write_model
from tests.pipelines.embed.on_warm_workers import embed as embed_warm
from tests.pipelines.embed.on_warm_workers import encode
from tests.pipelines.evaluate.tasks import write
from tests.pipelines.evaluate.warm import evaluate
from vista_core import Encoder, EncoderSettings, Record, UsageError

pytestmark = pytest.mark.usefixtures("ray_cluster")

THINGS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("lamp", "chair", "sofa", "shelf")]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a source of texts, and a query for each, which is the same text."""
    folder = tmp_path / "shop"
    folder.mkdir()
    write_source(folder, THINGS)
    write(folder / "queries.parquet", [{"id": f"q{n}", "text": text} for n, text in enumerate(THINGS)])
    write(folder / "qrels.parquet", [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(12)])
    return folder


def write_source(shop: Path, texts: list[str]) -> None:
    write(shop / "corpus.parquet", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])


def embed(shop: Path, model: str, **options):
    source = str(shop / "corpus.parquet")
    options = {"dtype": "float32", "report": "none", **options}
    return embed_warm(EmbedConfig(source, str(shop / "db"), "t", model, **options))


def backfill(shop: Path, column: str, model: str, **options):
    config = BackfillConfig(str(shop / "db"), "t", (column,), (model,), dtype="float32", report="none", **options)
    setup = backfill_run.Setup()
    return backfill_run.backfill(
        config, dataclasses.replace(setup, stages=dataclasses.replace(setup.stages, encoder=encode))
    )


def table(shop: Path) -> lance.LanceDataset:
    return lance.dataset(str(shop / "db" / "t.lance"))


def files(shop: Path, column: str = "vector"):
    return encoder_files(table(shop), VectorColumn.of(table(shop).schema, column))


def first(shop: Path, text: str, **options) -> str:
    """The id of the best result of a search without --model."""
    config = SearchConfig(str(shop / "db"), "t", text=text, device="cpu", **options)
    return search(config).found["id"][0].as_py()


def test_a_search_finds_the_folder_that_embed_was_given(shop, monkeypatch):
    write_model(shop / "models" / "v3")
    monkeypatch.chdir(shop)
    summary = embed(shop, "models/v3")  # relative: workers have other working directories
    assert "products-v3, float32" in str(summary)
    column = VectorColumn.of(table(shop).schema)
    assert column.identity.model == "products-v3"
    origin = Origin.of(table(shop))
    assert (origin.model, origin.folder) == ("products-v3", str(shop / "models" / "v3"))
    monkeypatch.chdir("/")
    assert first(shop, THINGS[5]) == "d5"
    found = Searcher.open(str(shop / "db"), "t", encoder=EncoderChoice(device="cpu"))
    assert found.model == "products-v3"
    again = Searcher.open(str(shop / "db"), "t", encoder=EncoderChoice(model="products-v3", device="cpu"))
    assert again.encoder.identity == found.encoder.identity


def test_a_folder_that_was_moved_is_named_with_its_column_and_accepted_where_it_is_now(shop):
    old, new = shop / "old", shop / "new"
    embed(shop, write_model(old))
    old.rename(new)
    message = (
        rf"the encoder of the column `vector` of t, products-v3, can't be had from its model folder, {old}: .*"
        r"there is no such folder.* name where it is now: --model FOLDER"
    )
    with pytest.raises(UsageError, match=message):
        first(shop, THINGS[5])
    assert first(shop, THINGS[5], model=str(new)) == "d5"
    assert files(shop).folder == str(old), "a search writes nothing"

    before = VectorColumn.of(table(shop).schema)
    write_source(shop, [*THINGS, "a yellow bed"])
    summary = embed(shop, str(new), gate_task=str(shop))  # whose gates load the encoder, too
    assert (summary.counts.written, summary.counts.unchanged) == (1, 12)
    assert VectorColumn.of(table(shop).schema) == before
    assert files(shop).folder == str(new), "the next search finds it"
    assert first(shop, "a yellow bed") == "d12"


def test_another_model_of_the_same_name_is_refused(shop):
    embed(shop, write_model(shop / "v3"))
    other = write_model(shop / "other", retrained=True)
    with pytest.raises(UsageError, match=r"the column `vector` was embedded with another encoder.*weights: "):
        embed(shop, other)
    with pytest.raises(UsageError, match=r"t was embedded with another encoder: weights: .*: --model FOLDER"):
        first(shop, THINGS[5], model=other)
    with pytest.raises(UsageError, match=r"another encoder: --model vista-tiny, but products-v3 in the table"):
        first(shop, THINGS[5], model="vista-tiny")
    assert files(shop).folder == str(shop / "v3")


def test_nights_keep_a_further_column_of_a_folder_fresh(shop):
    embed(shop, "vista-tiny")
    model, moved = write_model(shop / "v3", retrained=True), shop / "moved"
    backfill(shop, "b", model)
    assert files(shop, "b").folder == model
    write_source(shop, [*THINGS, "a yellow bed"])
    summary = embed(shop, "vista-tiny")
    assert "`b` by products-v3, float32" in str(summary.job)
    row = table(shop).to_table(["vector", "b"], filter="id = 'd12'").to_pylist()[0]
    encoders = {"vector": EncoderSettings(device="cpu"), "b": EncoderSettings(model, device="cpu")}
    for name, settings in encoders.items():
        [expected] = Encoder.load(settings).encode([Record("a yellow bed")])
        assert np.dot(expected, np.array(row[name], np.float32)) > 0.999

    Path(model).rename(moved)
    with pytest.raises(UsageError, match=rf"the column `b` of t, products-v3, .* {model}.* --model FOLDER, or remove"):
        embed(shop, "vista-tiny", read_all=True)
    embed(shop, str(moved), read_all=True)  # said of the column `b`, whose model has this name
    assert files(shop, "b").folder == str(moved)
    embed(shop, "vista-tiny", read_all=True)
    assert first(shop, THINGS[5], column="b") == "d5"


def test_of_two_columns_of_one_name_the_folder_says_which_is_meant(shop):
    one, other = write_model(shop / "one"), write_model(shop / "other", retrained=True)
    embed(shop, one)
    backfill(shop, "b", other)
    for folder in (one, other):
        summary = embed(shop, folder, read_all=True)
        assert summary.counts.unchanged == 12
    again = backfill(shop, "b", str(Path(other).rename(shop / "moved")))
    assert again.counts.written == 0
    assert files(shop, "b").folder == str(shop / "moved")


def test_reembedding_by_a_folder_stores_where_it_is(shop):
    embed(shop, "vista-tiny")
    assert "folder" not in json.loads(table(shop).schema.metadata[b"vista.made_from"])
    model = write_model(shop / "v3", retrained=True)
    embed(shop, model, reembed=True)
    assert (Origin.of(table(shop)).model, files(shop).folder) == ("products-v3", model)
    assert first(shop, THINGS[5]) == "d5"
    shutil.rmtree(model)
    with pytest.raises(UsageError, match=r"name where it is now: --model FOLDER"):
        first(shop, THINGS[5])
    gone = rf"retrieval quality: could not be judged: the encoder of the column `vector`, products-v3, .* {model}"
    with pytest.raises(GateError, match=gone):
        embed(shop, "vista-tiny", reembed=True, gate_task=str(shop))


def test_a_folder_in_a_bucket_is_used_from_there(shop, s3, tmp_path):
    local = Path(write_model(tmp_path / "local"))
    uri = f"{s3.url('models')}/{tmp_path.name}"
    for path in local.iterdir():
        s3.put(f"models/{tmp_path.name}/{path.name}", path.read_bytes())
    embed(shop, f"{uri}/")
    assert files(shop).folder == uri
    assert first(shop, THINGS[5]) == "d5"
    assert embed(shop, str(local), read_all=True).counts.unchanged == 12, "it is the same encoder"


def test_a_model_folder_is_evaluated(shop, tmp_path):
    model = write_model(tmp_path / "v3")
    config = EvaluateConfig(str(shop / "db"), str(shop / "out"), task=str(shop), model=model, device="cpu")
    [found] = evaluate(config).evaluations
    assert found.system == "products-v3"
    assert found.facts["encoder"]["model"] == "products-v3"
    assert found.result.table.dataset.uri.endswith(".lance")
    assert "_products-v3_" in found.result.table.dataset.uri


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("https://host/model", "a model folder is a local folder, s3:// or gs://, or OWNER/NAME"),
        ("./no/such", "there is no such folder"),
        ("s3://corpus/no/such", "--model s3://corpus/no/such: FileNotFoundError"),
        ("s3://key:secret@bucket/model", "has credentials in it"),
    ],
)
def test_a_place_without_a_model_is_known_before_anything_is_written(shop, s3, model, message):
    with pytest.raises(UsageError, match=message):
        embed(shop, model)
    assert not (shop / "db").exists()
