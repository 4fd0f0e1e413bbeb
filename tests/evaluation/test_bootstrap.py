"""Intervals: the right width, users together, the same resamples for all."""

import numpy as np
import pytest

from recsys.evaluation.bootstrap import Resamples, interval


def test_means_are_weighted_sums_by_user() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 7, 40) * 10
    values = rng.normal(size=(40, 3))
    values[rng.random((40, 3)) < 0.3] = np.nan
    resamples = Resamples.make(users, 25, seed=1)
    distinct = np.unique(users)
    means = resamples.means(values)
    for row in range(25):
        weights = np.array([resamples.draws[row, list(distinct).index(user)] for user in users], float)
        for column in range(3):
            there = ~np.isnan(values[:, column])
            expected = (weights * np.nan_to_num(values[:, column]))[there].sum() / weights[there].sum()
            assert means[row, column] == pytest.approx(expected)


def test_the_interval_of_a_mean_has_the_textbook_width() -> None:
    values = np.random.default_rng(1).normal(size=(2000, 1))
    low, high = interval(Resamples.make(np.arange(2000), 2000, seed=2).means(values), 0.95)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (high - low)[0] / 2 == pytest.approx(half, rel=0.1)
    assert low[0] < values.mean() < high[0]


def test_repeating_each_users_queries_does_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).normal(size=(300, 1))
    once = interval(Resamples.make(np.arange(300), 1000, seed=3).means(values), 0.9)
    users = np.repeat(np.arange(300), 20)
    often = interval(Resamples.make(users, 1000, seed=3).means(np.repeat(values, 20, axis=0)), 0.9)
    np.testing.assert_allclose(once, often)


def test_higher_confidence_is_wider_and_the_seed_decides() -> None:
    values = np.random.default_rng(3).normal(size=(100, 1))
    make = lambda seed: Resamples.make(np.arange(100), 500, seed).means(values)  # noqa: E731
    narrow, wide = interval(make(1), 0.5), interval(make(1), 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    np.testing.assert_array_equal(make(1), make(1))
    assert not np.array_equal(make(1), make(2))
