"""From predicted probabilities to figures, with intervals over resampled users."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.encoding.arrays import run_starts
from recsys.evaluation.bootstrap import BLOCK_USERS, Resamples, interval
from recsys.ranking.metrics import (
    auc,
    auc_by_group,
    calibration_bins,
    calibration_error,
    calibration_error_by_chance,
    entropy,
    list_ndcg,
    row_log_losses,
)

BLOCK_WEIGHTS = 1 << 22
METRICS = ("auc", "gauc", "log_loss", "normalised_entropy", "ndcg", "predicted_over_observed")
"""Figures with an interval. The calibration error has none: resampling adds noise to every bin and so only raises it;
beside it stands what chance alone would show."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Impressions and what a ranker said of them; all `[n]`.

    `labels` 0 or 1, `users` rows of the users table (int64), `probabilities` float64, `times` int64 ms or None where
    the data has none, `lists` int64: the same number for what was shown together, or None.
    """

    labels: np.ndarray
    users: np.ndarray
    probabilities: np.ndarray
    times: np.ndarray | None = None
    lists: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: np.ndarray) -> "Shown":
        """The impressions of a `[n] bool` mask."""
        return replace(
            self,
            labels=self.labels[mask],
            users=self.users[mask],
            probabilities=self.probabilities[mask],
            times=None if self.times is None else self.times[mask],
            lists=None if self.lists is None else self.lists[mask],
        )


def measure_shown(shown: Shown, *, resamples: int = 0, confidence: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """All figures of some impressions, JSON-able.

    `rows`, `positives`, `users`; each of METRICS as `{"value", "low", "high"}` (bounds only with resamples); and
    `calibration_error` as `{"value", "equal_width", "by_chance"}`. A figure that these rows do not have (a class is
    missing, no lists were shown) is left out.
    """
    labels, probabilities = shown.labels, shown.probabilities
    figures: dict[str, Any] = {
        "rows": len(shown),
        "positives": int(labels.sum()),
        "users": len(np.unique(shown.users)),
    }
    if len(shown) == 0:
        return figures
    sums = _sums_by_user(shown)
    values = {"auc": auc(probabilities, labels)} | {
        name: float(value[0]) for name, value in _ratios(sums.sum(axis=0, keepdims=True)).items()
    }
    bounds: dict[str, tuple[float, float]] = {}
    if resamples:
        draws = Resamples.make(shown.users, resamples, seed)
        drawn = _ratios(_drawn(draws, sums)) | {"auc": auc_replicates(probabilities, labels, draws)}
        for name, replicates in drawn.items():
            if np.isfinite(replicates).any():
                low, high = interval(replicates[:, None], confidence)
                bounds[name] = (float(low[0]), float(high[0]))
    for name in METRICS:
        if np.isfinite(values[name]):
            figures[name] = {"value": values[name]}
            if name in bounds:
                figures[name] |= dict(zip(("low", "high"), bounds[name], strict=True))
    figures["calibration_error"] = {
        "value": calibration_error(probabilities, labels),
        "equal_width": calibration_error(probabilities, labels, equal="width"),
        "by_chance": calibration_error_by_chance(probabilities),
    }
    return figures


def reliability(shown: Shown, bins: int = 15, equal: str = "mass") -> list[dict[str, float]]:
    """The reliability curve: for each bin that has rows, `rows`, mean `predicted`, share `observed`, and `low` and
    `high`, the 95 % Wilson interval of that share (impressions taken as independent)."""
    numbers = calibration_bins(shown.probabilities, bins, equal)
    rows = np.bincount(numbers, minlength=bins)
    there = np.flatnonzero(rows)
    rows = rows[there]
    predicted = np.bincount(numbers, shown.probabilities, bins)[there] / rows
    observed = np.bincount(numbers, shown.labels, bins)[there] / rows
    z = 1.96
    middle = (observed + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * np.sqrt(observed * (1 - observed) / rows + z * z / (4 * rows * rows))
    names = ("rows", "predicted", "observed", "low", "high")
    columns = (rows, predicted, observed, np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0))
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def auc_replicates(scores: np.ndarray, labels: np.ndarray, draws: Resamples) -> np.ndarray:
    """AUC of each resample, `[resamples] float64`; NaN where it lacks a class. `scores` and `labels` `[n]`."""
    order = np.argsort(scores, kind="stable")
    owner, positive = draws.owner[order], np.asarray(labels)[order] > 0
    ties = np.flatnonzero(run_starts(np.asarray(scores)[order]))
    found = np.empty(len(draws.draws))
    size = max(1, BLOCK_WEIGHTS // len(order))
    for first in range(0, len(found), size):
        weights = draws.draws[first : first + size, owner].astype(np.float64)
        up = np.add.reduceat(np.where(positive, weights, 0.0), ties, axis=1)
        down = np.add.reduceat(np.where(positive, 0.0, weights), ties, axis=1)
        below = np.cumsum(down, axis=1)
        pairs = up.sum(axis=1) * below[:, -1]
        won = (up * (below - 0.5 * down)).sum(axis=1)
        found[first : first + size] = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return found


_COLUMNS = ("rows", "labels", "probabilities", "losses", "auc_mass", "auc", "lists", "ndcg")


def _sums_by_user(shown: Shown) -> np.ndarray:
    """Of each user, in rising order, the sums that all figures but AUC are ratios of: `[users, columns] float64`."""
    _, owner = np.unique(shown.users, return_inverse=True)
    count = int(owner.max()) + 1
    values, mass = auc_by_group(shown.probabilities, shown.labels, owner)
    mass = np.where(np.isnan(values), 0.0, mass)
    lists: np.ndarray = np.zeros(count)
    ndcg: np.ndarray = np.zeros(count)
    if shown.lists is not None:
        gained = list_ndcg(shown.probabilities, shown.labels, shown.lists)
        _, firsts = np.unique(shown.lists, return_index=True)
        there = ~np.isnan(gained)
        lists = np.bincount(owner[firsts[there]], minlength=count)
        ndcg = np.bincount(owner[firsts[there]], gained[there], minlength=count)
    rows = [
        np.bincount(owner, weights, minlength=count)
        for weights in (None, shown.labels, shown.probabilities, row_log_losses(shown.probabilities, shown.labels))
    ]
    return np.column_stack([*rows, mass, np.nan_to_num(values) * mass, lists, ndcg])


def _drawn(draws: Resamples, sums: np.ndarray) -> np.ndarray:
    """The sums of each resample, `[resamples, columns]`."""
    total = np.zeros((len(draws.draws), sums.shape[1]))
    for first in range(0, len(sums), BLOCK_USERS):
        part = slice(first, first + BLOCK_USERS)
        total += draws.draws[:, part].astype(np.float64) @ sums[part]
    return total


def _ratios(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of rows of sums `[r, columns]`, NaN where there are none."""
    column = dict(zip(_COLUMNS, sums.T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = column["labels"] / column["rows"]
        loss = column["losses"] / column["rows"]
        return {
            "gauc": column["auc"] / column["auc_mass"],
            "log_loss": loss,
            "normalised_entropy": loss / np.array([entropy(rate) for rate in rates]),
            "ndcg": column["ndcg"] / column["lists"],
            "predicted_over_observed": column["probabilities"]
            / np.where(column["labels"] > 0, column["labels"], np.nan),
        }
