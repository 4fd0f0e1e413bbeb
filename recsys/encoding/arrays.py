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


class GroupedTimes:
    """Sorted times of many groups, searched for all queries at once.

    `groups` `[n]` and `times` `[n]` are sorted by (group, time). A search gives global positions, so the difference of
    two searches in one group counts the times between them.
    """

    def __init__(self, groups: np.ndarray, times: np.ndarray) -> None:
        self._first = int(times.min(initial=np.iinfo(np.int64).max)) if len(times) else 0
        self._span = (int(times.max()) - self._first + 2) if len(times) else 2
        self._keys = groups.astype(np.int64) * self._span + (times - self._first + 1)

    def up_to(self, groups: np.ndarray, times: np.ndarray) -> np.ndarray:
        """`[m] int64`: how many entries stand before the first one of the group that is later than the time."""
        within = np.clip(times - self._first + 1, 0, self._span - 1)
        return np.searchsorted(self._keys, groups.astype(np.int64) * self._span + within, side="right")
