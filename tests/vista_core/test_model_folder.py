import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vista_core.conftest import BASE, M3, TINY
from vista_core import (
    MODELS,
    CheckpointError,
    Encoder,
    EncoderSettings,
    Record,
    UsageError,
    Visualized_BGE,
    encoder_identity,
)
from vista_core.checkpoint import check_keys, load_model, open_checkpoint, released_shapes, released_state
from vista_core.hub import BUILT_IN
from vista_core.model_folder import ModelFolder
from vista_core.released import main as released_main
from vista_core.synthetic import synthetic_shapes

BUILT = BUILT_IN / TINY
TOKENIZER = (BUILT / "tokenizer.json").read_text()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of vista-tiny's folder, by another name."""
    shutil.copytree(BUILT, tmp_path / "copy")
    renamed(tmp_path / "copy", name="products-v3")
    return tmp_path / "copy"


def renamed(folder: Path, **change) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder / "model.safetensors")
    return {key: checkpoint.read(key) for key in checkpoint.shapes}


def settings(folder: Path, **change) -> EncoderSettings:
    return EncoderSettings(str(folder), device="cpu", **change)


def test_the_built_in_model_is_such_a_folder():
    folder = ModelFolder.open(BUILT)
    assert (folder.name, folder.config) == (TINY, MODELS[TINY])
    assert folder.weights == BUILT / "model.safetensors"


def test_a_folder_gives_the_vectors_of_its_weights(copied: Path, tiny_encoder: Encoder, photo: bytes):
    records = [Record("a red bicycle"), Record(image=photo), Record("at night", photo)]
    assert np.array_equal(Encoder.load(settings(copied)).encode(records), tiny_encoder.encode(records))


def test_its_identity_has_the_name_and_no_path(copied: Path, tmp_path: Path):
    before = encoder_identity(settings(copied))
    assert before.model == "products-v3"
    assert replace(before, model=TINY) == encoder_identity(EncoderSettings(device="cpu"))
    assert encoder_identity(settings(copied.rename(tmp_path / "moved"))) == before


def test_what_is_written_is_read(copied: Path, tmp_path: Path):
    made_by = {"recipe": "stage1", "steps": 412}
    written = ModelFolder(tmp_path / "new" / "folder", "products-v4", MODELS[TINY], made_by)
    written.write(TOKENIZER, state_of(copied) | {"bge_pooler.dense.bias": torch.zeros(128)})
    assert ModelFolder.open(written.path) == written
    one, other = encoder_identity(settings(written.path)), encoder_identity(settings(copied))
    assert replace(one, model="products-v3") == other
    names = [each.name for each in written.path.iterdir()]
    assert sorted(names) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_folder_that_could_not_be_written_wholly_has_no_weights(copied: Path):
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer.json").mkdir()  # so that it can't be replaced
    with pytest.raises(OSError, match="tokenizer"):
        ModelFolder(copied, "products-v4", MODELS[TINY]).write(TOKENIZER, state_of(BUILT))
    shutil.rmtree(copied / "tokenizer.json")
    shutil.copy(BUILT / "tokenizer.json", copied)
    with pytest.raises(UsageError, match=r"has no model\.safetensors, so it is incomplete: write or copy it again"):
        Encoder.load(settings(copied))


def test_weights_that_do_not_fit_are_not_written(tmp_path: Path):
    state = state_of(BUILT)
    state.pop("visual_proj.bias")
    with pytest.raises(CheckpointError, match=r"the weights of new does not fit.*1 missing: visual_proj\.bias"):
        ModelFolder(tmp_path / "new", "new", MODELS[TINY]).write(TOKENIZER, state)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["weights", "from_pretrained"])
def test_its_files_cannot_be_replaced_by_options(copied: Path, option: str):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} x: the model folder .* has its own weights"):
        settings(copied, **{option: "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "config.json is that of a 'bert' model, not 'vista'"),
        ({"name": "a/b"}, "'a/b' is none"),
        ({"name": None}, "None is none"),
        ({"text": 1}, "needs a `name`, and the sizes of the towers `text` and `vision`"),
        ({"text": {"model_type": "bert"}}, "lacks vocab_size, hidden_size,"),
        ({"vision": {"width": 128}}, "lacks image_size, patch_size,"),
    ],
)
def test_a_config_that_describes_no_model_is_refused(copied: Path, change: dict, message: str):
    renamed(copied, **change)
    with pytest.raises(UsageError) as caught:
        Encoder.load(settings(copied))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tower", "change", "message"),
    [
        ("text", {"num_attention_heads": 3}, "3 heads don't divide the text tower's width, 128"),
        ("text", {"hidden_size": "128"}, "width of the text tower must be a whole number, not '128'"),
        ("text", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("text", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ("text", {"layer_norm_eps": 0}, "norm_eps of the text tower must be between 0 and 1"),
        ("text", {"max_position_embeddings": 20}, "16 tokens, and the text tower 20 positions, so no words fit"),
        ("vision", {"heads": 64}, "each of 64 heads needs a multiple of 4 values of the vision tower's width, 128"),
        ("vision", {"patch_size": 15}, "patches of 15 px don't tile images of 64 px"),
        ("vision", {"layers": 0}, "layers of the vision tower must be a whole number, not 0"),
    ],
)
def test_impossible_sizes_are_refused(copied: Path, tower: str, change: dict, message: str):
    config = json.loads((copied / "config.json").read_text())
    renamed(copied, **{tower: config[tower] | change})
    with pytest.raises(UsageError) as caught:
        ModelFolder.open(copied)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", ["/none/such", "s3://bucket/model"])
def test_a_folder_that_is_not_here_is_a_wrong_option(given: str):
    with pytest.raises(UsageError, match=f"--model {given}: ") as caught:
        Encoder.load(EncoderSettings(given))
    assert caught.value.exit_code == 2


def test_bfloat16_is_for_models_as_wide_as_the_base_model_and_no_deeper():
    assert [MODELS[name].bf16 for name in (BASE, M3, TINY)] == [True, False, False]
    narrow = replace(MODELS[BASE], vision=replace(MODELS[BASE].vision, width=384))
    deeper = replace(MODELS[BASE], text=replace(MODELS[BASE].text, layers=13))
    assert not narrow.bf16
    assert not deeper.bf16


def test_the_drop_in_takes_it(copied: Path, tiny_encoder: Encoder):
    vector = Visualized_BGE(str(copied), device="cpu").encode(text="a red bicycle")
    assert np.allclose(vector.numpy(), tiny_encoder.encode([Record("a red bicycle")]), atol=1e-6)
    with pytest.raises(UsageError, match="has its own weights"):
        Visualized_BGE(str(copied), copied / "model.safetensors")


def test_a_released_file_of_it_has_every_key_of_the_reference(copied: Path, tmp_path: Path, capsys):
    target = tmp_path / "Visualized.pth"
    assert released_main([str(copied), str(target)]) == 0
    state = torch.load(target, weights_only=True)
    assert {key: tuple(value.shape) for key, value in state.items()} == synthetic_shapes(MODELS[TINY])
    config, checkpoint = MODELS[TINY], open_checkpoint(target)
    check_keys(config, checkpoint)
    again, stored = released_state(load_model(config, checkpoint)), state_of(copied)
    assert all(torch.equal(again[key], stored[key].float()) for key in released_shapes(config))
    assert released_main([str(copied), str(tmp_path / "x.bin")]) == 2
    assert "must end in .pth" in capsys.readouterr().err
