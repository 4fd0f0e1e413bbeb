"""Running a model over queries: scores of the whole catalogue in blocks, masks, and the best columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.evaluation.queries import Queries
from recsys.evaluation.search import BLOCK_SCORES, best_columns, mask_columns


class Recommender(Protocol):
    """Anything that scores the whole catalogue for queries."""

    @property
    def dynamic(self) -> bool:
        """Whether `advance` changes its scores."""
        ...

    def advance(self, time: int) -> None:
        """Take in what is known at `time` (ms); called with rising times where the model is dynamic."""
        ...

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """Scores of queries `first:last` for every column: `[last - first, catalogue] float32`, the caller's own."""
        ...


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The columns there are: `counts` `[m] int64` training positives; `available_from` `[m] int64` ms, or None where
    the whole catalogue is on offer at any time."""

    counts: np.ndarray
    available_from: np.ndarray | None

    def __len__(self) -> int:
        return len(self.counts)


def recommend(
    model: Recommender,
    queries: Queries,
    catalogue: Catalogue,
    k: int,
    *,
    advanced: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """The model's `k` best allowed columns for every query, `[n, k] int64`, filled with -1; see `best_columns`.

    `advanced` is told the number of queries done, for a progress bar.
    """
    return recommend_scored(model, queries, catalogue, k, advanced=advanced)[0]


def recommend_scored(
    model: Recommender,
    queries: Queries,
    catalogue: Catalogue,
    k: int,
    *,
    advanced: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `recommend`, with the columns' scores `[n, k] float32` (-inf where there is no column)."""
    found = np.empty((len(queries), k), np.int64)
    values = np.empty((len(queries), k), np.float32)
    size = max(1, BLOCK_SCORES // max(1, len(catalogue)))
    moment = None
    for first, last in _blocks(queries.known_at, size, together=not model.dynamic):
        if model.dynamic and queries.known_at[first] != moment:
            moment = int(queries.known_at[first])
            model.advance(moment)
        scores = model.scores(queries, first, last)
        if queries.seen is not None:
            mask_columns(scores, queries.seen.block(first, last), 0, last - first)
        if catalogue.available_from is not None:
            scores[catalogue.available_from > queries.known_at[first:last, None]] = -np.inf
        found[first:last], values[first:last] = best_columns(scores, k)
        advanced(last - first)
    return found, values


def _blocks(moments: np.ndarray, size: int, *, together: bool) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of at most `size` queries; of one moment each unless all may stand `together`."""
    ends = [len(moments)] if together else [*(np.flatnonzero(np.diff(moments)) + 1).tolist(), len(moments)]
    first = 0
    for end in ends:
        while first < end:
            last = min(end, first + size)
            yield first, last
            first = last
