"""Making logits into probabilities that mean what they say, learned on the validation part and stored with the model.

A calibration is plain data and a function of the logit, so that the exported ranker can apply it too
(`recsys.ranking.calibration_layer`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression

from recsys.encoding.arrays import run_starts
from recsys.errors import UserError

CalibrationKind = Literal["none", "platt", "isotonic"]

_NEWTON_STEPS = 100
_RIDGE = 1e-12
_TOLERANCE = 1e-10


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


@dataclass(frozen=True)
class Platt:
    """Probability = sigmoid(slope * logit + intercept). Order is kept while the slope is positive."""

    slope: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """`[n]` to `[n] float64`."""
        return sigmoid(self.slope * np.asarray(logits, np.float64) + self.intercept)


IDENTITY = Platt()
"""No calibration: the sigmoid of the logit."""


@dataclass(frozen=True)
class Isotonic:
    """A never falling function of the logit: straight between knots, constant beyond the first and the last one.

    `logits` rise strictly, `values` (probabilities) never fall. Rows of one step become ties: AUC may fall a little.
    """

    logits: tuple[float, ...]
    values: tuple[float, ...]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """`[n]` to `[n] float64`."""
        return np.interp(np.asarray(logits, np.float64), self.logits, self.values)


Calibration = Platt | Isotonic


def fit_calibration(
    kind: CalibrationKind, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Calibration:
    """The calibration of the wanted kind for logits and 0/1 labels `[n]`."""
    if kind == "none":
        return IDENTITY
    return fit_platt(logits, labels, weights) if kind == "platt" else fit_isotonic(logits, labels, weights)


def fit_platt(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Platt:
    """Logistic regression of the labels on the logit (Platt, 1999) by Newton's method with step halving.

    Lin, Lin and Weng, 2007. Targets are (positives + 1) / (positives + 2) and 1 / (negatives + 2) instead of 1 and 0,
    so that even logits that separate the labels have a finite answer. The slope is at least 0: logits that are worse
    than chance on these rows get the base rate, rather than their order turned. Raises ValueError where there are no
    rows.
    """
    logits, labels, weights = _rows(logits, labels, weights)
    positives = float(weights @ labels)
    negatives = float(weights.sum()) - positives
    targets = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones(len(logits))], axis=1)

    def loss(guess: np.ndarray) -> float:
        z = design @ guess
        return float(weights @ (np.logaddexp(0.0, z) - targets * z))

    base = np.log((positives + 1) / (negatives + 1))
    found = np.array([0.0, base])
    value = loss(found)
    for _ in range(_NEWTON_STEPS):
        likely = sigmoid(design @ found)
        gradient = design.T @ (weights * (likely - targets))
        if np.abs(gradient).max() <= _TOLERANCE * weights.sum():
            break
        curvature = design.T @ (design * (weights * likely * (1 - likely))[:, None])
        curvature += _RIDGE * max(1.0, float(np.trace(curvature))) * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while loss(found - size * step) > value and size > _TOLERANCE:
            size /= 2
        found = found - size * step
        value = loss(found)
    return Platt(float(found[0]), float(found[1])) if found[0] > 0.0 else Platt(0.0, float(base))


def fit_isotonic(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Isotonic:
    """The never falling step function of the logit with the least squared error (pool adjacent violators).

    Zadrozny and Elkan, 2002. Each step becomes two knots, its ends. Values keep 1 / (n + 2) away from 0 and 1, where a
    single surprise would cost an infinite log loss. Raises ValueError where there are no rows.
    """
    logits, labels, weights = _rows(logits, labels, weights)
    order = np.argsort(logits, kind="stable")
    ordered = logits[order]
    ties = np.flatnonzero(run_starts(ordered))
    mass = np.add.reduceat(weights[order], ties)
    means = np.add.reduceat((weights * labels)[order], ties) / mass
    pooled = isotonic_regression(means, weights=mass)
    edges = pooled.blocks  # where each step starts, and the end
    margin = 1 / (len(logits) + 2)
    values = np.clip(pooled.x[edges[:-1]], margin, 1 - margin)
    knots = ordered[ties]
    ends = np.stack([knots[edges[:-1]], knots[edges[1:] - 1]], axis=1).ravel()
    kept = run_starts(ends)  # a step of one logit has one end
    return Isotonic(tuple(ends[kept].tolist()), tuple(np.repeat(values, 2)[kept].tolist()))


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """As JSON holds it; floats keep every bit."""
    if isinstance(calibration, Platt):
        return {"kind": "platt", "slope": calibration.slope, "intercept": calibration.intercept}
    return {"kind": "isotonic", "logits": list(calibration.logits), "probabilities": list(calibration.values)}


def calibration_from_json(stored: Any, place: str = "calibration") -> Calibration:
    """The calibration that `calibration_to_json` stored; raises UserError naming `place` where it is none."""
    try:
        if stored["kind"] == "platt":
            return Platt(float(stored["slope"]), float(stored["intercept"]))
        if stored["kind"] == "isotonic":
            logits, values = np.array(stored["logits"], np.float64), np.array(stored["probabilities"], np.float64)
            rising = bool((np.diff(logits) > 0).all() and (np.diff(values) >= 0).all())
            if logits.shape == values.shape and logits.ndim == 1 and len(logits) and rising:
                return Isotonic(tuple(logits.tolist()), tuple(values.tolist()))
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f"{place}: no calibration: found {str(stored)[:100]}; expected kind 'platt' with slope and intercept, or "
        "'isotonic' with as many rising logits as never falling probabilities."
    )


def _rows(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float64 rows of positive weight."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    counted = weights > 0
    if not counted.any():
        raise ValueError("nothing to calibrate on: no rows, or none with a positive weight")
    return logits[counted], labels[counted], weights[counted]
