"""From recommendations to numbers: every metric in every slice, with intervals."""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.bootstrap import Resamples, interval
from recsys.evaluation.metrics import coverage, find_hits, mean_popularity, novelty, per_query
from recsys.evaluation.slices import ITEM_SLICES, OVERALL


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What all models are measured with: targets by slice, training `counts` and popularity `classes` of the
    catalogue, cut-offs `ks`, resamples of users (None: no intervals) and the intervals' confidence."""

    slices: dict[str, tuple[np.ndarray, np.ndarray]]
    counts: np.ndarray
    classes: np.ndarray
    ks: tuple[int, ...]
    resamples: Resamples | None
    confidence: float


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of one model, JSON-able, and the mean of each overall metric in each resample (for differences)."""

    figures: dict
    replicates: dict[str, np.ndarray]


def measure(recommended: np.ndarray, yardstick: Yardstick) -> Measured:
    """All figures of one model's recommendations `[n, max(ks)] int64`.

    `slices[slice]` has `queries` (those with a target in the slice), `targets` and, for each metric, `value` with
    `low` and `high`; `catalogue` has coverage, novelty (bits) and mean popularity by cut-off; `exposure` the share of
    recommendations by popularity class at the largest cut-off; `curve` recall at every rank.
    """
    slices: dict[str, dict] = {}
    replicates: dict[str, np.ndarray] = {}
    for name, (offsets, columns) in yardstick.slices.items():
        count = int((np.diff(offsets) > 0).sum())
        if count == 0:
            slices[name] = {"queries": 0}
            continue
        values = per_query(recommended, offsets, columns, yardstick.ks)
        table = np.column_stack(list(values.values()))
        means = np.nanmean(table, axis=0)
        slices[name] = {"queries": count, "targets": len(columns)} | {
            metric: {"value": float(mean)} for metric, mean in zip(values, means, strict=True)
        }
        if yardstick.resamples is None:
            continue
        drawn = yardstick.resamples.means(table)
        for metric, low, high in zip(values, *interval(drawn, yardstick.confidence), strict=True):
            slices[name][metric] |= {"low": float(low), "high": float(high)}
        if name == OVERALL:
            replicates = dict(zip(values, drawn.T, strict=True))
    figures = {
        "slices": slices,
        "catalogue": {
            str(k): {
                "coverage": coverage(recommended, len(yardstick.counts), k),
                "novelty_bits": novelty(recommended, yardstick.counts, k),
                "mean_popularity": mean_popularity(recommended, yardstick.counts, k),
            }
            for k in yardstick.ks
        },
        "exposure": _exposure(recommended, yardstick.classes),
        "curve": _recall_curve(recommended, *yardstick.slices[OVERALL]),
    }
    return Measured(figures, replicates)


def difference(ours: Measured, theirs: Measured, metric: str, confidence: float) -> dict:
    """Our overall metric less theirs, with the paired interval where there are resamples."""
    value = ours.figures["slices"][OVERALL][metric]["value"] - theirs.figures["slices"][OVERALL][metric]["value"]
    if metric not in ours.replicates:
        return {"value": value}
    low, high = interval((ours.replicates[metric] - theirs.replicates[metric])[:, None], confidence)
    return {"value": value, "low": float(low[0]), "high": float(high[0])}


def _exposure(recommended: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    shown = recommended[recommended >= 0]
    shares = np.bincount(classes[shown], minlength=len(ITEM_SLICES)) / max(len(shown), 1)
    return {name: float(share) for name, share in zip(ITEM_SLICES, shares, strict=True)}


def _recall_curve(recommended: np.ndarray, offsets: np.ndarray, columns: np.ndarray) -> list[float]:
    """Mean recall at every rank, 1 to the number of columns."""
    hits = find_hits(recommended, offsets, columns)
    sizes = np.diff(offsets)
    asked = sizes > 0
    return (np.cumsum(hits[asked], axis=1) / sizes[asked, None]).mean(axis=0).tolist()
