"""Metrics of predicted probabilities: oracles, what must not change them, and what must."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking import metrics
from tests.ranking import oracles

row = st.tuples(st.integers(0, 6), st.integers(0, 1), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 2))
rows = st.lists(row, min_size=1, max_size=14)


def columns(rows) -> tuple[np.ndarray, ...]:
    """Scores, labels, weights and groups."""
    scores, labels, weights, groups = (np.array(column) for column in zip(*rows, strict=True))
    return scores / 7, labels, weights, groups


@settings(max_examples=200, deadline=None)
@given(rows)
def test_auc_is_the_share_of_pairs(rows) -> None:
    scores, labels, weights, groups = columns(rows)
    np.testing.assert_allclose(metrics.auc(scores, labels, weights), oracles.auc(scores, labels, weights))
    values, mass = metrics.auc_by_group(scores, labels, groups, weights)
    parts = [groups == group for group in np.unique(groups)]
    expected = [oracles.auc(scores[part], labels[part], weights[part]) for part in parts]
    np.testing.assert_allclose(values, expected)
    np.testing.assert_allclose(mass, [weights[part].sum() for part in parts])
    there = ~np.isnan(expected)
    grouped = metrics.grouped_auc(scores, labels, groups, weights)
    if there.any():
        assert grouped == pytest.approx(np.average(np.array(expected)[there], weights=mass[there]))
    else:
        assert math.isnan(grouped)


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from([np.exp, np.cbrt, lambda s: 1000 * s - 3, lambda s: 1 / (1 + np.exp(-9 * s))]))
def test_auc_sees_only_the_order(rows, rising) -> None:
    scores, labels, weights, _ = columns(rows)
    before = metrics.auc(scores, labels, weights)
    np.testing.assert_allclose(metrics.auc(rising(scores), labels, weights), before)
    np.testing.assert_allclose(metrics.auc(-scores, labels, weights), 1 - before)
    np.testing.assert_allclose(metrics.auc(scores, 1 - labels, weights), 1 - before)


def test_a_weight_is_a_number_of_rows() -> None:
    rng = np.random.default_rng(3)
    probabilities, labels = rng.random(40).round(1) * 0.9 + 0.05, rng.integers(0, 2, 40)
    lists, counts = rng.integers(0, 6, 40), rng.integers(1, 4, 40)
    repeated = [np.repeat(array, counts) for array in (probabilities, labels)]
    for metric in (metrics.auc, metrics.log_loss, metrics.normalised_entropy, metrics.calibration_error):
        assert metric(probabilities, labels, counts) == pytest.approx(metric(*repeated))
    many = metrics.grouped_auc(*repeated, np.repeat(lists, counts))
    assert metrics.grouped_auc(probabilities, labels, lists, counts) == pytest.approx(many)


def test_grouped_auc_does_not_reward_knowing_who_clicks_a_lot() -> None:
    users = np.repeat(np.arange(50), 20)
    labels = np.tile(np.arange(20), 50) < np.repeat(np.arange(50) % 19 + 1, 20)
    rates = np.repeat(labels.reshape(50, 20).mean(axis=1), 20)
    assert metrics.auc(rates, labels) > 0.8
    assert metrics.grouped_auc(rates, labels, users) == pytest.approx(0.5)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_losses_and_calibration_are_their_oracles(rows) -> None:
    scores, labels, weights, _ = columns(rows)
    probabilities = 0.01 + 0.98 * scores
    loss = oracles.log_loss(probabilities, labels, weights)
    assert metrics.log_loss(probabilities, labels, weights) == pytest.approx(loss)
    rate = np.average(labels, weights=weights)
    if 0 < rate < 1:
        own = oracles.log_loss(np.full(len(labels), rate), labels, weights)
        assert metrics.normalised_entropy(probabilities, labels, weights) == pytest.approx(loss / own)
    else:
        assert math.isnan(metrics.normalised_entropy(probabilities, labels, weights))
    for bins in (1, 4, 15):
        expected = oracles.calibration_error(probabilities, labels, weights, bins)
        found = metrics.calibration_error(probabilities, labels, weights, bins, "width")
        assert found == pytest.approx(expected, abs=1e-12)


def test_log_loss_of_certain_mistakes_is_finite_and_of_certain_truth_nothing() -> None:
    assert metrics.log_loss(np.array([0.0, 1.0]), np.array([0, 1])) == pytest.approx(0, abs=1e-11)
    assert 20 < metrics.log_loss(np.array([1.0, 0.0]), np.array([0, 1])) < 30


def test_calibration_error_of_the_true_rate_is_chance_and_of_a_shift_the_shift() -> None:
    rng = np.random.default_rng(11)
    truth = rng.beta(2, 6, 40_000)
    labels = (rng.random(len(truth)) < truth).astype(int)
    for equal in ("mass", "width"):
        chance = metrics.calibration_error_by_chance(truth, equal=equal)
        assert metrics.calibration_error(truth, labels, equal=equal) < 1.6 * chance < 0.01
        assert metrics.calibration_error(truth + 0.05, labels, equal=equal) == pytest.approx(0.05, abs=3 * chance)
    found = []
    for _ in range(60):
        drawn = (rng.random(2000) < truth[:2000]).astype(int)
        found.append(metrics.calibration_error(truth[:2000], drawn))
    assert np.mean(found) == pytest.approx(metrics.calibration_error_by_chance(truth[:2000]), rel=0.06)


def test_a_bin_of_ties_is_where_their_middle_is_and_rows_weigh() -> None:
    mostly_high = np.repeat([0.1, 0.2], [1, 9])
    assert metrics.calibration_bins(mostly_high, 2).tolist() == [0] + [1] * 9
    assert metrics.calibration_bins(mostly_high[::-1], 2).tolist() == [1] * 9 + [0]
    weights = np.array([3.0, 1.0, 1.0, 1.0])
    assert metrics.calibration_bins(np.array([0.1, 0.2, 0.3, 0.4]), 2, weights=weights).tolist() == [0, 1, 1, 1]


def test_bins_of_equal_mass_hold_equal_rows_and_never_part_ties() -> None:
    rng = np.random.default_rng(5)
    assert set(np.bincount(metrics.calibration_bins(rng.random(1000), 10))) == {100}
    labels = np.arange(100) < 30  # in order: parted ties would see 0 and 1 apart
    assert metrics.calibration_error(np.full(100, 0.3), labels) == pytest.approx(0, abs=1e-12)
    assert metrics.calibration_bins(np.array([0.0, 1.0]), 4, "width").tolist() == [0, 3]
    with pytest.raises(ValueError, match="'mass' or 'width'"):
        metrics.calibration_bins(np.zeros(2), 2, "depth")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6), st.integers(1, 7))
def test_ndcg_is_the_mean_over_the_orders_of_ties(rows, k) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = metrics.list_ndcg(scores, labels, np.zeros(len(rows), int), k)
    np.testing.assert_allclose(found, [oracles.expected_ndcg(scores, labels, k)])


def test_ndcg_is_of_each_list_on_its_own() -> None:
    rng = np.random.default_rng(2)
    lists = rng.integers(0, 30, 200)
    scores, labels = rng.random(200), rng.integers(0, 2, 200)
    values = metrics.list_ndcg(scores, labels, lists)
    for place, number in enumerate(np.unique(lists)):
        part = lists == number
        np.testing.assert_allclose(values[place], metrics.list_ndcg(scores[part], labels[part], lists[part])[0])
    np.testing.assert_allclose(metrics.list_ndcg(labels, labels, lists), np.where(np.isnan(values), np.nan, 1.0))


def test_nothing_gives_nothing_and_lengths_must_agree() -> None:
    none = np.zeros(0)
    assert math.isnan(metrics.auc(none, none))
    assert math.isnan(metrics.grouped_auc(none, none, none))
    assert metrics.list_ndcg(none, none, none).shape == (0,)
    with pytest.raises(ValueError, match="expected one length"):
        metrics.auc(np.zeros(3), np.zeros(2))
