"""Both towers for inference on a GPU in half precision: the functions of `vision` and `text`, with fused

Matrix products are cuBLAS's; what lies between them is fused into the kernels of `vista_core.kernels`. Unlike compiled
modules, these take any number and length of sequences without being compiled again. On an H200 they do 1.5 times the
image-text pairs that torch's own operators do, and 1.8 times with m3; see docs/performance.md.

Shapes as in `vision` and `text`.
"""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import on_device
from vista_core.image import MEAN, STD
from vista_core.kernels import add_norm, attend, attend_once, gated_norm, norm, patches, rotate_
from vista_core.linear import GatedLinear, Linear
from vista_core.model import VistaModel
from vista_core.text import TextLayer, TextTower
from vista_core.vision import VisionBlock, VisionTower, patchify

ALIGNED = 64  # m3's gated layer has 2,730 values, for which cuBLAS has only kernels of a third of the speed


def fuse_for_gpu(model: VistaModel) -> None:
    """Replace both towers by their fused form. The model can't be trained, moved or converted afterwards."""
    model.add_module("vision", FusedVisionTower(model.vision))
    model.add_module("text", FusedTextTower(model.text))


class FusedVisionTower(nn.Module):
    """A VisionTower with fused kernels; it keeps the tower's parameters."""

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: VisionTower) -> None:
        super().__init__()
        self.tower = tower
        self.blocks = [cast(VisionBlock, block) for block in tower.blocks]
        self.qkv_biases = [block.attention.qkv.bias for block in self.blocks]
        mean, std = (torch.tensor(values, device=tower.cls_token.device) for values in (MEAN, STD))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)  # as `normalise`, in one step
        self.register_buffer("shift", -mean / std, persistent=False)
        for block in self.blocks:
            align(block.mlp.up, block.mlp.down)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels uint8 [B, S, S, 3], or normalised [B, 3, S, S], to tokens [B, T, W], CLS first."""
        blocks = self.blocks
        x = self._embedded(images)
        batch, tokens, _ = x.shape
        sequences = Sequences(np.full(batch, tokens), x.device)
        h = norm(x, blocks[0].norm1)
        for index, block in enumerate(blocks):
            qkv = F.linear(h, block.attention.qkv.weight, self.qkv_biases[index])
            qkv = qkv.view(batch, tokens, 3, block.attention.heads, -1)
            rotate_(qkv, self.tower.rope.cos, self.tower.rope.sin)
            attended = sequences.attend(qkv.flatten(0, 1)).view_as(x)
            projected = block.attention.proj(norm(attended, block.attention.norm))
            x, h = add_norm(x, projected, block.norm2)
            up, down = block.mlp.up, block.mlp.down
            fed = down(gated_norm(F.linear(h, up.weight, up.bias), block.mlp.norm))
            if index + 1 < len(blocks):
                x, h = add_norm(x, fed, blocks[index + 1].norm1)
        return x + fed

    def _embedded(self, images: Tensor) -> Tensor:
        tower = self.tower
        if images.dtype == torch.uint8:
            dtype = tower.cls_token.dtype
            values = patches(images, tower.patch_size, self.scale, self.shift, dtype)
        else:
            values = patchify(images.to(tower.cls_token.dtype), tower.patch_size)
        x = F.linear(values, tower.patch_weight.flatten(1), tower.patch_bias)
        return torch.cat([tower.cls_token.expand(len(x), -1, -1), x], dim=1) + tower.pos_embed


class FusedTextTower(nn.Module):
    """A TextTower with fused kernels; it keeps the tower's parameters."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.embeddings, self.layers = tower.embeddings, tower.layers
        self.order = [cast(TextLayer, layer) for layer in tower.layers]

    def forward(self, x: Tensor, lengths: np.ndarray) -> Tensor:
        """Embeddings [T, W] of concatenated sequences, and their lengths [B], to the CLS state of each, [B, W]."""
        sequences = Sequences(lengths, x.device)
        *body, last = self.order
        for layer in body:
            qkv = layer.qkv(x).view(len(x), 3, layer.heads, -1)
            x = self._after(layer, x, sequences.attend(qkv))
        # Only the state of CLS is needed, so each sequence has one query. Keys and values are projected for all tokens:
        # what `LastTextLayer` does instead saves 1 % of the products, but pads.
        width, cls, qkv = x.shape[-1], x.index_select(0, sequences.starts[:-1]), last.qkv
        q = F.linear(cls, qkv.weight[:width], qkv.bias[:width]).view(len(cls), last.heads, -1)
        kv = F.linear(x, qkv.weight[width:], qkv.bias[width:]).view(len(x), 2, last.heads, -1)
        return self._after(last, cls, attend_once(q, kv, sequences.starts))

    def _after(self, layer: TextLayer, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of a layer after attention, [..., W] to [..., W]."""
        x = norm(x, layer.norm1, layer.proj(attended))
        # GELU within the product is its tanh form (arXiv 1606.08415), whose error is below half precision's rounding.
        # In bfloat16, the smallest cosine to float32 was 0.99951 with it and 0.99953 without.
        up = torch._addmm_activation(layer.up.bias, x, layer.up.weight.t(), use_gelu=True)
        return norm(x, layer.norm2, layer.down(up))


class Sequences:
    """Where concatenated sequences begin, as attention needs it."""

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        starts = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        self.starts = on_device(starts, device)  # int32 [B+1]: first token of each sequence, and T
        self.longest = int(lengths.max())

    def attend(self, qkv: Tensor) -> Tensor:
        """Self-attention within each sequence: [T, 3, H, D] to [T, H*D]."""
        return attend(qkv, self.starts, self.longest)


def align(up: GatedLinear, down: Linear) -> None:
    """Pad the values between two layers with zeros to a multiple of ALIGNED, in place."""
    extra = -down.in_features % ALIGNED
    if extra:
        weights, biases = up.weight.chunk(2), up.bias.chunk(2)
        up.weight = nn.Parameter(torch.cat([F.pad(each, (0, 0, 0, extra)) for each in weights]), requires_grad=False)
        up.bias = nn.Parameter(torch.cat([F.pad(each, (0, extra)) for each in biases]), requires_grad=False)
        down.weight = nn.Parameter(F.pad(down.weight, (0, extra)), requires_grad=False)
