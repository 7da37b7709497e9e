"""The fused towers, on a GPU where there is one; else Triton interprets their kernels on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

triton = pytest.importorskip("triton", reason="Triton is not installed; torch brings it on Linux only")

from tests.vista_core.conftest import BASE, M3, TINY_CONFIGS, Golden  # noqa: E402
from vista_core import MODELS, Encoder, EncoderSettings, Record, kernels  # noqa: E402
from vista_core.batching import TokenBudget  # noqa: E402
from vista_core.checkpoint import load_model  # noqa: E402
from vista_core.config import ModelConfig  # noqa: E402
from vista_core.device import can_fuse  # noqa: E402
from vista_core.encoder import encode_tensors  # noqa: E402
from vista_core.gpu import fuse_for_gpu  # noqa: E402
from vista_core.model import VistaModel  # noqa: E402
from vista_core.synthetic import synthetic_checkpoint  # noqa: E402
from vista_core.vision import RotaryEmbedding, normalise, patchify  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF = torch.float16
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, HALF)


def layer_norm(width: int) -> torch.nn.LayerNorm:
    layer = torch.nn.LayerNorm(width, eps=1e-6).requires_grad_(False)
    layer.weight.copy_(torch.linspace(0.5, 1.5, width))
    layer.bias.copy_(torch.linspace(-1, 1, width))
    return layer.to(DEVICE, HALF)


def close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.float(), exact, rtol=2e-3, atol=2e-3)


def exactly_normed(values: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    return F.layer_norm(values, layer.weight.shape, layer.weight.float(), layer.bias.float(), layer.eps)


@pytest.mark.parametrize("width", [24, 64, 768])
@pytest.mark.parametrize("rows", [1, 7])
def test_norms_are_those_of_torch_with_and_without_a_sum(width: int, rows: int):
    x, delta, layer = drawn(rows, width), drawn(rows + 1, width)[:rows], layer_norm(width)
    close(kernels.norm(x, layer), exactly_normed(x.float(), layer))
    exact = x.float() + delta.float()
    close(kernels.norm(x, layer, delta), exactly_normed(exact, layer))
    total, normed = kernels.add_norm(x, delta, layer)
    close(total, exact)
    close(normed, exactly_normed(exact, layer))


@pytest.mark.parametrize("padding", [0, 22])
def test_a_gated_norm_leaves_its_padding_out_of_the_statistics_and_zero(padding: int):
    layer = layer_norm(170)
    gate, value = drawn(5, 170), drawn(6, 170)[:5]
    both = torch.cat([F.pad(gate, (0, padding)), F.pad(value, (0, padding))], 1)
    result = kernels.gated_norm(both, layer)
    close(result[:, :170], exactly_normed(F.silu(gate.float()) * value.float(), layer))
    assert result.shape == (5, 170 + padding)
    assert not result[:, 170:].any()


def test_rotation_is_that_of_the_tower_and_leaves_values_alone():
    rope = RotaryEmbedding(3, 16).to(DEVICE)
    qkv = drawn(3, 10, 3, 3, 16)
    exact, values = rope(qkv[:, :, :2].float()), qkv[:, :, 2].clone()
    kernels.rotate_(qkv, rope.cos.to(HALF), rope.sin.to(HALF))
    close(qkv[:, :, :2], exact)
    assert torch.equal(qkv[:, :, 2], values)


@pytest.mark.parametrize("lengths", [[1], [3, 17, 32], [5, 64], [3, 60, 70], [130, 150]])
def test_attention_stays_within_each_sequence(lengths: list[int]):
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE)
    qkv = drawn(sum(lengths), 3, 2, 16)
    attended, once = kernels.attend(qkv, starts, max(lengths)), qkv.new_empty(0)
    once = kernels.attend_once(qkv[starts[:-1], 0].contiguous(), qkv[:, 1:].contiguous(), starts)
    for index, (first, after) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        q, k, v = qkv[first:after].float().permute(1, 2, 0, 3)
        exact = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        close(attended[first:after], exact)
        close(once[index], exact[0])


@pytest.mark.parametrize("patch", [14, 16])
def test_patches_are_normalised_as_by_the_tower(patch: int):
    pixels = torch.randint(0, 256, (2, 3 * patch, 3 * patch, 3), dtype=torch.uint8, device=DEVICE)
    scale, shift = torch.tensor([[0.01, 0.02, 0.03], [-1, -2, -3]], device=DEVICE)
    exact = patchify(pixels.permute(0, 3, 1, 2).float().contiguous() * scale.view(3, 1, 1) + shift.view(3, 1, 1), patch)
    close(kernels.patches(pixels, patch, scale, shift, HALF), exact)


def fused(config: ModelConfig, dtype: torch.dtype = HALF) -> VistaModel:
    model = load_model(config, synthetic_checkpoint(config), dtype).requires_grad_(False).to(DEVICE)
    fuse_for_gpu(model)
    return model


def test_a_fused_model_gives_the_vectors_of_the_reference(golden: Golden):
    count = 1 if DEVICE.type == "cpu" else 10**9  # Triton's interpreter takes seconds for an image
    plain = load_model(golden.config, synthetic_checkpoint(golden.config), HALF).requires_grad_(False).to(DEVICE)
    for kind in ("text", "pair"):
        ids, pixels = (values[:count] for values in golden.inputs(kind))
        ours, torchs = (encode_tensors(model, ids, pixels).cpu() for model in (fused(golden.config), plain))
        exact = torch.from_numpy(golden.arrays[kind][:count])
        lost, allowed = (1 - (vectors * exact).sum(1) for vectors in (ours, torchs))
        assert (lost <= 3 * allowed + 1e-4).all()  # uniform images amplify the rounding of half precision


@on_gpu
def test_a_fused_models_vectors_do_not_depend_on_the_batch(golden: Golden):
    model = fused(golden.config)
    ids, pixels = golden.inputs("pair")
    more_ids, more_pixels = golden.inputs("text")
    ids, pixels = [*ids, *more_ids], [*pixels, *more_pixels]
    together = encode_tensors(model, ids, pixels, TokenBudget(10**9))
    alone = torch.cat([encode_tensors(model, [one], [image]) for one, image in zip(ids, pixels, strict=True)])
    assert (together * alone).sum(1).min() >= 0.99999


@on_gpu
def test_a_fused_model_takes_pixels_and_normalised_images(golden: Golden):
    model = fused(golden.config)
    pixels = torch.from_numpy(np.stack(golden.inputs("image")[1])).to(DEVICE)
    torch.testing.assert_close(model.vision(pixels), model.vision(normalise(pixels)), rtol=0, atol=0.1)


def test_widths_that_products_are_slow_for_are_padded():
    config = TINY_CONFIGS["tiny_xlmr"]
    model = fused(replace(config, vision=replace(config.vision, mlp_width=171)))
    mlp = model.vision.tower.blocks[0].mlp
    assert (mlp.up.weight.shape[0], mlp.down.weight.shape[1], len(mlp.norm.weight)) == (2 * 192, 192, 171)


def test_what_can_be_fused():
    config = TINY_CONFIGS["tiny_bert"]
    assert not can_fuse(config, torch.device("cpu"), HALF)
    if torch.cuda.is_available():
        assert can_fuse(config, DEVICE, HALF)
        assert not can_fuse(config, DEVICE, torch.float32)
        assert not can_fuse(replace(config, text=replace(config.text, heads=3, width=72)), DEVICE, HALF)


@on_gpu
@pytest.mark.parametrize(("name", "dtype"), [(BASE, torch.bfloat16), (BASE, HALF), (M3, HALF)])
def test_released_sizes_keep_a_cosine_of_0999_on_a_gpu(name: str, dtype: torch.dtype):
    config, draw = MODELS[name], np.random.default_rng(0)
    plain = load_model(config, synthetic_checkpoint(config)).requires_grad_(False)
    ids = [draw.integers(4, 30_000, length, dtype=np.int32) for length in (2, 3, 20, 33, 70, 200)]
    pixels = [draw.integers(0, 256, (224, 224, 3), dtype=np.uint8) if index % 2 else None for index in range(len(ids))]
    exact = encode_tensors(plain.to(DEVICE), ids, pixels)
    assert (encode_tensors(fused(config, dtype), ids, pixels) * exact).sum(1).min() >= 0.999


@on_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_loaded_encoder_uses_the_kernels_of_the_gpu(tiny_encoder: Encoder, photo: bytes, dtype: str):
    encoder = Encoder.load(EncoderSettings(device="cuda", dtype=dtype))
    records = [Record(f"word {'more ' * i}", photo if i % 2 else None) for i in range(9)]
    assert "Fused" in type(encoder.model.vision).__name__
    assert (encoder.encode(records) * tiny_encoder.encode(records)).sum(1).min() >= 0.995
