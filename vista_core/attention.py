"""Scaled dot-product attention, in the form that is fastest where it runs, and over sequences of several lengths.

Shapes: B sequences, H heads of D, T queries, S keys.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vista_core.batching import plan_groups

# Up to here the whole score matrix is faster on a CPU in bfloat16 than torch's flash kernel, 2.2 to 2.4 times at 32
# to 512 tokens, the same at 2048; beyond, its memory counts too.
WHOLE_SCORES_UP_TO = 1024


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, H, T, D] over [B, H, S, D] to [B, T, H*D]; mask bool [B, 1, 1, S], True where a key is."""
    whole = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] <= WHOLE_SCORES_UP_TO
    attended = _whole_scores(q, k, v, mask) if whole else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _whole_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, _, width = q.shape
    queries, keys, values = (x.reshape(batch * heads, -1, width) for x in (q, k, v))
    nothing = queries.new_empty(1, 1, 1)  # the product's scale comes for free this way
    scores = torch.baddbmm(nothing, queries, keys.transpose(1, 2), beta=0, alpha=width**-0.5)  # [B*H, T, S]
    if mask is not None:
        scores.view(batch, heads, *scores.shape[1:]).masked_fill_(~mask, float("-inf"))
    return torch.bmm(scores.softmax(-1), values).view(q.shape)


@dataclass(frozen=True)
class Group:
    """Neighbouring sequences that attention takes at once."""

    tokens: slice  # where they lie among all
    count: int
    padded_from: Tensor | None  # int64 [count * longest]: the token to stand in each place; None for equal lengths
    packed_from: Tensor | None  # int64 [tokens]: the reverse
    mask: Tensor | None  # bool [count, longest], True where a token is

    def padded(self, packed: Tensor) -> Tensor:
        """All tokens [T, ...] to this group's sequences, [count, longest, ...]."""
        mine = packed[self.tokens] if self.padded_from is None else packed.index_select(0, self.padded_from)
        return mine.view(self.count, -1, *packed.shape[1:])

    def packed(self, padded: Tensor) -> Tensor:
        """The reverse, [tokens, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.packed_from is None else flat.index_select(0, self.packed_from)


class Packing:
    """How sequences lie one behind the other, without padding: only attention pads, group by group."""

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        starts = np.cumsum(lengths) - lengths
        self.starts = on_device(starts, device)  # int64 [B]: each sequence's first token
        self.groups = [_group(lengths[part], int(starts[part][0]), device) for part in plan_groups(lengths.tolist())]

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [T, 3, H, D] to [T, H*D], each sequence for itself."""
        attended = []
        for group in self.groups:
            q, k, v = group.padded(qkv).permute(2, 0, 3, 1, 4).unbind(0)  # [count, H, longest, D]
            mask = None if group.mask is None else group.mask[:, None, None]
            attended.append(group.packed(attend(q, k, v, mask)))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def read(self, queries: Tensor, x: Tensor) -> Tensor:
        """H queries of each sequence, [B, H, W], over its tokens among [T, W] as keys and as values, to [B, H, W]."""
        read, first = [], 0
        for group in self.groups:
            tokens, mine = group.padded(x), queries[first : first + group.count]
            scores = torch.bmm(mine, tokens.transpose(1, 2))  # [count, H, longest]
            if group.mask is not None:
                scores = scores.masked_fill(~group.mask[:, None], float("-inf"))
            read.append(torch.bmm(scores.softmax(-1), tokens))
            first += group.count
        return read[0] if len(read) == 1 else torch.cat(read)


def _group(lengths: np.ndarray, start: int, device: torch.device) -> Group:
    tokens, longest = slice(start, start + int(lengths.sum())), int(lengths.max())
    if (lengths == longest).all():
        return Group(tokens, len(lengths), None, None, None)
    mask = np.arange(longest) < lengths[:, None]
    padded_from = np.full(mask.shape, start)  # padding repeats some token, and is masked
    padded_from[mask] = np.arange(tokens.start, tokens.stop)
    arrays = (padded_from.reshape(-1), np.flatnonzero(mask), mask)
    return Group(tokens, len(lengths), *(on_device(array, device) for array in arrays))


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` as a tensor; a GPU fetches it from pinned memory while the CPU goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
