"""Ranking metrics of full result lists, for queries with one target or several.

Targets are ragged: `offsets` int64 `[n + 1]` and `columns` int64; a target that no candidate can match is -1 (it counts
as never found). All metrics return one float64 value a query, so that means, slices and bootstrap intervals are taken
over the same numbers. A query without targets has no value: NaN, so that a mean over it cannot pass unnoticed.
"""

import numpy as np

from recsys.evaluation.search import row_numbers


def find_hits(recommended: np.ndarray, offsets: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which recommended columns are targets of their query: `[n, k] bool`.

    `recommended` is `[n, k] int64`, best first, without repeats; negative columns fill short rows and never hit.
    """
    rows = len(recommended)
    if len(offsets) != rows + 1:
        raise ValueError(f"{len(offsets)} target offsets for {rows} queries; expected one more than queries")
    width = 1 + max(int(columns.max(initial=0)), int(recommended.max(initial=0)))
    owners = row_numbers(offsets)
    real = columns >= 0
    wanted = np.sort(owners[real] * width + columns[real])
    if len(wanted) == 0:
        return np.zeros(recommended.shape, bool)
    given = np.arange(rows, dtype=np.int64)[:, None] * width + recommended
    nearest = wanted[np.minimum(np.searchsorted(wanted, given), len(wanted) - 1)]
    return (nearest == given) & (recommended >= 0)


def _sizes(offsets: np.ndarray) -> np.ndarray:
    sizes = np.diff(offsets).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return sizes


def recall(hits: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """Share of a query's targets among its first `k` results, `[n] float64` in [0, 1].

    The denominator is the number of targets, not min(targets, k): the definition of the published Gowalla tables.
    """
    return hits[:, :k].sum(axis=1) / _sizes(offsets)


def hit_rate(hits: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """1 where any of the first `k` results is a target, else 0, `[n] float64`."""
    return np.where(np.isnan(_sizes(offsets)), np.nan, hits[:, :k].any(axis=1).astype(np.float64))


def ndcg(hits: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain of the first `k` results, `[n] float64` in [0, 1].

    Gain 1 for a target, discount 1 / log2(1 + rank); the ideal list has min(targets, k) targets in front (Järvelin and
    Kekäläinen, 2002, with binary gains).
    """
    width = min(k, hits.shape[1])
    discounts = 1.0 / np.log2(np.arange(2, k + 2, dtype=np.float64))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    sizes = _sizes(offsets)
    best = ideal[np.minimum(np.nan_to_num(sizes), k).astype(np.int64)]
    return np.divide(hits[:, :width] @ discounts[:width], best, out=np.full(len(hits), np.nan), where=best > 0)


def mrr(hits: np.ndarray, offsets: np.ndarray, k: int) -> np.ndarray:
    """Reciprocal rank of the first target among the first `k` results, 0 where there is none, `[n] float64`."""
    first = np.argmax(hits[:, :k], axis=1)
    found = hits[:, :k].any(axis=1)
    return np.where(np.isnan(_sizes(offsets)), np.nan, np.where(found, 1.0 / (first + 1.0), 0.0))


METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr, "hit_rate": hit_rate}
"""Metric functions by name: `(hits [n, k] bool, offsets [n + 1] int64, k) -> [n] float64`."""


def per_query(recommended: np.ndarray, offsets: np.ndarray, columns: np.ndarray, ks: tuple[int, ...]) -> dict:
    """Every metric at every cut-off: `{"recall@50": [n] float64, …}`; `recommended` must have max(ks) columns."""
    hits = find_hits(recommended, offsets, columns)
    return {f"{name}@{k}": metric(hits, offsets, k) for k in ks for name, metric in METRICS.items()}


def coverage(recommended: np.ndarray, catalogue: int, k: int) -> float:
    """Share of the catalogue's columns that is among the first `k` results of at least one query."""
    shown = np.unique(recommended[:, :k])
    return float((shown >= 0).sum() / catalogue) if catalogue else 0.0


def novelty(recommended: np.ndarray, counts: np.ndarray, k: int) -> float:
    """Mean self-information of the recommended items in bits: -log2 of the item's smoothed share of training events.

    `counts` is `[catalogue]`; the share is (count + 1) / (sum + catalogue), so an item without training events has a
    finite, largest novelty (Zhou et al., 2010, PNAS 107(10), with add-one smoothing).
    """
    shown = recommended[:, :k]
    information = -np.log2((counts + 1.0) / (counts.sum() + len(counts)))
    kept = shown[shown >= 0]
    return float(information[kept].mean()) if len(kept) else 0.0


def mean_popularity(recommended: np.ndarray, counts: np.ndarray, k: int) -> float:
    """Mean number of training events of the recommended items (Abdollahpouri's average recommendation popularity)."""
    shown = recommended[:, :k]
    kept = shown[shown >= 0]
    return float(counts[kept].mean()) if len(kept) else 0.0
