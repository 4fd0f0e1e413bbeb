"""Popularity: all time, or within the last while before a query."""

from dataclasses import dataclass, field

import numpy as np

from recsys.encoding.histories import effective_lag
from recsys.evaluation.queries import Events, Queries


@dataclass(eq=False)
class Popularity:
    """Every query gets the items with the most training positives. `counts` is `[catalogue]`."""

    counts: np.ndarray
    dynamic: bool = False

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        return np.tile(self.counts.astype(np.float32), (last - first, 1))


@dataclass(eq=False)
class RecentPopularity:
    """The items with the most positives in the last `window_ms` before now, as far as the lag lets anyone know.

    `events` are all positives of all parts; only those at or before `now - lag_ms`, and before now, are ever counted.
    All-time counts, scaled below one event, order the rest.
    """

    events: Events
    catalogue: int
    window_ms: int
    lag_ms: int
    dynamic: bool = True
    _order: np.ndarray = field(init=False, repr=False)
    _times: np.ndarray = field(init=False, repr=False)
    _scores: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.events.times, kind="stable")
        self._times = self.events.times[order]
        self._order = self.events.items[order]
        self._scores = np.zeros(self.catalogue, np.float32)

    def advance(self, time: int) -> None:
        """Count the window that ends now."""
        until = time - effective_lag(self.lag_ms)
        stop = np.searchsorted(self._times, until, side="right")
        start = np.searchsorted(self._times, until - self.window_ms, side="right")
        recent = np.bincount(self._order[start:stop], minlength=self.catalogue)
        ever = np.bincount(self._order[:stop], minlength=self.catalogue)
        self._scores = (recent + ever / (1.0 + ever.max(initial=0))).astype(np.float32)

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        return np.tile(self._scores, (last - first, 1))
