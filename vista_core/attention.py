"""Scaled dot-product attention (arXiv 1706.03762, section 3.2.1), also over sequences of different lengths.

Shapes: B sequences, H heads of width D, T queries, S keys.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vista_core.batching import plan_groups
from vista_core.linear import multiplies_tiles, product_dtype

# Largest number of keys for which a CPU that multiplies bfloat16, but not by tiles (AMX), computes the full score
# matrix. On an AMD Zen 5 that is 2.2 to 2.4 times as fast as torch's flash kernel at 32 to 512 tokens, and as fast at
# 2048, where the matrix takes much memory. On other CPUs the flash kernel is faster: on an Intel Xeon with AMX 1.2 to
# 2.0 times at 32 to 512 tokens; without bfloat16, since it multiplies in float32. But not its backward pass.
FULL_SCORES_UP_TO = 1024


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention by the implementation that is fastest on this device.

    Takes q [B, H, T, D], k and v [B, H, S, D], and mask bool [B, 1, 1, S], False for padding; returns [B, T, H*D].
    """
    on_cpu, is_trained = q.device.type == "cpu", torch.is_grad_enabled() and q.requires_grad
    in_bfloat16 = q.dtype == product_dtype(q.dtype) == torch.bfloat16 and not multiplies_tiles()
    full = on_cpu and (in_bfloat16 or is_trained) and k.shape[2] <= FULL_SCORES_UP_TO
    attended = _full_scores(q, k, v, mask) if full else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _full_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, _, width = q.shape
    queries, keys, values = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
    unused = queries.new_empty(1, 1, 1)  # with beta=0, baddbmm is a matrix product that scales its result at no cost
    scores = torch.baddbmm(unused, queries, keys.transpose(1, 2), beta=0, alpha=width**-0.5)  # [B*H, T, S]
    if mask is not None:
        scores.view(batch, heads, *scores.shape[1:]).masked_fill_(~mask, float("-inf"))
    return torch.bmm(scores.softmax(-1), values).view(q.shape)


@dataclass(frozen=True)
class Group:
    """Consecutive sequences that one call of attention computes, padded to the longest of them.

    If all lengths are equal, there is no padding: both indices and the mask are None.
    """

    tokens: slice  # the group's tokens among those of the whole batch
    count: int  # sequences
    padded_from: Tensor | None  # int64 [count * longest]: index in `tokens` of the token at each padded position
    packed_from: Tensor | None  # int64 [tokens]: index of the padded position of each packed token
    mask: Tensor | None  # bool [count, longest], False for padding

    def padded(self, packed: Tensor) -> Tensor:
        """Select this group's sequences from the packed batch: [T, ...] to [count, longest, ...]."""
        mine = packed[self.tokens]
        if self.padded_from is not None:
            mine = Rows.apply(mine, self.padded_from, self.packed_from)
        return mine.view(self.count, -1, *packed.shape[1:])

    def packed(self, padded: Tensor) -> Tensor:
        """Remove the padding: [count, longest, ...] to [tokens, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.packed_from is None else Rows.apply(flat, self.packed_from, None)


class Rows(torch.autograd.Function):
    """`index_select` of rows. Its gradient needs no sum over rows that were selected twice, which takes long on CPUs.

    `back` are the rows of the output whose gradients are those of the input's rows, in their order; the gradients of
    others, as of padding, are 0. None: every row of the input was selected at most once.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, selected: Tensor, back: Tensor | None) -> Tensor:
        """[N, ...] to [M, ...] by `selected`, int64 [M]."""
        ctx.count = len(rows)
        ctx.save_for_backward(selected, back)
        return rows.index_select(0, selected)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the output, [M, ...], to that of the rows, [N, ...]."""
        selected, back = ctx.saved_tensors
        if back is not None:
            return gradient.index_select(0, back), None, None
        zeros = gradient.new_zeros(ctx.count, *gradient.shape[1:])
        return zeros.index_copy_(0, selected, gradient), None, None


class Packing:
    """Layout of a batch whose sequences are concatenated without padding; only attention pads, group by group."""

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        starts = np.cumsum(lengths) - lengths
        self.starts = on_device(starts, device)  # int64 [B]: index of each sequence's first token, its CLS
        self.groups = [_group(lengths[part], int(starts[part][0]), device) for part in plan_groups(lengths.tolist())]

    def attend(self, qkv: Tensor) -> Tensor:
        """Self-attention within each sequence: queries, keys and values [T, 3, H, D] to [T, H*D]."""
        attended = []
        for group in self.groups:
            q, k, v = group.padded(qkv).permute(2, 0, 3, 1, 4).unbind(0)  # [count, H, longest, D]
            mask = None if group.mask is None else group.mask[:, None, None]
            attended.append(group.packed(attend(q, k, v, mask)))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def attend_states(self, queries: Tensor, states: Tensor) -> Tensor:
        """Attention whose keys and values are the token states themselves, unprojected and unscaled.

        Each sequence has one query of width W for each head: queries [B, H, W] and states [T, W] to [B, H, W].
        """
        attended, first = [], 0
        for group in self.groups:
            tokens, mine = group.padded(states), queries[first : first + group.count]
            scores = torch.bmm(mine, tokens.transpose(1, 2))  # [count, H, longest]
            if group.mask is not None:
                scores = scores.masked_fill(~group.mask[:, None], float("-inf"))
            attended.append(torch.bmm(scores.softmax(-1), tokens))
            first += group.count
        return attended[0] if len(attended) == 1 else torch.cat(attended)


def _group(lengths: np.ndarray, start: int, device: torch.device) -> Group:
    tokens, longest = slice(start, start + int(lengths.sum())), int(lengths.max())
    if (lengths == longest).all():
        return Group(tokens, len(lengths), None, None, None)
    mask = np.arange(longest) < lengths[:, None]
    padded_from = np.zeros(mask.shape, np.int64)  # padding repeats the group's first token; the mask hides it
    padded_from[mask] = np.arange(tokens.stop - tokens.start)
    arrays = (padded_from.reshape(-1), np.flatnonzero(mask), mask)
    return Group(tokens, len(lengths), *(on_device(array, device) for array in arrays))


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device. A copy to a GPU is asynchronous, from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
