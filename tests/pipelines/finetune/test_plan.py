"""Which pairs a step trains with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.finetune.plan import Plan, rate_at

PLANS = st.builds(
    Plan,
    st.lists(st.integers(1, 400), min_size=1, max_size=4).map(tuple),
    batch=st.integers(1, 70),
    seed=st.integers(0, 9),
    held_out=st.integers(0, 20),
)


@given(PLANS)
def test_an_epoch_has_no_pair_twice_and_leaves_only_the_rest_of_a_batch(plan):
    seen = [set[int]() for _ in plan.counts]
    for step in range(plan.steps_per_epoch):
        batch = plan.of(step)
        rows = set(batch.rows.tolist())
        assert 0 < len(rows) == len(batch.rows) <= plan.batch
        assert not rows & seen[batch.task]
        seen[batch.task] |= rows
    for count, held_out, rows in zip(plan.counts, plan.validation, seen, strict=True):
        assert not rows & set(held_out.tolist())
        assert max(rows) < count
        assert len(rows) + len(held_out) > count - plan.batch


@given(PLANS, st.integers(0, 300))
def test_a_step_has_the_same_batch_whenever_it_is_asked_for(plan, step):
    again = Plan(plan.counts, plan.batch, plan.seed, plan.held_out)
    assert (plan.of(step).task, plan.of(step).rows.tolist()) == (again.of(step).task, again.of(step).rows.tolist())
    counts = [3] * len(plan.of(step).rows)
    drawn = [each.tolist() for each in plan.draw_negatives(plan.of(step), counts, 2)]
    assert drawn == [each.tolist() for each in again.draw_negatives(plan.of(step), counts, 2)]


@given(PLANS)
def test_at_most_1_in_20_pairs_is_held_out(plan):
    for count, held_out in zip(plan.counts, plan.validation, strict=True):
        assert len(held_out) == min(plan.held_out, count // 20)


def test_epochs_differ_and_mix_the_tasks():
    plan = Plan((1000, 600), batch=100, seed=0, held_out=0)
    first, second = ([plan.of(step) for step in range(at, at + 16)] for at in (0, 16))
    assert [each.rows.tolist() for each in first] != [each.rows.tolist() for each in second]
    for epoch in (first, second):
        tasks = [each.task for each in epoch]
        assert sorted(tasks) == [0] * 10 + [1] * 6
        assert tasks != sorted(tasks)


def test_a_task_that_is_repeated_has_its_pairs_as_often():
    plan = Plan((300, 60), batch=30, seed=0, held_out=0, repeats=(1, 4))
    epoch = [plan.of(step) for step in range(plan.steps_per_epoch)]
    seen = np.concatenate([each.rows for each in epoch if each.task == 1])
    assert np.bincount(seen).tolist() == [4] * 60
    assert all(len(set(each.rows.tolist())) == 30 for each in epoch)
    assert sum(each.task == 0 for each in epoch) == 10


def test_a_task_that_is_left_out_has_no_batch():
    plan = Plan((300, 60), batch=30, seed=0, held_out=0, repeats=(0, 1))
    assert {plan.of(step).task for step in range(5)} == {1}
    assert plan.steps(epochs=1) == 2


def test_hard_negatives_are_drawn_without_repetition():
    plan = Plan((100,), batch=4, seed=0)
    drawn = plan.draw_negatives(plan.of(0), [5, 2, 0, 9], 3)
    assert [len(set(each.tolist())) for each in drawn] == [3, 2, 0, 3]
    assert all((each < count).all() for each, count in zip(drawn, [5, 2, 0, 9], strict=True))
    other = plan.draw_negatives(plan.of(1), [5, 2, 0, 9], 3)
    assert [each.tolist() for each in drawn] != [each.tolist() for each in other]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_rises_and_falls(schedule):
    rates = [rate_at(progress, 0.1, schedule) for progress in np.linspace(0, 1, 101)]
    assert rates[0] == 0 and rates[10] == pytest.approx(1) and rates[100] == pytest.approx(0, abs=1e-9)
    assert np.diff(rates[:11]).min() > 0 > np.diff(rates[10:]).max()
    assert rate_at(0.0, 0.0, schedule) == pytest.approx(1)
