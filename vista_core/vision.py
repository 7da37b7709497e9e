"""The vision tower: EVA02-CLIP (arXiv 2303.15389) without its final norm and head.

Shapes: B images of S x S pixels, N patches, T = 1 + N tokens, H heads of width D, width W = H*D, P = 3*p*p values of a
patch of p x p pixels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import attend
from vista_core.config import VisionConfig
from vista_core.image import MEAN, STD
from vista_core.linear import GatedLinear, Linear, QueryKeyValue

ROPE_THETA = 10_000.0
ROPE_TRAINED_GRID = 16  # positions are scaled to the grid that EVA02 was pretrained on


def rope_tables(grid: int, head_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of two-dimensional RoPE, float32 [grid*grid, D] (EVA's `VisionRotaryEmbeddingFast`).

    The first half of D encodes a patch's row, the second its column. Each frequency appears twice, for the two adjacent
    values that it rotates.
    """
    half = head_width // 2
    frequencies = 1.0 / ROPE_THETA ** (np.arange(0, half, 2, dtype=np.float32) / np.float32(half))
    positions = np.arange(grid, dtype=np.float32) / np.float32(grid) * np.float32(ROPE_TRAINED_GRID)
    angles = np.repeat(positions[:, None] * frequencies, 2, axis=1)  # [grid, D/2]
    rows = np.broadcast_to(angles[:, None], (grid, grid, half))
    columns = np.broadcast_to(angles[None], (grid, grid, half))
    table = np.concatenate([rows, columns], axis=-1).reshape(grid * grid, head_width)
    return np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)


def patchify(pixel_values: Tensor, patch: int) -> Tensor:
    """Pixels [B, 3, S, S] to patches [B, N, P], with the values of a patch in the order of a convolution's kernel."""
    batch, channels, size, _ = pixel_values.shape
    grid = size // patch
    tiles = pixel_values.view(batch, channels, grid, patch, grid, patch)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels * patch * patch)


def in_halves(head_width: int) -> list[int]:
    """Order of a head's values in this model: the first of each pair that RoPE rotates, then all the second ones.

    In the released weights the two values of a pair are adjacent. Attention is the same for any order that queries and
    keys share. RoPE is faster with halves, which are swapped by two copies: 0.8 ms a layer instead of 1.8.
    """
    return [*range(0, head_width, 2), *range(1, head_width, 2)]


class RotaryEmbedding(nn.Module):
    """Rotates pairs of a head's values, ordered as `in_halves`, by the position of the patch; CLS is not rotated."""

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: int, head_width: int) -> None:
        super().__init__()
        cos, sin = (torch.from_numpy(table)[:, in_halves(head_width)] for table in rope_tables(grid, head_width))
        sin[:, : head_width // 2] *= -1  # (a, b) -> (a cos - b sin, b cos + a sin)
        ones = torch.ones(1, head_width, device="cpu")  # CLS: cosine 1, sine 0; real values even in an `empty_model`
        self.register_buffer("cos", torch.cat([ones, cos]), persistent=False)  # [T, D]
        self.register_buffer("sin", torch.cat([0 * ones, sin]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Queries or keys [B, T, ..., H, D], rotated."""
        cos, sin = (table.view(-1, *(1,) * (x.dim() - 3), x.shape[-1]) for table in (self.cos, self.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.addcmul(x * cos, torch.cat([b, a], dim=-1), sin)


class VisionAttention(nn.Module):
    """Self-attention with RoPE, and with a norm before the output projection (sub-LN)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = QueryKeyValue(config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.proj = Linear(config.width, config.width)

    def forward(self, x: Tensor, rope: RotaryEmbedding, residual: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W], added to `residual`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, H, D]
        q, k, v = (each.transpose(1, 2) for each in (*rope(qkv[:, :, :2]).unbind(2), qkv[:, :, 2]))
        return self.proj.plus(self.norm(attend(q, k, v)), residual)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202), with a norm before the second projection (sub-LN)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.up = GatedLinear(config.width, config.mlp_width)
        self.norm = nn.LayerNorm(config.mlp_width, eps=config.norm_eps)
        self.down = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W], added to `residual`."""
        return self.down.plus(self.norm(self.up(x)), residual)


class VisionBlock(nn.Module):
    """Transformer block with norms before attention and feed-forward (pre-norm)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rope: RotaryEmbedding) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        x = self.attention(self.norm1(x), rope, x)
        return self.mlp(self.norm2(x), x)


class VisionTower(nn.Module):
    """Patch embedding and transformer blocks: images to one token for each patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.tokens, config.width))
        self.patch_weight = nn.Parameter(torch.zeros(config.width, 3, config.patch_size, config.patch_size))
        self.patch_bias = nn.Parameter(torch.zeros(config.width))
        self.rope = RotaryEmbedding(config.grid, config.width // config.heads)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))

    def forward(self, images: Tensor) -> Tensor:
        """Pixels uint8 [B, S, S, 3], or normalised [B, 3, S, S], to tokens [B, T, W], CLS first."""
        pixel_values = (normalise(images) if images.dtype == torch.uint8 else images).to(self.cls_token.dtype)
        # a convolution with its stride equal to its kernel size is a matrix product over patches
        patches = F.linear(patchify(pixel_values, self.patch_size), self.patch_weight.flatten(1), self.patch_bias)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x, self.rope)
        return x


def normalise(pixels: Tensor) -> Tensor:
    """Pixels uint8 [..., S, S, 3] to normalised float32 [..., 3, S, S], bit for bit as torchvision."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    channels_first = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
    return channels_first.div_(255).sub_(mean).div_(std)
