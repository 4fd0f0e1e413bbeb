"""Calibration: planted parameters are found, what it was learned on is calibrated, stored and in TensorFlow alike."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import UserError
from recsys.ranking import calibration, metrics
from recsys.ranking.calibration import Isotonic, Platt, fit_calibration, fit_isotonic, fit_platt, sigmoid
from tests.ranking import oracles


def planted(slope: float, intercept: float, rows: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels whose log-odds are slope * logit + intercept."""
    rng = np.random.default_rng(17)
    logits = rng.normal(-1, 2, rows)
    return logits, (rng.random(rows) < sigmoid(slope * logits + intercept)).astype(np.int8)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.5), (2.5, 1.0)])
def test_platt_finds_what_was_planted(slope: float, intercept: float) -> None:
    found = fit_platt(*planted(slope, intercept))
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), abs=0.03)


def test_platt_never_turns_the_order() -> None:
    """Of logits that are worse than chance nothing is left but the base rate."""
    logits, labels = planted(-0.7, 0.3)
    found = fit_platt(logits, labels)
    assert found.slope == 0.0
    np.testing.assert_allclose(found.probabilities(logits), labels.mean(), atol=1e-4)


def test_platt_is_the_optimum_of_its_loss() -> None:
    logits, labels = planted(0.6, -1.0, 500)
    weights = np.random.default_rng(1).integers(1, 4, 500)
    found = fit_platt(logits, labels, weights)
    positives = weights @ labels
    negatives = weights.sum() - positives
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(slope: float, intercept: float) -> float:
        p = sigmoid(slope * logits + intercept)
        return float(-(weights * (targets * np.log(p) + (1 - targets) * np.log(1 - p))).sum())

    best = loss(found.slope, found.intercept)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(found.slope + da, found.intercept + db) > best
    repeated = fit_platt(np.repeat(logits, weights), np.repeat(labels, weights))
    assert (found.slope, found.intercept) == pytest.approx((repeated.slope, repeated.intercept))


def test_platt_of_what_has_no_finite_optimum_is_finite() -> None:
    separated = fit_platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert 0 < separated.slope < 10
    constant = fit_platt(np.zeros(100), np.arange(100) < 20)
    assert constant.probabilities(np.zeros(1))[0] == pytest.approx(0.2, abs=0.01)
    one_class = fit_platt(np.linspace(-1, 1, 50), np.zeros(50))
    assert one_class.probabilities(np.array([0.0]))[0] < 0.05
    stray = np.append(np.linspace(-15, 25, 28), [687.0, -103.0])  # a full Newton step runs away to a slope of -500,000
    assert 0 < fit_platt(stray, np.isin(np.arange(30), [25, 28])).slope < 0.1
    extreme = fit_platt(np.linspace(-500, 500, 2001), np.linspace(-500, 500, 2001) > 3)
    assert np.isfinite([extreme.slope, extreme.intercept]).all()


weighted = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(0, 1), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=30
)


@settings(max_examples=150, deadline=None)
@given(weighted)
def test_isotonic_is_pool_adjacent_violators_and_calibrated_on_its_own_data(rows) -> None:
    logits, labels, weights = (np.array(column, float) for column in zip(*rows, strict=True))
    found = fit_isotonic(logits, labels, weights)
    assert (np.diff(found.logits) > 0).all()
    assert (np.diff(found.values) >= 0).all()
    distinct, inverse = np.unique(logits, return_inverse=True)
    mass = np.bincount(inverse, weights)
    means = np.bincount(inverse, weights * labels) / mass
    margin = 1 / (len(logits) + 2)
    expected = np.clip(oracles.isotonic(means, mass), margin, 1 - margin)
    np.testing.assert_allclose(found.probabilities(distinct), expected, atol=1e-9)
    own = found.probabilities(logits)
    for value in np.unique(own.round(9)):
        part = own.round(9) == value
        assert np.average(labels[part], weights=weights[part]) == pytest.approx(value, abs=margin + 1e-9)


def test_isotonic_between_and_beyond_its_knots() -> None:
    logits = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    found = fit_isotonic(np.tile(logits, 100), np.tile([0, 0, 0, 1, 1, 1], 100))
    assert (found.logits, len(found.values)) == ((0.0, 2.0, 3.0, 5.0), 4)
    low, high = found.values[0], found.values[-1]
    assert 0 < low < 0.01 < 0.99 < high < 1
    np.testing.assert_allclose(found.probabilities(np.array([-9, 2.5, 99])), [low, (low + high) / 2, high])


def test_each_repairs_what_it_can_on_rows_it_has_not_seen() -> None:
    rng = np.random.default_rng(23)
    logits = rng.normal(-1, 1.5, 60_000)
    bent = sigmoid(np.where(logits > 0, 0.2 * logits, 1.5 * logits))  # no line: Platt cannot follow
    labels = (rng.random(len(bent)) < bent).astype(int)
    seen, unseen = slice(0, 30_000), slice(30_000, None)
    error = {}
    for kind in ("none", "platt", "isotonic"):
        fitted = fit_calibration(kind, logits[seen], labels[seen])
        error[kind] = metrics.calibration_error(fitted.probabilities(logits[unseen]), labels[unseen])
    assert error["isotonic"] < 0.6 * error["platt"] < 0.6 * error["none"]
    assert error["isotonic"] < 3 * metrics.calibration_error_by_chance(bent[unseen])


@pytest.mark.parametrize("fitted", [Platt(0.7, -1.25), Isotonic((-1.5, 0.25, 0.75, 3.0), (0.1, 0.1, 0.4, 0.9))])
def test_stored_and_in_tensorflow_it_is_the_same_function(fitted) -> None:
    from recsys._tensorflow import tf
    from recsys.ranking.calibration_layer import apply_calibration

    assert calibration.calibration_from_json(json.loads(json.dumps(calibration.calibration_to_json(fitted)))) == fitted
    logits = np.append(np.linspace(-6, 6, 97), [-1.5, 0.25, 0.75, 3.0]).astype(np.float32)
    graph = tf.function(lambda z: apply_calibration(fitted, z))
    np.testing.assert_allclose(graph(tf.constant(logits)).numpy(), fitted.probabilities(logits), atol=1e-6)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        {"kind": "beta"},
        {"kind": "platt", "slope": "steep", "intercept": 0},
        {"kind": "isotonic", "logits": [0, 1], "probabilities": [0.5]},
        {"kind": "isotonic", "logits": [1, 0], "probabilities": [0.1, 0.2]},
        {"kind": "isotonic", "logits": [0, 1], "probabilities": [0.2, 0.1]},
        {"kind": "isotonic", "logits": [], "probabilities": []},
    ],
)
def test_a_damaged_calibration_says_where(stored) -> None:
    with pytest.raises(UserError, match=r"ranker/calibration\.json: no calibration"):
        calibration.calibration_from_json(stored, "ranker/calibration.json")


def test_nothing_to_calibrate_on() -> None:
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(ValueError, match="nothing to calibrate on"):
            fit(np.zeros(2), np.zeros(2), np.zeros(2))
