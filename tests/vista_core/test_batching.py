import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vista_core import plan_batches
from vista_core.batching import BATCHES_UNTIL_DOUBLED, TokenBudget, plan_groups, positions_within

LENGTHS = st.lists(st.integers(1, 600), max_size=200)
BUDGETS = st.integers(1, 5000)


@given(LENGTHS, BUDGETS)
def test_every_index_is_in_exactly_one_batch(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, BUDGETS)
def test_a_batch_fits_the_budget(lengths, budget):
    for batch in plan_batches(lengths, budget):
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(240, 5000))
def test_batches_are_few_and_even(lengths, budget):
    batches, total = plan_batches(lengths, budget), sum(lengths)
    assert len(batches) <= math.ceil(total / budget) * budget / (budget - 60) + 1
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 2 * 60 or len(batches) > math.ceil(total / budget)


@given(LENGTHS, BUDGETS)
def test_lengths_are_ascending_and_equal_ones_keep_their_order(lengths, budget):
    order = [index for batch in plan_batches(lengths, budget) for index in batch]
    assert order == sorted(order, key=lambda index: (lengths[index], index))


def test_equal_lengths_share_the_budget_evenly():
    assert [len(batch) for batch in plan_batches([32] * 100, 1024)] == [25, 25, 25, 25]


def test_no_sequences_give_no_batches():
    assert plan_batches([], 100) == []


@given(st.lists(st.integers(1, 600), max_size=200))
def test_groups_are_consecutive_with_little_padding(lengths):
    lengths.sort()
    groups = plan_groups(lengths)
    assert [index for group in groups for index in range(group.start, group.stop)] == list(range(len(lengths)))
    for group in groups:
        mine = lengths[group]
        assert max(mine) * len(mine) - sum(mine) <= 64 + sum(mine) // 4


def test_a_budget_is_halved_and_recovers():
    budget = TokenBudget(1000)
    budget.halve()
    budget.halve()
    assert budget.tokens == 250
    assert budget.batches == 0
    for expected in (500, 1000, 1000):
        for _ in range(BATCHES_UNTIL_DOUBLED):
            budget.record_success()
        assert budget.tokens == expected
    assert budget.batches == 3 * BATCHES_UNTIL_DOUBLED


def test_a_budget_is_never_below_one_token():
    budget = TokenBudget(3)
    for _ in range(5):
        budget.halve()
    assert budget.tokens == 1


def test_positions_start_at_zero_in_each_sequence():
    assert positions_within(np.array([2, 3, 1])).tolist() == [0, 1, 0, 1, 2, 0]
