"""Scores against cases that were computed by hand, and the baseline of chance against all permutations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.quality.metrics import CUTS, METRICS, chance, scores_of, subset_recall


def one(grades: dict[str, int], found: list[str]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in scores_of({"q": grades}, {"q": found}).items()}


def test_scores_of_a_case_computed_by_hand():
    scores = one({"a": 1, "b": 1, "c": 1, "never": 0}, ["x", "a", "y", "b", "never"])
    assert scores["recall@1"] == 0 and scores["hit_rate@1"] == 0
    assert scores["recall@3"] == pytest.approx(1 / 3) and scores["hit_rate@3"] == 1
    assert scores["recall@5"] == scores["recall@100"] == pytest.approx(2 / 3)
    assert scores["mrr@10"] == 0.5
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal, abs=1e-12)
    assert set(scores) == set(METRICS)


def test_grades_count_in_ndcg_alone():
    scores = one({"a": 3, "b": 1}, ["b", "a"])
    assert scores["ndcg@10"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), abs=1e-12)
    assert scores["recall@1"] == 0.5 and scores["hit_rate@1"] == 1


def test_the_order_is_that_of_the_list():
    # Whatever the ids are: trec_eval would order equal scores by them.
    documents = [f"d{number:03}" for number in range(120)]
    assert one({"d010": 1}, documents)["mrr@10"] == 0  # rank 11
    assert one({"d009": 1}, documents)["mrr@10"] == pytest.approx(0.1)
    assert one({"d099": 1}, documents)["recall@100"] == 1
    assert one({"d100": 1}, documents)["recall@100"] == 0


def test_a_query_that_finds_nothing_scores_0():
    found = scores_of({"q": {"a": 1}, "r": {"a": 1}}, {"q": [], "r": ["a"]})
    assert all(values.tolist() == [0, 1] for values in found.values())


def test_more_queries_than_are_scored_at_once_keep_their_order():
    grades = {f"q{number}": {"a": 1} for number in range(2_500)}
    found = {query: ["a"] if number % 3 else ["x", "a"] for number, query in enumerate(grades)}
    expected = [1.0 if number % 3 else 0.5 for number in range(2_500)]
    assert scores_of(grades, found)["mrr@10"].tolist() == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_chance_is_the_mean_over_all_rankings(others, gains):
    grades = {f"r{number}": gain for number, gain in enumerate(gains[: 7 - others])}
    documents = [*grades, *(f"o{number}" for number in range(others))]
    orders = list(itertools.permutations(documents)) if len(documents) <= 6 else None
    if orders is None:
        documents = documents[:6]
        grades = {key: gain for key, gain in grades.items() if key in documents}
        orders = list(itertools.permutations(documents))
    every = {str(number): grades for number in range(len(orders))}
    scores = scores_of(every, {str(number): list(order) for number, order in enumerate(orders)})
    expected = chance({"q": grades}, ["q"], len(documents))
    for name in METRICS:
        assert scores[name].mean() == pytest.approx(expected[name][0], abs=1e-9), name


def test_chance_in_a_large_corpus():
    found = chance({"q": {"a": 1, "b": 1}}, ["q"], 1_000_000)
    assert found["recall@10"][0] == pytest.approx(1e-5)
    assert found["hit_rate@10"][0] == pytest.approx(2e-5, rel=1e-4)


def test_recall_in_a_subset():
    grades = {"q": {"a": 1, "b": 1}, "r": {"c": 1}}
    found = subset_recall(grades, {"q": ["x", "a", "b"], "r": ["c"]}, (1, 2, 3))
    assert {name: values.tolist() for name, values in found.items()} == {
        "recall_subset@1": [0, 1],
        "recall_subset@2": [0.5, 1],
        "recall_subset@3": [1, 1],
    }


def test_cuts_are_those_that_are_promised():
    assert CUTS == (1, 3, 5, 10, 20, 100)
    assert {f"recall@{k}" for k in CUTS} | {f"hit_rate@{k}" for k in CUTS} | {"ndcg@10", "mrr@10"} == set(METRICS)
    assert np.all(np.isfinite([value[0] for value in chance({"q": {"a": 1}}, ["q"], 3).values()]))
