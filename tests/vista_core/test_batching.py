from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vista_core import plan_batches
from vista_core.batching import PADDING_SHARE

LENGTHS = st.lists(st.integers(1, 600), max_size=200)
BUDGETS = st.integers(1, 5000)


@given(LENGTHS, BUDGETS)
def test_every_index_is_in_one_batch(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, BUDGETS)
def test_a_padded_batch_fits_the_budget_and_holds_little_padding(lengths, budget):
    for batch in plan_batches(lengths, budget):
        longest, tokens = max(lengths[i] for i in batch), sum(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert (longest * len(batch) - tokens) * PADDING_SHARE <= budget


@given(LENGTHS, BUDGETS)
def test_no_two_neighbours_could_be_one(lengths, budget):
    batches = plan_batches(lengths, budget)
    for batch, following in pairwise(batches):
        grown = [*batch, following[0]]
        longest, tokens = max(lengths[i] for i in grown), sum(lengths[i] for i in grown)
        assert longest * len(grown) > budget or (longest * len(grown) - tokens) * PADDING_SHARE > budget


@given(LENGTHS, BUDGETS)
def test_lengths_rise_and_equal_ones_keep_their_order(lengths, budget):
    order = [index for batch in plan_batches(lengths, budget) for index in batch]
    assert order == sorted(order, key=lambda index: (lengths[index], index))


def test_equal_lengths_fill_the_budget():
    assert [len(batch) for batch in plan_batches([32] * 100, 1024)] == [32, 32, 32, 4]


def test_nothing_to_plan():
    assert plan_batches([], 100) == []
