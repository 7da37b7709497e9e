"""The command `finetune` on Ray: from pairs to a model that the other commands take."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed.config import EmbedConfig
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.images import ImageBytes
from pipelines.finetune.prepared import Prepared
from pipelines.finetune.run import finetune
from tests.pipelines.embed.on_warm_workers import embed
from tests.pipelines.finetune.drawn import NAMES, name_of, picture, write_data
from vista_core import CheckpointError, Encoder, EncoderSettings, Record, UsageError
from vista_core.checkpoint import load_model, open_checkpoint

STEPS = 6


def config_of(folder, **options) -> FinetuneConfig:
    given = {"data": str(folder / "train"), "trained": "all", "batch": 16, "steps": STEPS, "checkpoint_steps": 4}
    return FinetuneConfig(output=str(folder / "shapes-1"), **given | {"loaders": 0, "learning_rate": 1e-3} | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_data(folder / "train")
    return folder


@pytest.fixture(scope="module")
def trained(ray_cluster, folder):
    return finetune(config_of(folder, alpha="white"))


def test_the_summary_says_what_was_done(trained, folder):
    said = str(trained)
    assert f"shapes-1: {STEPS} steps in" in said
    assert "edit_image: loss " in said and "t2it: loss " in said
    assert f"model: {folder}/shapes-1" in said
    assert json.loads(str(replace(trained, is_json=True)))["steps"] == STEPS


def test_the_output_is_a_model_folder(trained):
    encoder = Encoder.load(EncoderSettings(trained.output))
    assert (encoder.identity.model, encoder.identity.alpha, encoder.dimension) == ("shapes-1", "white", 128)
    untrained = Encoder.load(EncoderSettings(alpha="white"))
    record = [Record(text="a red star", image=picture("star", "red"))]
    assert encoder.encode(record)[0] @ untrained.encode(record)[0] < 0.9999


def test_the_pth_holds_the_same_weights_in_the_released_layout(trained):
    folder = Encoder.load(EncoderSettings(trained.output))
    pth = load_model(folder.model.config, open_checkpoint_of(trained, "model.pth"))
    of_folder = load_model(folder.model.config, open_checkpoint_of(trained, "model.safetensors"))
    for one, other in zip(pth.parameters(), of_folder.parameters(), strict=True):
        assert (one == other).all()


def open_checkpoint_of(trained, name):
    from pathlib import Path

    return open_checkpoint(Path(trained.output) / name)


def test_card_page_and_log_have_the_figures(trained, folder):
    output = folder / "shapes-1"
    card, page = (output / "README.md").read_text(), (output / "report.html").read_text()
    for said in ("# shapes-1", "vista-tiny", "edit_image", "composited on white", "temperature | 0.02"):
        assert said in card
    assert page.count("<svg") == 3 and "Held-out pairs" in page and "http://" not in page.replace("http://www.w3", "")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    losses = {
        each.step: each.value for name in events.Tags()["scalars"] if "loss/" in name for each in events.Scalars(name)
    }
    expected = {step: loss for step, _, loss in trained.facts["losses"]}
    assert losses == pytest.approx(expected, rel=1e-5)
    assert set(expected) == set(range(STEPS))


def test_the_same_command_has_nothing_left_to_do(trained, folder, caplog):
    caplog.set_level("INFO")
    again = finetune(config_of(folder, alpha="white", json=True))
    assert again.facts == trained.facts
    assert "is complete already" in caplog.text


def test_another_training_needs_another_folder(trained, folder):
    with pytest.raises(UsageError, match=r"training with other options: seed 1 here, 0 there"):
        finetune(config_of(folder, alpha="white", seed=1))


def test_a_wrong_option_can_be_mended_in_the_same_folder(ray_cluster, folder, tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        finetune(replace(config_of(folder, data=str(tmp_path / "typo")), output=str(tmp_path / "mended")))
    done = finetune(replace(config_of(folder, steps=1), output=str(tmp_path / "mended")))
    assert done.facts["steps"] == 1


def test_a_model_that_cannot_be_had_is_known_before_anything_is_written(folder, tmp_path):
    weights = tmp_path / "weights.safetensors"
    for content, error, said in (
        (None, UsageError, "there is no such file"),
        (b"x", CheckpointError, "cannot be read"),
    ):
        if content is not None:
            weights.write_bytes(content)
        config = config_of(folder, weights=str(weights))
        with pytest.raises(error, match=said):
            finetune(replace(config, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_model_can_have_is_known_at_once(tmp_path):
    with pytest.raises(UsageError, match="--output: a model's name has letters"):
        FinetuneConfig(data="d", output=str(tmp_path / "my model"))


def test_what_repeat_names_must_be_a_task(ray_cluster, folder):
    with pytest.raises(UsageError, match="--repeat t2i: there are the tasks edit_image, t2it"):
        finetune(replace(config_of(folder, repeat=("t2i=2",)), output=str(folder / "repeated")))
    with pytest.raises(UsageError, match="--repeat edit_image=0 t2it=0: no task is left to train with"):
        left = replace(config_of(folder, repeat=("edit_image=0", "t2it=0")), output=str(folder / "nothing"))
        finetune(left)
    with pytest.raises(UsageError, match=r"--repeat t2it: give TASK=N"):
        config_of(folder, repeat=("t2it",))


def test_a_table_is_embedded_by_its_name_with_its_preprocessing(trained, tmp_path):
    rows = [{"id": name_of(*each), "image": picture(*each)} for each in NAMES[:5]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalog.parquet")
    done = embed(EmbedConfig(str(tmp_path / "catalog.parquet"), str(tmp_path / "db"), "t", model=trained.output))
    assert "written 5" in str(done)
    import lance

    table = lance.dataset(str(tmp_path / "db" / "t.lance"))
    identity = json.loads(table.schema.field("vector").metadata[b"vista.encoder"])
    assert (identity["model"], identity["alpha"]) == ("shapes-1", "white")


def test_clicks_on_a_table_become_pairs_and_negatives_are_mined(ray_cluster, tmp_path):
    rows = [
        {"id": f"{shape}-{colour}", "text": f"{colour} {shape}", "image": picture(shape, colour)}
        for shape, colour in NAMES
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalog.parquet")
    embed(EmbedConfig(str(tmp_path / "catalog.parquet"), str(tmp_path / "db"), "t", store_images=True))
    clicks = [{"query": f"something {colour}", "id": f"{shape}-{colour}"} for shape, colour in NAMES] * 2
    clicks.append({"query": "something gone", "id": "gone"})
    pq.write_table(pa.Table.from_pylist(clicks), tmp_path / "clicks.parquet")
    place = {"data": None, "db": str(tmp_path / "db"), "table": "t", "clicks": str(tmp_path / "clicks.parquet")}
    done = finetune(config_of(tmp_path, **place, mine_negatives=True, steps=2))
    prepared = Prepared.open(f"{done.output}/data")
    [task] = prepared.tasks
    pairs = task.pairs.to_pylist()
    assert (task.name, len(pairs)) == ("clicks", len(NAMES))
    assert done.facts["data"]["pairs left out, as their row is gone or empty"] == 1
    assert all(pair["positive"]["image"] is not None for pair in pairs)
    positives = {}
    for pair in pairs:
        positives.setdefault(pair["query"]["text"], set()).add(pair["positive"]["text"])
    mined = [each["text"] for pair in pairs for each in pair["negatives"]]
    assert mined and done.facts["data"]["mined hard negatives"] == len(mined)
    images = ImageBytes(prepared.images)
    items = {each["text"]: each["image"] for pair in pairs for each in (pair["positive"], *pair["negatives"])}
    records = {text: Record(text, images.read(image)) for text, image in items.items()}
    records |= {query: Record(query) for query in positives}
    vectors = dict(zip(records, Encoder.load(EncoderSettings()).encode(list(records.values())), strict=True))
    for pair in pairs:
        query = pair["query"]["text"]
        assert not positives[query] & {each["text"] for each in pair["negatives"]}
        for each in pair["negatives"]:
            cosine = np.dot(vectors[query], vectors[pair["positive"]["text"]])
            assert np.dot(vectors[query], vectors[each["text"]]) < cosine - 0.04 * abs(cosine)


def test_two_processes_have_the_losses_of_one(trained, folder):
    done = finetune(replace(config_of(folder, alpha="white", processes=2), output=str(folder / "two")))
    assert "2 CPU processes" in done.facts["processes"]
    expected = [loss for *_, loss in trained.facts["losses"]]
    assert [loss for *_, loss in done.facts["losses"]] == pytest.approx(expected, rel=1e-3)


def test_data_and_output_may_be_in_a_bucket(trained, folder, s3):
    for path in sorted((folder / "train").rglob("*")):
        if path.is_file():
            s3.put(f"finetune/train/{path.relative_to(folder / 'train')}", path.read_bytes())
    config = config_of(folder, alpha="white", data=s3.url("finetune/train"))
    done = finetune(replace(config, output=s3.url("finetune/shapes-s3")))
    names = {each.rpartition("/")[2] for each in s3.fs.ls(s3.url("finetune/shapes-s3"), detail=False)}
    assert {"config.json", "model.safetensors", "model.pth", "report.html", "README.md", "training.json"} <= names
    expected = [loss for *_, loss in trained.facts["losses"]]
    assert [loss for *_, loss in done.facts["losses"]] == pytest.approx(expected, rel=1e-5)
