"""Assembled models: their towers are those of timm and transformers."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from transformers import BertConfig, BertForMaskedLM, BertModel, XLMRobertaConfig, XLMRobertaModel

from tests.vista_core.conftest import TINY
from tests.vista_core.test_tokenizer import UNCASED, unigram
from vista_core import MODELS, CheckpointError, Encoder, EncoderSettings, Record, UsageError
from vista_core.assemble import SIZES, assemble, main
from vista_core.checkpoint import load_model, open_checkpoint, released_state
from vista_core.hub import BUILT_IN
from vista_core.model_folder import ModelFolder
from vista_core.released import released_pth
from vista_core.vision import normalise

SENTENCES = ["a red bicycle leans on a wall", "at night"]
BERT = BertConfig(
    vocab_size=30522, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    max_position_embeddings=64,
)  # fmt: skip
XLMR = XLMRobertaConfig(
    vocab_size=30522, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
)  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small BERT model with random weights, as transformers saves it."""
    return saved(BertModel(BERT), tmp_path / "small-bert", (UNCASED / "tokenizer.json").read_text())


def saved(model: torch.nn.Module, folder: Path, tokenizer: str) -> Path:
    torch.nn.init.normal_(model.base_model.embeddings.LayerNorm.bias)  # else all norms are alike
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def small_eva(**change) -> Eva:
    """timm's EVA02-CLIP architecture, of a small size and with random values for all parameters."""
    sizes = {"img_size": 64, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 512}
    made = timm.create_model("eva02_base_patch16_clip_224", pretrained=False, **sizes | change).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def text_vectors(model: torch.nn.Module, encoder: Encoder) -> np.ndarray:
    """CLS of transformers' model for each sentence, with norm 1."""
    tokens = encoder.preprocessor.tokenize(SENTENCES, [False] * len(SENTENCES))
    with torch.inference_mode():
        states = [model(torch.tensor(each.input_ids[None])).last_hidden_state[0, 0] for each in tokens]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


def loaded(folder: Path) -> Encoder:
    return Encoder.load(EncoderSettings(str(folder), device="cpu", dtype="float32"))


def assert_has_the_texts_of(folder: Path, reference: torch.nn.Module) -> None:
    encoder = loaded(folder)
    vectors = encoder.encode([Record(text) for text in SENTENCES])
    assert np.abs(vectors - text_vectors(reference.eval(), encoder)).max() < 1e-5


def test_minilm_keeps_its_vectors_of_texts(tmp_path: Path):
    """It takes the mean over all tokens, which a layer more computes at CLS."""
    folder = assemble(UNCASED, "tiny", tmp_path / "out", "minilm-tiny").path
    sizes = ModelFolder.open(folder).config
    assert (sizes.dimension, sizes.text.layers) == (384, 7)
    encoder, reference = loaded(folder), BertModel.from_pretrained(UNCASED, attn_implementation="eager").eval()
    vectors = encoder.encode([Record(text) for text in SENTENCES])
    for vector, tokens in zip(vectors, encoder.preprocessor.tokenize(SENTENCES, [False] * 2), strict=True):
        with torch.inference_mode():
            mean = reference(torch.tensor(tokens.input_ids[None])).last_hidden_state[0].mean(0).numpy()
        assert vector @ mean / np.linalg.norm(mean) > 0.999


def test_a_text_model_without_a_note_on_its_pooling_keeps_its_layers(tmp_path: Path):
    shutil.copytree(UNCASED, tmp_path / "text", ignore=shutil.ignore_patterns("1_Pooling"))
    folder = assemble(tmp_path / "text", "tiny", tmp_path / "out", "minilm-cls").path
    assert ModelFolder.open(folder).config.text.layers == 6
    assert_has_the_texts_of(folder, BertModel.from_pretrained(UNCASED, attn_implementation="eager"))


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        (lambda: BertForMaskedLM(BERT), lambda: (UNCASED / "tokenizer.json").read_text()),  # the prefix `bert.`
        (lambda: XLMRobertaModel(XLMR), unigram),
    ],
)
def test_the_text_tower_is_transformers(tmp_path: Path, model, tokenizer):
    reference = model()
    folder = saved(reference, tmp_path / "text", tokenizer())
    assemble(folder, "tiny", tmp_path / "out", "new")
    assert_has_the_texts_of(tmp_path / "out", reference.base_model)


def test_weights_of_older_files_are_read(tmp_path: Path, text: Path):
    assemble(text, "tiny", tmp_path / "one", "one")
    state = load_file(text / "model.safetensors")
    old = {
        f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in state.items()
    }
    (text / "model.safetensors").unlink()
    unused = {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(3)}
    torch.save(old | unused, text / "pytorch_model.bin")
    assemble(text, "tiny", tmp_path / "two", "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("write", ["folder", "bin", "openclip"])
def test_the_vision_tower_is_timms(tmp_path: Path, text: Path, write: str):
    theirs = small_eva()
    state, path = {key: value.contiguous() for key, value in theirs.state_dict().items()}, tmp_path / "eva"
    if write == "folder":
        path.mkdir()
        save_file(state, path / "model.safetensors")
    elif write == "bin":
        path = tmp_path / "eva.bin"
        torch.save(state, path)
    else:
        path.mkdir()
        both = {f"visual.trunk.{key}": value for key, value in state.items()} | {"logit_scale": torch.tensor(1.0)}
        torch.save(both, path / "open_clip_pytorch_model.bin")
    folder = assemble(text, str(path), tmp_path / "out", "new")
    assert folder.config.vision == replace(SIZES["tiny"], layers=2, heads=2, mlp_width=341)
    ours = load_model(folder.config, open_checkpoint(folder.weights))
    pixels = normalise(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)))
    theirs.norm = torch.nn.Identity()
    with torch.inference_mode():
        expected = theirs.forward_features(pixels)
        difference = ours.vision(pixels) - expected
    assert difference.abs().max() < 1e-5 * expected.abs().max()


