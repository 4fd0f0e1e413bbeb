"""Co-click clusters: which items are clicked one after another by the same users, also for items born later.

Base clusters come from the training part: leading factors of the normalised co-click matrix and spherical k-means on
its item vectors. An item that came later gets the cluster that most of its co-clicked neighbours have. Clusters move in
steps of event time (`refresh_ms`): within a step nothing changes, at its end all co-clicks of the step vote at once. So
the result does not depend on how events were cut into batches or polls, and any moment of the past can be asked for.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from recsys.encoding.arrays import GroupedTimes, lexicographic_order, run_starts
from recsys.schema import FIRST_VALUE_ID, MISSING_ID

NO_CLUSTER = -1
_ROUNDS = 50
_OVERSAMPLED = 8
_POWER_STEPS = 6


def co_clicks(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of consecutive, different items of a user: (first `[p]`, second `[p]`, time of the second `[p]`).

    The `[n]` positive events are sorted by (user, time).
    """
    pair = (users[1:] == users[:-1]) & (items[1:] != items[:-1])
    return items[:-1][pair], items[1:][pair], times[1:][pair]


def base_clusters(first: np.ndarray, second: np.ndarray, items: int, clusters: int, seed: int) -> np.ndarray:
    """Cluster of each item `[items] int32`, NO_CLUSTER for items without co-clicks.

    The co-click matrix is symmetric and scaled by the square roots of its row sums, which keeps popular items from
    deciding every direction. Deterministic for a seed.
    """
    result = np.full(items, NO_CLUSTER, np.int32)
    known = np.unique(np.concatenate([first, second]))
    if not len(known):
        return result
    clusters = min(clusters, len(known))
    rows, columns = np.searchsorted(known, first), np.searchsorted(known, second)
    counts = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(known), len(known))).tocsr()
    counts = counts + counts.T
    scale = sparse.diags(1 / np.sqrt(np.asarray(counts.sum(axis=1)).ravel()))
    vectors = _factors(scale @ counts @ scale, min(clusters, len(known) - 1), seed)
    result[known] = spherical_k_means(vectors, clusters, seed)
    return result


