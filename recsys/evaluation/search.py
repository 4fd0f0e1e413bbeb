"""Exact search for the best-scored columns: blocked matrix product, partition, ties broken by column."""

import numpy as np

NO_COLUMN = -1
"""Fills the end of a result row that has fewer than `k` allowed candidates; its score is -inf."""

BLOCK_SCORES = 1 << 24
"""Scores held at a time (64 MiB of float32): large enough for BLAS, small enough for the cache to matter little."""

Exclusion = tuple[np.ndarray, np.ndarray]
"""Columns that each query must not get: offsets int64 `[n + 1]`, columns int64 `[offsets[-1]]`."""


def row_numbers(offsets: np.ndarray) -> np.ndarray:
    """The row of every entry of a ragged array, `[offsets[-1] - offsets[0]] int64`."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def mask_columns(scores: np.ndarray, exclude: Exclusion, start: int, stop: int) -> None:
    """Set the excluded columns of queries `start:stop` to -inf in their block of scores, in place."""
    offsets, columns = exclude
    block = offsets[start : stop + 1]
    scores[row_numbers(block), columns[block[0] : block[-1]]] = -np.inf


def best_columns(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best columns of each row of dense scores, best first, equal scores by rising column.

    `scores` is `[rows, columns]` float; -inf marks what must not be returned, NaN is not allowed. Returns columns
    `[rows, k] int64` and scores `[rows, k] float32`, filled with NO_COLUMN and -inf where a row has fewer candidates.
    """
    rows, width = scores.shape
    kept = min(k, width)
    columns = np.full((rows, k), NO_COLUMN, np.int64)
    values = np.full((rows, k), -np.inf, np.float32)
    if kept == 0 or rows == 0:
        return columns, values
    if kept < width:
        chosen = np.argpartition(scores, width - kept, axis=1)[:, width - kept :].astype(np.int64)
        chosen = _settle_ties(scores, chosen)
    else:
        chosen = np.broadcast_to(np.arange(width, dtype=np.int64), (rows, width))
    chosen = np.sort(chosen, axis=1)
    found = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    columns[:, :kept] = np.take_along_axis(chosen, order, axis=1)
    values[:, :kept] = np.take_along_axis(found, order, axis=1)
    columns[np.isneginf(values)] = NO_COLUMN
    return columns, values


def _settle_ties(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Partition keeps any of the columns that tie for the last place; replace them by the lowest ones."""
    kept = chosen.shape[1]
    last = np.take_along_axis(scores, chosen, axis=1).min(axis=1)
    tied = (scores >= last[:, None]).sum(axis=1) > kept
    tied &= ~np.isneginf(last)
    for row in np.flatnonzero(tied):
        above = np.flatnonzero(scores[row] > last[row])
        equal = np.flatnonzero(scores[row] == last[row])
        chosen[row] = np.concatenate([above, equal[: kept - len(above)]])
    return chosen


def top_k(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    *,
    exclude: Exclusion | None = None,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` candidates with the largest dot product (plus `bias`) for every query, exactly.

    `queries` is `[n, dim] float32`, `candidates` `[m, dim] float32`, `bias` `[m] float32` or None. `exclude` names the
    columns that each query must not get. Returns columns `[n, k] int64` and scores `[n, k] float32`, best first, ties
    by rising column, filled with NO_COLUMN and -inf. Raises ValueError for shapes that do not fit.
    """
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"queries {queries.shape} and candidates {candidates.shape} must be [n, dim] and [m, dim]")
    if exclude is not None and len(exclude[0]) != len(queries) + 1:
        raise ValueError(f"exclude has {len(exclude[0])} offsets for {len(queries)} queries; expected one more")
    count = len(queries)
    columns = np.empty((count, k), np.int64)
    values = np.empty((count, k), np.float32)
    size = max(1, BLOCK_SCORES // max(1, len(candidates)))
    for start in range(0, count, size):
        stop = min(count, start + size)
        scores = queries[start:stop] @ candidates.T
        if bias is not None:
            scores += bias
        if exclude is not None:
            mask_columns(scores, exclude, start, stop)
        columns[start:stop], values[start:stop] = best_columns(scores, k)
    return columns, values


__all__ = ["BLOCK_SCORES", "NO_COLUMN", "Exclusion", "best_columns", "mask_columns", "row_numbers", "top_k"]
