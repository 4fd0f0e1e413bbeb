"""Exact search for the best-scored columns: blocked matrix product, partition, ties broken by column."""

import numpy as np

NO_COLUMN = -1
"""Fills the end of a result row that has fewer than `k` allowed candidates; its score is -inf."""

BLOCK_SCORES = 1 << 24
"""Scores held at a time (64 MiB of float32): large enough for BLAS, small enough for the cache to matter little."""

SPARE = 4
"""How many times `k` columns may pass the first, cheap sieve of a row before it is partitioned instead."""

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
    few = np.zeros(rows, bool)
    if width >= SPARE * kept:
        above = scores >= _bound(scores, kept)[:, None]
        counts = np.count_nonzero(above, axis=1)
        few = counts <= SPARE * kept
    for part in (few, ~few):
        if not part.any():
            continue
        where: np.ndarray | slice = slice(None) if part.all() else part  # a slice copies nothing
        chosen = _listed(above[where], counts[where]) if part is few else _partitioned(scores[where], kept)
        columns[where, :kept], values[where, :kept] = _ordered(scores[where], chosen, kept)
    columns[np.isneginf(values)] = NO_COLUMN
    return columns, values


def _bound(scores: np.ndarray, kept: int) -> np.ndarray:
    """A value `[rows]` that at least `kept` scores of the row reach: the kept-th largest of the maxima of groups."""
    width = scores.shape[1]
    size = width // (SPARE * kept)
    groups = width // size
    maxima = scores[:, : groups * size].reshape(len(scores), size, groups).max(axis=1)
    return np.partition(maxima, groups - kept, axis=1)[:, groups - kept]


def _listed(above: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The columns that are True in each row, rising, filled with NO_COLUMN: `[rows, max(counts)] int64`."""
    listed = np.full((len(above), int(counts.max())), NO_COLUMN, np.int64)
    listed[np.arange(listed.shape[1]) < counts[:, None]] = np.flatnonzero(above) % above.shape[1]
    return listed


def _partitioned(scores: np.ndarray, kept: int) -> np.ndarray:
    """The `kept` best columns of each row, rising; of those that tie for the last place the lowest."""
    width = scores.shape[1]
    last = np.partition(scores, width - kept, axis=1)[:, width - kept, None]
    better, equal = scores > last, scores == last
    free = kept - np.count_nonzero(better, axis=1)
    chosen = better | (equal & (np.cumsum(equal, axis=1) <= free[:, None]))
    return (np.flatnonzero(chosen) % width).reshape(len(scores), kept)


def _ordered(scores: np.ndarray, chosen: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """The `kept` best of the chosen columns (rising in each row), best first, and their scores."""
    found = np.take_along_axis(scores, np.maximum(chosen, 0), axis=1)
    found[chosen < 0] = -np.inf
    order = np.argsort(-found, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(found, order, axis=1)


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
