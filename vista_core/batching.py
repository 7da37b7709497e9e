"""Which sequences go through the model at once. Policies on plain numbers: no tensor in sight."""

from collections.abc import Sequence

import numpy as np

GOOD_BATCHES = 256  # so many without a lack of memory, and a halved budget is doubled again


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of `lengths` in batches of at most `token_budget` tokens, shortest first; every index is in one batch.

    The batches share the tokens evenly, so that none is a small remainder: there are as few as a budget allows, or one
    more. A sequence longer than the budget is alone. Equal lengths keep their order.
    """
    batches: list[list[int]] = []
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    total = sum(lengths)
    share = total / max(1, -(-total // token_budget))
    tokens = 0  # of the open batch
    for index in order:
        length = lengths[index]
        if not batches or tokens + length > token_budget or tokens + length / 2 > share:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches


def plan_groups(lengths: Sequence[int]) -> list[slice]:
    """Neighbours among `lengths`, which rise, that attention takes at once, padded to the longest of them.

    Attention is a small part of the work, and each group has a cost of its own: a quarter of padding is cheap, and of
    few tokens any amount is.
    """
    groups: list[slice] = []
    start = tokens = 0
    for place, length in enumerate(lengths):
        padding = (place - start + 1) * length - (tokens + length)
        if padding > 64 + (tokens + length) // 4:
            groups.append(slice(start, place))
            start, tokens = place, 0
        tokens += length
    return [*groups, slice(start, len(lengths))] if len(lengths) else []


class TokenBudget:
    """How many tokens go through the model at once: halved when memory runs out, and restored step by step."""

    def __init__(self, tokens: int) -> None:
        self.most = tokens
        self.tokens = tokens
        self.good = 0  # batches since the last change

    def halve(self) -> None:
        """After a batch that did not fit."""
        self.tokens = max(1, self.tokens // 2)
        self.good = 0

    def fitted(self) -> None:
        """After a batch that did."""
        self.good += 1
        if self.tokens < self.most and self.good >= GOOD_BATCHES:
            self.tokens = min(self.most, 2 * self.tokens)
            self.good = 0


def places_within(lengths: np.ndarray) -> np.ndarray:
    """Of each token of packed sequences, its place in its own: [0, 1, 0, 1, 2] for lengths 2 and 3; int64 [T]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)
