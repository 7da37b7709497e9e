"""Intervals cover the truth as often as they say, and differences are found where there are some."""

import numpy as np
import pytest

from pipelines.quality.intervals import difference, interval_of


def test_an_interval_covers_the_true_mean():
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        found = interval_of((random.random(120) < 0.3).astype(float), seed)
        covered += found.low <= 0.3 <= found.high
    assert 178 <= covered <= 200  # 95 %, of 200, within three standard deviations


def test_the_same_values_have_the_same_interval():
    values = np.random.default_rng(2).random(50)
    assert interval_of(values) == interval_of(values)
    assert interval_of(values).low < values.mean() < interval_of(values).high


def test_one_query_has_an_interval_without_width():
    found = interval_of(np.array([0.5]))
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_no_query_is_an_error():
    with pytest.raises(ValueError, match="no queries"):
        interval_of(np.array([]))


def test_a_real_difference_is_significant():
    random = np.random.default_rng(3)
    first = random.random(300)
    found = difference(first, np.clip(first + 0.05, 0, 1))
    assert found.is_significant and found.p_value < 0.001
    assert found.interval.low > 0.03
    assert found.won + found.lost + found.tied == 300 and found.lost == 0


def test_noise_is_not_significant():
    random = np.random.default_rng(4)
    significant = sum(difference(random.random(80), random.random(80), seed).p_value < 0.05 for seed in range(60))
    assert significant <= 9  # 5 % of 60 are 3


def test_a_system_beside_itself():
    values = np.random.default_rng(5).random(40)
    found = difference(values, values)
    assert (found.won, found.lost, found.tied, found.p_value) == (0, 0, 40, 1.0)
    assert not found.is_significant
