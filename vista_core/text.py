"""The text tower: BERT or XLM-RoBERTa over embeddings that may hold image tokens; only its CLS comes out.

Shapes: B sequences, T tokens, H heads of D, width W = H*D.
"""

import torch
from torch import Tensor, nn

from vista_core.attention import attend
from vista_core.config import TextConfig
from vista_core.linear import Linear


class TextEmbeddings(nn.Module):
    """Words and image tokens at their positions, under one norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(config.type_vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def words(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """[B, L] ids at [L] positions to [B, L, W]."""
        constant = self.position(positions) + self.token_type.weight[0]
        return self.norm(self.word(input_ids) + constant)

    def image(self, tokens: Tensor) -> Tensor:
        """[B, N, W] projected image tokens, at positions 1..N and without a token type, to [B, N, W]."""
        return self.norm(tokens + self.position.weight[1 : 1 + tokens.shape[1]])


class TextLayer(nn.Module):
    """Post-norm transformer layer; `cls_only` spares what the other tokens' outputs would take."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.up = Linear(config.width, config.mlp_width, gelu=True)
        self.down = Linear(config.mlp_width, config.width)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """[B, T, W] with mask [B, 1, 1, T] (True where a token is) to [B, T, W], or [B, 1, W] with `cls_only`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, D]
        if cls_only:
            q, x = q[:, :, :1], x[:, :1]
        x = self.norm1(x + self.proj(attend(q, k, v, mask)))
        return self.norm2(x + self.down(self.up(x)))


class TextTower(nn.Module):
    """Embeddings and layers of the text side."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Embedded sequences [B, T, W], mask bool [B, T] or None where nothing is padded, to their CLS [B, W]."""
        mask = None if mask is None else mask[:, None, None]
        *body, last = self.layers
        for layer in body:
            x = layer(x, mask)
        return last(x, mask, cls_only=True)[:, 0]


def token_mask(lengths: Tensor, width: int) -> Tensor:
    """Bool [B, width], True for the first `lengths` [B] places of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