def test_the_vision_tower_of_a_released_file_is_taken(tmp_path: Path, text: Path):
    released_pth(ModelFolder.open(BUILT_IN / TINY), tmp_path / "Visualized.pth")
    folder = assemble(text, str(tmp_path / "Visualized.pth"), tmp_path / "out", "new")
    assert folder.config.vision == MODELS[TINY].vision  # its heads are told by the tables of RoPE
    stored, original = open_checkpoint(folder.weights), open_checkpoint(tmp_path / "Visualized.pth")
    of_images = [key for key in stored.shapes if key.startswith("model_visual.")]
    assert len(of_images) > 50
    assert all(torch.equal(stored.read(key), original.read(key)) for key in of_images)


def test_random_weights_are_those_of_a_seed(tmp_path: Path, text: Path):
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = assemble(text, "tiny", tmp_path / name, "new", seed)
        states.append(load_file(folder.weights))
    first, same, other = states
    assert all(torch.equal(first[key], same[key]) for key in first)
    drawn = [key for key in first if not torch.equal(first[key], other[key])]
    assert {key.split(".")[0] for key in drawn} == {"model_visual", "visual_proj"}
    block = "model_visual.visual.blocks.{}.attn.{}_proj.weight"
    assert abs(float(first[block.format(0, "q")].std()) - 0.02) < 0.001
    scaled = [float(first[f"model_visual.visual.blocks.{i}.mlp.w3.weight"].std()) for i in range(4)]
    assert np.allclose(scaled, [0.02 / (2 * (i + 1)) ** 0.5 for i in range(4)], rtol=0.02)
    assert not first["model_visual.visual.blocks.1.attn.q_bias"].any()
    assert (first["model_visual.visual.blocks.1.norm1.weight"] == 1).all()
    config = ModelFolder.open(tmp_path / "a").config
    model = load_model(config, open_checkpoint(tmp_path / "a" / "model.safetensors"))
    assert all(torch.isfinite(value).all() for value in released_state(model).values())


def test_towers_that_do_not_fit_are_refused(tmp_path: Path, text: Path):
    with pytest.raises(UsageError, match="an image has 196 tokens, and the text tower 64 positions, so no words fit"):
        assemble(text, "base", tmp_path / "out", "new")
    state = load_file(text / "model.safetensors")
    state["more"] = state.pop("encoder.layer.0.output.dense.bias")
    state["encoder.layer.1.output.dense.bias"] = torch.zeros(3)
    save_file(state, text / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        assemble(text, "tiny", tmp_path / "out", "new")
    for part in (
        "1 missing: encoder.layer.0.output.dense.bias.",
        "1 unexpected: more.",
        "1 of another shape: encoder.layer.1.output.dense.bias [3], not [64].",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_vision_tower_is_refused(tmp_path: Path, text: Path):
    other = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1)
    save_file(other.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match="holds no EVA02-CLIP vision tower"):
        assemble(text, str(tmp_path / "vit.safetensors"), tmp_path / "out", "new")
    with pytest.raises(CheckpointError, match=r"holds 0 towers with patch_embed\.proj\.weight instead of one"):
        assemble(text, str(text), tmp_path / "out", "new")
    state = small_eva().state_dict()
    state.pop("blocks.1.attn.k_proj.weight")
    save_file(state, tmp_path / "eva.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.1\.attn\.k_proj\.weight\."):
        assemble(text, str(tmp_path / "eva.safetensors"), tmp_path / "out", "new")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "none", "--vision", "tiny", "OUT"], "--text none: there is no such folder"),
        (["--text", "TEXT", "--vision", "huge", "OUT"], "--vision huge is none of tiny, small, base, large, and"),
        (["--text", "TEXT", "--vision", "tiny", "OUT", "--name", "a b"], "--name: a model's name has letters"),
        (["--text", "TEXT", "--vision", "EMPTY", "OUT"], "no folder that has one of model.safetensors,"),
        (["--text", "EMPTY", "--vision", "tiny", "OUT"], "cannot be read as a config.json"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, text: Path, capsys, arguments: list[str], message: str):
    (tmp_path / "empty").mkdir()
    places = {"TEXT": str(text), "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(each, each) for each in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_command_names_the_model_after_its_folder_and_overwrites_none(tmp_path: Path, text: Path, capsys):
    command = ["--text", str(text), "--vision", "tiny", str(tmp_path / "products-v1")]
    assert main(command) == 0
    assert "products-v1, a bert text tower of 2 layers, 64 wide" in capsys.readouterr().out
    folder = ModelFolder.open(tmp_path / "products-v1")
    assert folder.name == "products-v1"
    assert (folder.made_by["text"], folder.made_by["vision"]) == ("small-bert", "tiny, random weights")
    assert main(command) == 2
    assert "has a model already" in capsys.readouterr().err


def test_a_tokenizer_with_more_tokens_than_the_tower_is_refused(tmp_path: Path):
    folder = saved(BertModel(BertConfig(**BERT.to_dict() | {"vocab_size": 100})), tmp_path / "text", unigram())
    shutil.copy(UNCASED / "tokenizer.json", folder)
    with pytest.raises(UsageError, match="the tokenizer has 30522 tokens, the model 100"):
        assemble(folder, "tiny", tmp_path / "out", "new")
