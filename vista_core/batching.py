"""How many sequences go through the model at once."""

from collections.abc import Sequence

PADDING_SHARE = 32  # at most this fraction of a batch's budget is padding


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of `lengths` in batches of similar length, shortest first; every index is in one batch.

    Padded to its longest, a batch holds at most `token_budget` tokens, and at most a thirty-second of that as padding;
    a sequence longer than the budget is alone. Equal lengths keep their order.
    """
    batches: list[list[int]] = []
    tokens = 0  # true ones of the open batch
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padded = length * (len(batches[-1]) + 1) if batches else 0
        padding = padded - tokens - length
        if not batches or padded > token_budget or padding * PADDING_SHARE > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches
