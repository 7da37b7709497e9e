"""The text tower: BERT or XLM-RoBERTa over embeddings that may hold image tokens; only its CLS comes out.

Shapes: B sequences of T tokens in all, packed one behind the other; H heads of D, width W = H*D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import Packing
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
        """Ids [T] at positions [T] to [T, W]."""
        return self.norm(self.word(input_ids) + self.position(positions) + self.token_type.weight[0])

    def image(self, tokens: Tensor) -> Tensor:
        """[B, N, W] projected image tokens, at positions 1..N and without a token type, to [B, N, W]."""
        return self.norm(tokens + self.position.weight[1 : 1 + tokens.shape[1]])


class TextLayer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv: nn.Linear = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.up = Linear(config.width, config.mlp_width, gelu=True)
        self.down = Linear(config.mlp_width, config.width)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """[T, W] to [T, W]."""
        return self._after(x, packing.attend(self.qkv(x).unflatten(-1, (3, self.heads, -1))))

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm1(x + self.proj(attended))
        return self.norm2(x + self.down(self.up(x)))


class LastTextLayer(TextLayer):
    """The same layer where only CLS is read, with a single query: tokens need no keys and values of their own.

    q . (K x + b) = (K'q) . x + constant, and the constant does not change a softmax; sum p (V x + b) = V sum p x + b.
    That leaves matrix products with one row for each sequence, instead of one for each token.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width)  # used in its parts, so it is not to be packed

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """[T, W] to each sequence's CLS, [B, W]."""
        weight: Tensor = self.qkv.weight
        width, heads, cls = x.shape[-1], self.heads, x.index_select(0, packing.starts)
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        _, key, value = weight.view(3, heads, width // heads, width).unbind(0)  # [H, D, W] each
        q = F.linear(cls, weight[:width], query_bias).view(-1, heads, width // heads).transpose(0, 1)
        readers = torch.bmm(q, key).transpose(0, 1)  # [B, H, W]
        read = packing.read(readers * (width // heads) ** -0.5, x).transpose(0, 1)  # [H, B, W]
        attended = torch.bmm(read, value.transpose(1, 2)).transpose(0, 1).flatten(1) + value_bias
        return self._after(cls, attended)


class TextTower(nn.Module):
    """Embeddings and layers of the text side."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        body = [TextLayer(config) for _ in range(config.layers - 1)]
        self.layers = nn.ModuleList([*body, LastTextLayer(config)])

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Embedded sequences [T, W] to their CLS [B, W]."""
        for layer in self.layers:
            x = layer(x, packing)
        return x