def _factors(matrix: sparse.csr_matrix, rank: int, seed: int) -> np.ndarray:
    """Unit rows `[n, rank]` of the leading eigenvectors of a symmetric matrix, scaled by their eigenvalues.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): the spectrum of co-clicks is flat,
    where Lanczos converges slowly and no cluster depends on the last digits.
    """
    size = matrix.shape[0]
    width = min(rank + _OVERSAMPLED, size)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, width)))[0]
    for _ in range(_POWER_STEPS):
        basis = np.linalg.qr(matrix @ basis)[0]
    values, small = np.linalg.eigh(basis.T @ (matrix @ basis))
    leading = np.argsort(-np.abs(values))[: max(rank, 1)]
    vectors = (basis @ small[:, leading]) * values[leading]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def spherical_k_means(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Cluster `[n] int32` of unit `[n, dim]` rows by cosine; starts from k-means++ centres."""
    random = np.random.default_rng(seed)
    centres = np.empty((clusters, vectors.shape[1]))
    distance = np.ones(len(vectors))
    for place in range(clusters):
        total = distance.sum()
        chosen = random.choice(len(vectors), p=distance / total) if total > 0 else random.integers(len(vectors))
        centres[place] = vectors[chosen]
        distance = np.minimum(distance, np.maximum(1 - vectors @ centres[place], 0))
    assigned = np.full(len(vectors), NO_CLUSTER)
    for _ in range(_ROUNDS):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(nearest, assigned):
            break
        assigned = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, assigned, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    return assigned.astype(np.int32)


@dataclass
class Changes:
    """When items got another cluster: `items` `[c]`, `times` `[c] int64` (from then on), `clusters` `[c] int32`."""

    items: np.ndarray
    times: np.ndarray
    clusters: np.ndarray

    def __post_init__(self) -> None:
        order = lexicographic_order(self.items, self.times)
        self.items, self.times, self.clusters = self.items[order], self.times[order], self.clusters[order]
        self._search = GroupedTimes(self.items, self.times)

    def at(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Ids of the items' clusters at the times, `[m] int32`: cluster + 3, MISSING_ID where it had none yet."""
        place = self._search.up_to(items, times) - 1
        valid = place >= 0
        valid[valid] = self.items[place[valid]] == items[valid]
        result = np.full(len(items), MISSING_ID, np.int32)
        result[valid] = self.clusters[place[valid]] + FIRST_VALUE_ID
        return result


@dataclass(frozen=True)
class Clusters:
    """What ingestion finds out: the base clusters `[items] int32` and all changes, by the same ids."""

    base: np.ndarray
    changes: Changes


class CoClickClusters:
    """The clusters of all items as they develop. Feed co-clicks in time order, then ask for any earlier moment.

    An item has a cluster from its `min_votes`-th co-click on: its base cluster, or for later items the one with most
    votes (the lowest where several have). A co-click votes with the clusters that stood when its step began.
    """

    def __init__(self, base: np.ndarray, clusters: int, refresh_ms: int, min_votes: int) -> None:
        self._base = base.astype(np.int32)
        self._clusters, self._refresh, self._min_votes = clusters, refresh_ms, min_votes
        self._current = np.full(len(base), NO_CLUSTER, np.int32)
        self._seen = np.zeros(len(base), np.int64)
        self._row = np.full(len(base), -1, np.int64)
        self._votes = np.zeros((0, clusters), np.int64)
        self._open: tuple[np.ndarray, np.ndarray, np.ndarray] = _no_pairs()
        self._log: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._changes: Changes | None = None

    def update(self, first: np.ndarray, second: np.ndarray, times: np.ndarray) -> None:
        """Take in co-clicks (`[p]` items, items, ms), not before any taken in so far."""
        first, second, times = (np.concatenate(both) for both in zip(self._open, (first, second, times), strict=True))
        if not len(times):
            return
        step = times // self._refresh
        bounds = np.append(np.flatnonzero(run_starts(step)), len(step))
        for start, stop in pairwise(bounds[:-1]):
            self._close(first[start:stop], second[start:stop], (int(step[start]) + 1) * self._refresh)
        last = bounds[-2]
        self._open = (first[last:], second[last:], times[last:])

    def finish(self) -> "Changes":
        """All changes, those of the step that is still open included; the state itself is left as it is."""
        if not len(self._open[2]):
            return self.changes
        copy = CoClickClusters(self._base, self._clusters, self._refresh, self._min_votes)
        copy._current, copy._seen, copy._row = self._current.copy(), self._seen.copy(), self._row.copy()
        copy._votes, copy._log = self._votes.copy(), list(self._log)
        first, second, times = self._open
        copy._close(first, second, (int(times[0]) // self._refresh + 1) * self._refresh)
        return copy.changes

    @property
    def changes(self) -> Changes:
        """All changes of the steps that are complete."""
        if self._changes is None:
            parts = self._log or [_no_changes()]
            self._changes = Changes(*(np.concatenate(part) for part in zip(*parts, strict=True)))
            self._log = [(self._changes.items, self._changes.times, self._changes.clusters)]
        return self._changes

    def at(self, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Ids of clusters as `Changes.at`; a moment in a step that is still open has what its beginning had."""
        if len(self._open[2]) and len(times):
            end = (int(self._open[2][0]) // self._refresh + 1) * self._refresh
            if int(times.max()) >= end:
                return self.finish().at(items, times)
        return self.changes.at(items, times)

    def _close(self, first: np.ndarray, second: np.ndarray, time: int) -> None:
        """Let the co-clicks of one step vote; what changes is visible from `time` on."""
        self._grow(int(max(first.max(), second.max())) + 1)
        items = np.concatenate([first, second])
        neighbours = np.concatenate([second, first])
        touched, counts = np.unique(items, return_counts=True)
        self._seen[touched] += counts
        later = self._base[items] == NO_CLUSTER
        voting = later & (self._current[neighbours] != NO_CLUSTER)
        voters, votes = items[voting], self._current[neighbours[voting]]
        new = np.unique(voters[self._row[voters] < 0])
        self._row[new] = len(self._votes) + np.arange(len(new))
        self._votes = np.concatenate([self._votes, np.zeros((len(new), self._clusters), np.int64)])
        np.add.at(self._votes, (self._row[voters], votes), 1)
        ready = touched[self._seen[touched] >= self._min_votes]
        cluster = self._base[ready].copy()
        open_ = (cluster == NO_CLUSTER) & (self._row[ready] >= 0)
        cluster[open_] = np.argmax(self._votes[self._row[ready[open_]]], axis=1)
        changed = cluster != self._current[ready]
        if changed.any():
            self._current[ready[changed]] = cluster[changed]
            self._log.append((ready[changed], np.full(changed.sum(), time, np.int64), cluster[changed]))
            self._changes = None

    def _grow(self, items: int) -> None:
        extra = items - len(self._base)
        if extra > 0:
            extra = max(extra, len(self._base) // 2)
            none = np.full(extra, NO_CLUSTER, np.int32)
            self._base, self._current = np.append(self._base, none), np.append(self._current, none)
            self._seen = np.append(self._seen, np.zeros(extra, np.int64))
            self._row = np.append(self._row, np.full(extra, -1, np.int64))


def _no_pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)


def _no_changes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)
