"""What is chosen next after the last item, lately: a first-order chain whose counts fade, smoothed by popularity."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from recsys.encoding.clusters import co_clicks
from recsys.encoding.histories import effective_lag
from recsys.evaluation.baselines.popularity import RecentPopularity
from recsys.evaluation.queries import Events, Queries

FORGOTTEN = 10
"""Half-lives after which a transition (then worth a thousandth) is left out."""


@dataclass(eq=False)
class ItemTransitions:
    """Score of an item: faded count of (last item of the history, item), plus `smoothing` x its share of the positives
    in the last `window_ms`.

    `events` are all positives of all parts; only those at or before `now - lag_ms`, and before now, are ever counted.
    """

    events: Events
    catalogue: int
    half_life_ms: int
    window_ms: int
    smoothing: float
    lag_ms: int
    dynamic: bool = True
    _pairs: tuple[np.ndarray, np.ndarray, np.ndarray] = field(init=False, repr=False)
    _popularity: RecentPopularity = field(init=False, repr=False)
    _counts: sp.csr_matrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = self.events.ordered()
        first, second, times = co_clicks(ordered.users, ordered.items, ordered.times)
        order = np.argsort(times, kind="stable")
        self._pairs = first[order], second[order], times[order]
        self._popularity = RecentPopularity(self.events, self.catalogue, self.window_ms, self.lag_ms)
        self._counts = sp.csr_matrix((self.catalogue, self.catalogue), dtype=np.float32)

    def advance(self, time: int) -> None:
        """Count and fade the transitions up to now."""
        self._popularity.advance(time)
        first, second, times = self._pairs
        until = time - effective_lag(self.lag_ms)
        start = np.searchsorted(times, until - FORGOTTEN * self.half_life_ms, side="right")
        stop = np.searchsorted(times, until, side="right")
        weights = np.exp2((times[start:stop] - until) / self.half_life_ms).astype(np.float32)
        pairs = (first[start:stop], second[start:stop])
        self._counts = sp.csr_matrix((weights, pairs), shape=(self.catalogue, self.catalogue))

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        popularity = self._popularity.scores(queries, first, last)
        scores = popularity * (self.smoothing / np.maximum(popularity.sum(axis=1, keepdims=True), 1.0))
        offsets, items = queries.history.block(first, last)
        some = np.flatnonzero(np.diff(offsets) > 0)
        latest = items[offsets[some + 1] - 1]
        scores[some] += self._counts[latest].toarray()
        return scores
