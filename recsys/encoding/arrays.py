"""Small vectorised building blocks: stable orders, runs of equal keys, sorted look-ups per group."""

import numpy as np

DIGIT_BITS = 16
"""NumPy sorts 16-bit keys stably by counting, an order of magnitude faster than 64-bit ones by merging."""


def is_sorted(keys: np.ndarray) -> bool:
    """Whether `[n]` keys never fall."""
    return bool((keys[1:] >= keys[:-1]).all())


def stable_order(keys: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Stable ascending order of `[n]` integer keys as `[n] int64` positions; refines `order` where it is given.

    Non-negative keys below 2^32 go digit by digit (least significant first); others are merged.
    """
    if order is None:
        order = np.arange(len(keys), dtype=np.int64)
    else:
        keys = keys[order]
    if len(keys) == 0 or is_sorted(keys):
        return order
    low, high = int(keys.min()), int(keys.max())
    if high - low >= 1 << (2 * DIGIT_BITS):
        return order[np.argsort(keys, kind="stable")]
    digits = (keys - low).astype(np.uint32)
    inner = np.argsort(digits.astype(np.uint16), kind="stable")
    if high - low >= 1 << DIGIT_BITS:
        inner = inner[np.argsort((digits >> DIGIT_BITS).astype(np.uint16)[inner], kind="stable")]
    return order[inner]


def lexicographic_order(*keys: np.ndarray) -> np.ndarray:
    """Order by several `[n]` integer keys, the most significant first; equal rows keep their places."""
    order: np.ndarray | None = None
    for key in reversed(keys):
        order = stable_order(key, order)
    assert order is not None
    return order


def run_starts(*keys: np.ndarray) -> np.ndarray:
    """`[n] bool`: whether a row of sorted keys differs from the row before it (the first row does)."""
    starts = np.zeros(len(keys[0]), bool)
    starts[:1] = True
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    return starts


def shares_keys(chosen: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """`[n] bool`: whether some row of `chosen` (`[n] bool`) has the same `[n]` integer keys as each row."""
    order = lexicographic_order(*keys)
    group = np.cumsum(run_starts(*(key[order] for key in keys))) - 1
    found = np.zeros(len(group), bool)
    found[group[chosen[order]]] = True
    result = np.empty(len(group), bool)
    result[order] = found[group]
    return result


class GroupedTimes:
    """Sorted times of many groups, searched for all queries at once.

    `groups` `[n]` and `times` `[n]` are sorted by (group, time). A search gives global positions, so the difference of
    two searches in one group counts the times between them. Any numbers within ±2^62 will do: one key holds a group and
    a time where that fits into 63 bits, else both are replaced by their ranks among the distinct ones.
    """

    def __init__(self, groups: np.ndarray, times: np.ndarray) -> None:
        groups, times = groups.astype(np.int64, copy=False), times.astype(np.int64, copy=False)
        self._distinct: tuple[np.ndarray, np.ndarray] | None = None
        self._bound(groups, times)
        # One more group on either side is asked for, see `up_to`.
        if (self._groups[1] - self._groups[0] + 3) * self._span >= 1 << 63:
            self._distinct = np.unique(groups), np.unique(times)
            groups, times = (np.searchsorted(d, v) for d, v in zip(self._distinct, (groups, times), strict=True))
            self._bound(groups, times)
        # Sums on the way may wrap around; the results do not, and wrapping is undone exactly.
        self._keys = groups - self._groups[0]
        self._keys *= self._span
        self._keys += times
        self._keys -= self._times[0] - 1

    def _bound(self, groups: np.ndarray, times: np.ndarray) -> None:
        self._groups = (int(groups[0]), int(groups[-1])) if len(groups) else (0, 0)
        self._times = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        self._span = self._times[1] - self._times[0] + 2

    def up_to(self, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
        """`[m] int64`: how many entries stand before the first one of the group that is later than the time."""
        absent: np.ndarray | None = None
        if self._distinct is not None:
            known, moments = self._distinct
            ranks = np.searchsorted(known, groups)
            absent = known[np.minimum(ranks, len(known) - 1)] != groups
            groups, times = ranks, np.searchsorted(moments, times, side="right") - 1
        # Beyond what is there, one step is as good as many, and cannot leave the range of the keys.
        first, last = self._times
        within = np.clip(times, first - 1, last)
        if absent is not None:
            within[absent] = first - 1
        lowest, highest = self._groups
        keys = np.clip(groups.astype(np.int64, copy=False), lowest - 1, highest + 1)
        keys -= lowest
        keys *= self._span
        keys += within
        keys -= first - 1
        return np.searchsorted(self._keys, keys, side="right")
