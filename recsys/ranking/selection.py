"""Sets of values: what a search kept, the controls beside it, and the choice among several searches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SET_LABELS = {
    "backbone": "all values",
    "search": "OptFS",
    "frequency": "most frequent values",
    "random": "random values",
    "field": "whole fields",
}
"""Names of sets of values for people."""


@dataclass(frozen=True)
class Candidate:
    """One search's result: which values were kept, as a share of those seen, and the AUC of training on them."""

    kappa: float
    kept_ratio: float
    auc: float


def choose(candidates: Sequence[Candidate], tolerance: float) -> int:
    """The knee of ratio against AUC: the place of the smallest set whose AUC is within `tolerance` of the best one."""
    best = max(one.auc for one in candidates)
    near = [place for place, one in enumerate(candidates) if one.auc >= best - tolerance]
    return min(near, key=lambda place: (candidates[place].kept_ratio, -candidates[place].auc))


def most_frequent(counts: np.ndarray, allowed: np.ndarray, size: int) -> np.ndarray:
    """The `size` most frequent of the `allowed` rows, `[rows] bool`; the earlier row of two alike."""
    order = np.argsort(-np.where(allowed, counts, -1), kind="stable")
    return _mask(order[:size], len(counts)) & allowed


def at_random(allowed: np.ndarray, size: int, seed: int) -> np.ndarray:
    """`size` of the `allowed` rows at random, `[rows] bool`."""
    places = np.random.default_rng(seed).permutation(np.flatnonzero(allowed))
    return _mask(places[:size], len(allowed))


def as_logits(kept: np.ndarray) -> np.ndarray:
    """Gate logits that keep exactly `kept`, `[rows] float32`."""
    return np.where(kept, 1.0, -1.0).astype(np.float32)


def _mask(places: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[places] = True
    return mask
