"""The text tower: BERT (arXiv 1810.04805) or XLM-RoBERTa (arXiv 1911.02116). It returns the state of CLS only.

Shapes: B concatenated sequences of T tokens in all, H heads of width D, width W = H*D, N image tokens.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vista_core.attention import Packing
from vista_core.config import TextConfig
from vista_core.linear import Linear


class TextEmbeddings(nn.Module):
    """Embeddings of words and of image tokens, with positions; both share position table and norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(config.type_vocab_size, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def words(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Token ids [T] at positions [T] to embeddings [T, W]; all have token type 0."""
        return self.norm(self.word(input_ids) + self.position(positions) + self.token_type.weight[0])

    def image(self, tokens: Tensor) -> Tensor:
        """Projected image tokens [B, N, W] to embeddings [B, N, W], at positions 1 to N and without a token type."""
        return self.norm(tokens + self.position.weight[1 : 1 + tokens.shape[1]])


class TextLayer(nn.Module):
    """Transformer layer with norms after the residual additions (post-norm)."""

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
        """Token states [T, W] to token states [T, W]."""
        return self._after(x, packing.attend(self.qkv(x).unflatten(-1, (3, self.heads, -1))))

    def _after(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention, [..., W] to [..., W]."""
        x = self.norm1(self.proj.plus(attended, x))
        return self.norm2(self.down.plus(self.up(x), x))


class LastTextLayer(TextLayer):
    """The last layer, which computes only the state of CLS; the result is that of a TextLayer.

    CLS is the only query q, so keys and values of the other tokens need not be computed. With K and V as the
    projections, K' the transpose, b their biases and p the attention weights:

        q . (K x + b) = (K' q) . x + constant, and softmax ignores the constant
        sum p (V x + b) = V (sum p x) + b, since the weights p sum to 1

    The projections are thus applied once for each sequence instead of once for each token.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        # not our Linear, which `pack_for_cpu` would pack: `forward` uses the weight in parts
        self.qkv = nn.Linear(config.width, 3 * config.width)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Token states [T, W] to the CLS state of each sequence, [B, W]."""
        weight: Tensor = self.qkv.weight
        width, heads, cls = x.shape[-1], self.heads, x.index_select(0, packing.starts)
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        _, key, value = weight.view(3, heads, width // heads, width).unbind(0)  # [H, D, W] each
        q = F.linear(cls, weight[:width], query_bias).view(-1, heads, width // heads).transpose(0, 1)
        queries = torch.bmm(q, key).transpose(0, 1)  # K' q: [B, H, W]
        states = packing.attend_states(queries * (width // heads) ** -0.5, x).transpose(0, 1)  # sum p x: [H, B, W]
        attended = torch.bmm(states, value.transpose(1, 2)).transpose(0, 1).flatten(1) + value_bias
        return self._after(cls, attended)


class TextTower(nn.Module):
    """Embeddings and transformer layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        body = [TextLayer(config) for _ in range(config.layers - 1)]
        self.layers = nn.ModuleList([*body, LastTextLayer(config)])

    def forward(self, x: Tensor, lengths: np.ndarray) -> Tensor:
        """Embeddings [T, W] of concatenated sequences, and their lengths [B], to the CLS state of each, [B, W]."""
        packing = Packing(lengths, x.device)
        for layer in self.layers:
            x = layer(x, packing)
        return x
