"""Which events are for training (0), validation (1) and test (2)."""

import numpy as np

from recsys.encoding.arrays import run_starts
from recsys.ingestion.cuts import Plan

TRAIN, VALIDATION, TEST = 0, 1, 2

_GOLDEN = 0x9E3779B97F4A7C15
"""The odd number next to 2^64 / golden ratio, SplitMix64's increment."""


def split_by_time(times: np.ndarray, plan: Plan) -> np.ndarray:
    """`[n] int8` by the plan's split times; an event at a split time belongs to the later part."""
    return np.searchsorted(np.array([plan.validation, plan.test], np.int64), times, side="right").astype(np.int8)


def cut_validation(split: np.ndarray, rows: np.ndarray, items: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A given `[n] int8` split with `share` of its training events moved to validation, by `split_random`."""
    chosen = split_random(rows, items, share, 0.0, seed) == VALIDATION
    return np.where((split == TRAIN) & chosen, VALIDATION, split).astype(np.int8)


def split_random(rows: np.ndarray, items: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    """`[n] int8` by a hash of each event's place in the input and its item (`[n]` integers).

    The item counts because a line of a list format holds many events, which must not all go to one part.
    """
    start = rows.astype(np.uint64) + np.uint64(seed * _GOLDEN % (1 << 64))
    mixed = _finalise(_finalise(start) + items.astype(np.uint64) * np.uint64(_GOLDEN))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
    return np.where(uniform < 1 - validation - test, TRAIN, np.where(uniform < 1 - test, VALIDATION, TEST)).astype(
        np.int8
    )


def _finalise(mixed: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 16) of `[n] uint64`."""
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def split_leave_last_out(users: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """`[n] int8` of events sorted by (user, time): from a user's last positive on test, from the one before validation.

    Users with fewer than three positives are for training only.
    """
    group = np.cumsum(run_starts(users)) - 1
    until = np.cumsum(positive)
    total = np.zeros(int(group[-1]) + 1 if len(group) else 0, np.int64)
    np.add.at(total, group, positive)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(total)[:-1]]) if len(total) else total
    left = total[group] - (until - before[group])
    parts = np.where(left == 0, TEST, np.where(left == 1, VALIDATION, TRAIN))
    return np.where(total[group] < 3, TRAIN, parts).astype(np.int8)
