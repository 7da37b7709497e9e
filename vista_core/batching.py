"""Which sequences go through the model together: policies on plain numbers, without tensors."""

from collections.abc import Sequence

import numpy as np

BATCHES_UNTIL_DOUBLED = 256  # successful batches after which a reduced budget is doubled


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Divide sequences into batches of at most `token_budget` tokens; returns the indices of each batch.

    Every index is in exactly one batch. Shorter sequences come first, and equal lengths keep their order. A sequence
    longer than the budget gets a batch of its own. Tokens are spread evenly over the batches, so that the last one is
    not a small remainder; this takes at most about one batch more than the minimum.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.asarray(lengths, dtype=np.int64)[order]
    ends = np.cumsum(ascending)  # tokens up to and with each sequence
    total = int(ends[-1]) if len(ends) else 0
    share = total / max(1, -(-total // token_budget))
    middles = ends - ascending / 2
    batches: list[list[int]] = []
    start = before = 0
    while start < len(order):
        fitting = np.searchsorted(ends, before + token_budget, side="right")
        even = np.searchsorted(middles, before + share, side="right")
        stop = max(start + 1, min(int(fitting), int(even)))
        batches.append(order[start:stop].tolist())
        start, before = stop, int(ends[stop - 1])
    return batches


def plan_groups(lengths: Sequence[int]) -> list[slice]:
    """Divide sequences with ascending `lengths` into groups that attention computes at once; returns their slices.

    Within a group, sequences are padded to the longest of them. Attention is a small part of the work and each group
    has a fixed cost, so up to 64 tokens of padding are allowed, plus a quarter of the group's own tokens.
    """
    groups: list[slice] = []
    start = tokens = 0
    for index, length in enumerate(lengths):
        padding = (index - start + 1) * length - (tokens + length)
        if padding > 64 + (tokens + length) // 4:
            groups.append(slice(start, index))
            start, tokens = index, 0
        tokens += length
    return [*groups, slice(start, len(lengths))] if len(lengths) else []


class TokenBudget:
    """Tokens of one batch: halved when memory runs out, doubled again after enough batches that fitted."""

    def __init__(self, tokens: int) -> None:
        self.maximum = tokens
        self.tokens = tokens
        self.successes = 0  # batches since the budget last changed
        self.batches = 0  # that ever fitted

    def halve(self) -> None:
        """Record a batch that did not fit into memory."""
        self.tokens = max(1, self.tokens // 2)
        self.successes = 0

    def record_success(self) -> None:
        """Record a batch that fitted."""
        self.batches += 1
        self.successes += 1
        if self.tokens < self.maximum and self.successes >= BATCHES_UNTIL_DOUBLED:
            self.tokens = min(self.maximum, 2 * self.tokens)
            self.successes = 0


def positions_within(lengths: np.ndarray) -> np.ndarray:
    """Position of each token in its own sequence, for concatenated sequences of these lengths; int64 [T].

    Lengths 2 and 3 give [0, 1, 0, 1, 2].
    """
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)
