"""Parity with the reference implementation's golden vectors, and with the towers of timm and transformers."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from tests.vista_core.conftest import BASE, M3, TINY_CONFIGS, Golden
from vista_core import MODELS
from vista_core.batching import TokenBudget
from vista_core.checkpoint import load_model
from vista_core.config import ModelConfig, hugging_face_config
from vista_core.encoder import encode_tensors
from vista_core.image import decode_image
from vista_core.linear import pack_for_cpu
from vista_core.synthetic import synthetic_checkpoint
from vista_core.vision import normalise

PARITY = 5e-6  # largest absolute difference of any component
KINDS = ("text", "image", "pair")
TOKENS = 30_000  # the ids that random texts are drawn from, so that both vocabularies have them


@pytest.mark.parametrize("kind", KINDS)
def test_float32_matches_the_reference_one_by_one(golden: Golden, kind: str):
    ids, pixels = golden.inputs(kind)
    vectors = torch.cat([encode_tensors(golden.model, [i], [p]) for i, p in zip(ids, pixels, strict=True)])
    np.testing.assert_allclose(vectors.numpy(), golden.arrays[kind], rtol=0, atol=PARITY)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_matches_the_reference_in_a_batch(golden: Golden, kind: str):
    vectors = encode_tensors(golden.model, *golden.inputs(kind), TokenBudget(10**9))
    np.testing.assert_allclose(vectors.numpy(), golden.arrays[kind], rtol=0, atol=PARITY)


def test_float32_matches_the_reference_when_packed_and_mixed(golden: Golden):
    packed = load_model(golden.config, synthetic_checkpoint(golden.config))
    pack_for_cpu(packed)
    ids, pixels, expected = [], [], []
    for kind in KINDS:
        kind_ids, kind_pixels = golden.inputs(kind)
        ids, pixels, expected = ids + kind_ids, pixels + kind_pixels, [*expected, golden.arrays[kind]]
    order = np.random.default_rng(0).permutation(len(ids))
    vectors = encode_tensors(packed, [ids[i] for i in order], [pixels[i] for i in order]).numpy()
    np.testing.assert_allclose(vectors, np.concatenate(expected)[order], rtol=0, atol=PARITY)


def test_vision_tokens_match_the_reference(golden: Golden):
    pixels = torch.from_numpy(np.stack(golden.inputs("image")[1]))
    with torch.inference_mode():
        tokens = golden.model.vision(normalise(pixels)).numpy()
    # values reach 10, and uniform patches amplify rounding errors
    np.testing.assert_allclose(tokens, golden.arrays["vision_tokens"], rtol=0, atol=2e-4)


def test_the_longest_text_that_the_config_allows_gives_a_vector_of_norm_one(golden: Golden):
    meta = golden.facts["meta"]
    assert golden.config.max_tokens() == (meta["max_text_len"], meta["max_prompt_len_mm"])
    assert golden.config.vision.tokens == meta["n_img_tokens"]
    longest = np.full(meta["max_prompt_len_mm"], 5, dtype=np.int32)
    vectors = encode_tensors(golden.model, [longest], [golden.inputs("image")[1][0]])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(1))


@pytest.mark.parametrize(("model", "limits"), [(BASE, (512, 316)), (M3, (8192, 7938))])
def test_token_limits_of_the_released_models(model: str, limits: tuple[int, int]):
    assert MODELS[model].max_tokens() == limits


def test_training_mode_changes_nothing(golden: Golden):
    ids, pixels = golden.inputs("pair")
    before = encode_tensors(golden.model, ids, pixels)
    golden.model.train()
    after = encode_tensors(golden.model, ids, pixels)
    golden.model.eval()
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("name", [BASE, M3])
def test_bfloat16_keeps_a_cosine_of_0999(name: str, photo: bytes):
    config = MODELS[name]
    # m3's 250,000 embeddings are 0.9 GB, of which these texts use a few rows: the first ones, which stay the same.
    config = replace(config, text=replace(config.text, vocab_size=TOKENS))
    model = load_model(config, synthetic_checkpoint(config)).requires_grad_(False)
    inputs = texts_image_and_pair(config, photo)
    expected = encode_tensors(model, *inputs)
    pack_for_cpu(model.to(torch.bfloat16))
    cosines = torch.nn.functional.cosine_similarity(encode_tensors(model, *inputs), expected)
    assert cosines.min() >= 0.999


def texts_image_and_pair(config: ModelConfig, photo: bytes) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Token ids and pixels: two texts, an image of noise, and a photo with the longer text."""
    draw = np.random.default_rng(0)
    first, last = {"bert": (101, 102), "xlm-roberta": (0, 2)}[config.text.family]
    noise = draw.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    texts = [np.array([first, *draw.integers(1000, TOKENS, count), last]) for count in (4, 30)]
    return [*texts, np.array([first, last]), texts[1]], [None, None, noise, decode_image(photo, 224)]


def test_timm_has_the_same_vision_tower():
    config = replace(MODELS[BASE], vision=replace(MODELS[BASE].vision, layers=2))
    checkpoint = synthetic_checkpoint(config)
    ours = load_model(config, checkpoint)
    theirs = timm.create_model("eva02_base_patch16_clip_224", pretrained=False, depth=2, num_classes=0).eval()
    theirs.norm = torch.nn.Identity()
    state = {timm_key(key): checkpoint.read(key) for key in checkpoint.shapes if key.startswith("model_visual.visual.")}
    expected = theirs.state_dict().keys()
    theirs.load_state_dict({key: value for key, value in state.items() if key in expected}, strict=True)
    pixel_values = normalise(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)))
    with torch.inference_mode():
        difference = ours.vision(pixel_values) - theirs.forward_features(pixel_values)
    assert difference.abs().max() < 1e-4  # values reach 20, and the kernels sum in another order


def timm_key(key: str) -> str:
    """timm's name for a released key."""
    names = {
        "attn.inner_attn_ln": "attn.norm",
        "attn.q_bias": "attn.q_proj.bias",
        "attn.v_bias": "attn.v_proj.bias",
        "mlp.w1": "mlp.fc1_g",
        "mlp.w2": "mlp.fc1_x",
        "mlp.w3": "mlp.fc2",
        "mlp.ffn_ln": "mlp.norm",
    }
    key = key.removeprefix("model_visual.visual.")
    for released, theirs in names.items():
        key = key.replace(released, theirs)
    return key


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_transformers_has_the_same_text_tower(name: str):
    config = TINY_CONFIGS[name]
    checkpoint = synthetic_checkpoint(config)
    kinds = {"bert": (BertConfig, BertModel), "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel)}
    make_config, make_model = kinds[config.text.family]
    theirs = make_model(make_config(**hugging_face_config(config.text)), add_pooling_layer=False).eval()
    keys = [key for key in checkpoint.shapes if key.startswith(("bge_encoder", "bge_embeddings"))]
    theirs.load_state_dict({key.removeprefix("bge_"): checkpoint.read(key) for key in keys}, strict=True)
    padded, mask = torch.tensor([[9, 10, *[config.text.pad_id] * 2], [5, 6, 7, 8]]), torch.ones(2, 4, dtype=torch.long)
    mask[0, 2:] = 0
    with torch.inference_mode():
        hidden = theirs(padded, attention_mask=mask).last_hidden_state[:, 0]
        ours = load_model(config, checkpoint)(padded[mask.bool()], np.array([2, 4]))
    torch.testing.assert_close(ours, torch.nn.functional.normalize(hidden, dim=-1), rtol=0, atol=PARITY)
