"""How good predicted click probabilities are: their order, their sharpness, and whether they mean what they say.

Plain NumPy. Rows are impressions; `labels` are 0 or 1, `weights` (all ones where left out) how much a row counts.
Equal scores are never put in an order: a tie counts half in AUC, and in NDCG as the mean over its orders.
"""

import numpy as np

from recsys.encoding.arrays import run_starts

SMALLEST = 1e-12
"""Probabilities are kept this far from 0 and 1 in logarithms."""

DEFAULT_BINS = 15


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Probability that a positive row scores above a negative one, ties counting half (Hanley and McNeil, 1982).

    All `[n]`. NaN where a class is missing.
    """
    values, _ = auc_by_group(scores, labels, np.zeros(len(labels), np.int64), weights)
    return float(values[0]) if len(values) else float("nan")


def auc_by_group(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUC within each group, and the group's weight, both `[distinct groups] float64` in rising order of the group.

    A group without positives or without negatives has no AUC: NaN. All arguments `[n]`.
    """
    scores, labels, weights = _checked(scores, labels, weights)
    order = np.lexsort((scores, groups))
    groups, scores = np.asarray(groups)[order], scores[order]
    positive = (labels * weights)[order]
    negative = weights[order] - positive
    starts = run_starts(groups, scores)
    ties = np.flatnonzero(starts)
    if len(ties) == 0:
        return np.zeros(0), np.zeros(0)
    up, down = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    firsts = np.flatnonzero(run_starts(groups[ties]))
    below = np.cumsum(down) - down
    below -= np.repeat(below[firsts], np.diff(np.append(firsts, len(ties))))
    won = np.add.reduceat(up * (below + 0.5 * down), firsts)
    ups, downs = np.add.reduceat(up, firsts), np.add.reduceat(down, firsts)
    pairs = ups * downs
    values = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return values, ups + downs


def grouped_auc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean of the groups' AUC weighted by their rows, groups of one class left out (GAUC, Zhu et al., 2017, eq. 1).

    With users as groups it asks whether each user's own list is ordered well: a score that only knows which users
    click a lot gets 0.5. NaN where no group has both classes.
    """
    values, mass = auc_by_group(scores, labels, groups, weights)
    there = ~np.isnan(values)
    return float(np.average(values[there], weights=mass[there])) if there.any() else float("nan")


def row_log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, `[n] float64`."""
    inside = np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1 - SMALLEST)
    return -np.where(np.asarray(labels) > 0, np.log(inside), np.log1p(-inside))


def log_loss(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean cross-entropy in nats; all `[n]`."""
    probabilities, labels, weights = _checked(probabilities, labels, weights)
    return float(np.average(row_log_losses(probabilities, labels), weights=weights))


def normalised_entropy(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Log loss divided by that of always predicting the rows' own mean (He et al., 2014, eq. 1): below 1 is useful.

    NaN where a class is missing.
    """
    _, _, mass = _checked(probabilities, labels, weights)
    return log_loss(probabilities, labels, weights) / entropy(float(np.average(labels, weights=mass)))


def entropy(rate: float) -> float:
    """Entropy in nats of a label that is positive with probability `rate`; NaN at 0 and 1."""
    if not 0 < rate < 1:
        return float("nan")
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def calibration_bins(
    probabilities: np.ndarray, bins: int = DEFAULT_BINS, equal: str = "mass", weights: np.ndarray | None = None
) -> np.ndarray:
    """The bin of each row, `[n] int64` in `[0, bins)`.

    `equal` is `width` (bins of 1 / bins on [0, 1]) or `mass` (bins of about the same weight). Equal probabilities share
    a bin, so a constant prediction has one.
    """
    probabilities, _, weights = _checked(probabilities, probabilities, weights)
    if equal == "width":
        return np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    if equal != "mass":
        raise ValueError(f"equal is '{equal}'; expected 'mass' or 'width'")
    values, inverse = np.unique(probabilities, return_inverse=True)
    mass = np.bincount(inverse, weights, minlength=len(values))
    middle = np.cumsum(mass) - 0.5 * mass
    return np.minimum((middle / mass.sum() * bins).astype(np.int64), bins - 1)[inverse]


def calibration_error(
    probabilities: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    bins: int = DEFAULT_BINS,
    equal: str = "mass",
) -> float:
    """Expected calibration error: mean over bins of |mean prediction - share of positives|, weighted by their rows.

    Naeini et al., 2015 (equal width); Nixon et al., 2019 (equal mass), which does not leave most bins empty where
    clicks are rare.
    """
    probabilities, labels, weights = _checked(probabilities, labels, weights)
    gaps = np.bincount(calibration_bins(probabilities, bins, equal, weights), weights * (probabilities - labels))
    return float(np.abs(gaps).sum() / weights.sum())


def calibration_error_by_chance(probabilities: np.ndarray, bins: int = DEFAULT_BINS, equal: str = "mass") -> float:
    """About the expected calibration error that perfect probabilities would show on so many rows, by chance alone.

    A bin's gap is then nearly normal with variance sum p (1 - p), whose mean absolute value is sqrt(2 / pi) deviations.
    """
    probabilities = np.asarray(probabilities, np.float64)
    spread = np.bincount(calibration_bins(probabilities, bins, equal), probabilities * (1 - probabilities))
    return float(np.sqrt(2 / np.pi * spread).sum() / len(probabilities))


def list_ndcg(scores: np.ndarray, labels: np.ndarray, lists: np.ndarray, k: int | None = None) -> np.ndarray:
    """NDCG of each shown list when its rows are ordered by score, `[distinct lists] float64`, lists in rising order.

    Gain 1 for a positive row, discount 1 / log2(1 + rank), only the first `k` ranks (all where None); rows of equal
    score share the mean of their ranks' discounts (McSherry and Najork, 2008). A list without positives has none: NaN.
    """
    scores, labels, _ = _checked(scores, labels, None)
    order = np.lexsort((-scores, lists))
    lists, scores, labels = np.asarray(lists)[order], scores[order], labels[order]
    opens = run_starts(lists)
    firsts = np.flatnonzero(opens)
    if len(firsts) == 0:
        return np.zeros(0)
    sizes = np.diff(np.append(firsts, len(lists)))
    rank = np.arange(len(lists)) - np.repeat(firsts, sizes)
    discount = np.where(rank < (len(lists) if k is None else k), 1 / np.log2(rank + 2), 0.0)
    ties = np.flatnonzero(run_starts(lists, scores))
    within = np.diff(np.append(ties, len(lists)))
    shared = np.repeat(np.add.reduceat(discount, ties) / within, within)
    gained = np.add.reduceat(labels * shared, firsts)
    hits = np.add.reduceat(labels, firsts)
    ideal = np.add.reduceat(np.where(rank < np.repeat(hits, sizes), discount, 0.0), firsts)
    return np.divide(gained, ideal, out=np.full(len(firsts), np.nan), where=ideal > 0)


def _checked(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All as float64 of one length; weights default to ones."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    if not scores.shape == labels.shape == weights.shape or scores.ndim != 1:
        raise ValueError(
            f"scores {scores.shape}, labels {labels.shape} and weights {weights.shape}; expected one length"
        )
    return scores, labels, weights
