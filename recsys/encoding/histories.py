"""Histories: what a user did before an event, as windows on the user's list of positive events.

Neighbouring rows of a user share nearly all of their history, so a history is kept as (start, size) on one list of the
user's positives, and becomes a list of its own only where it is written (`expand`).
"""

from dataclasses import dataclass

import numpy as np

from recsys.encoding.arrays import GroupedTimes, lexicographic_order
from recsys.schema import SPLITS

_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")


@dataclass(frozen=True)
class Windows:
    """Of each row: `size` `[n] int32` consecutive entries from `start` `[n] int64`, less the one at `skip` if any.

    `skip` `[n] int64` is a position in the list, -1 for none.
    """

    start: np.ndarray
    size: np.ndarray
    skip: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> "Windows":
        """The windows of some rows."""
        return Windows(self.start[rows], self.size[rows], None if self.skip is None else self.skip[rows])


def effective_lag(lag_ms: int) -> int:
    """The lag in ms that also keeps events of the same instant out: at or before `time - lag`, and before `time`."""
    return max(lag_ms, 1)


def windows_before(users: np.ndarray, times: np.ndarray, positive: np.ndarray, length: int, lag_ms: int) -> Windows:
    """The last `length` positive events of each row's user at or before `time - lag_ms`, and before `time`.

    `users` `[n]`, `times` `[n] int64` ms, `positive` `[n] bool`, sorted by (user, time). Starts are positions in the
    list of all positive rows, in this order.
    """
    positive_users, positive_times = users[positive], times[positive]
    stop = GroupedTimes(positive_users, positive_times).up_to(users, times - effective_lag(lag_ms))
    first = np.searchsorted(positive_users, users, side="left")
    start = np.maximum(stop - length, first)
    return Windows(start, np.maximum(stop - start, 0).astype(np.int32))


def listed_without_time(users: np.ndarray, positive: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Where there is no time: rows of the training and validation positives, by (user, part, input order).

    `users` `[n]` sorted, `positive` `[n] bool`, `split` `[n]` places in SPLITS.
    """
    members = np.flatnonzero(positive & (split != _TEST))
    return members[lexicographic_order(users[members], split[members])]


def windows_without_time(users: np.ndarray, listed: np.ndarray, split: np.ndarray, length: int) -> Windows:
    """Where there is no time: the user's last `length` positives that may be known, the row itself left out.

    A training or validation row sees training positives, a test row those of validation too. Starts are positions in
    `listed`, the rows that `listed_without_time` gave.
    """
    members = users[listed]
    first, stop = np.searchsorted(members, users, side="left"), np.searchsorted(members, users, side="right")
    training = members[split[listed] == _TRAIN]
    trained = np.searchsorted(training, users, side="right") - np.searchsorted(training, users, side="left")
    stop = np.where(split == _TEST, stop, first + trained)
    own = np.full(len(users), -1, np.int64)
    own[listed] = np.arange(len(listed))
    inside = (split == _TRAIN) & (own >= 0) & (own >= stop - length - 1)
    start = np.maximum(stop - length - inside, first)
    return Windows(start, (stop - start).astype(np.int32), np.where(inside, own, -1))


def windows_at_end(users: np.ndarray, length: int) -> tuple[np.ndarray, Windows]:
    """The distinct users of a sorted `[n]` list of positives, and the last `length` positives of each."""
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True)) + 1 if len(users) else np.zeros(0, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    start = np.maximum(ends - length, starts)
    return users[starts], Windows(start, (ends - start).astype(np.int32))


def trim(windows: Windows, values: np.ndarray) -> tuple[Windows, np.ndarray]:
    """Only the values that some window shows, and the windows on them: what has to travel with these rows."""
    opened = np.bincount(windows.start, minlength=len(values) + 1)
    closed = np.bincount(windows.start + windows.size, minlength=len(values) + 1)
    shown = np.cumsum(opened - closed)[:-1] > 0
    place = np.concatenate([np.zeros(1, np.int64), np.cumsum(shown)])
    skip = windows.skip
    if skip is not None:
        skip = np.where(skip >= 0, place[skip], -1)
    return Windows(place[windows.start], windows.size, skip), values[shown]


def expand(windows: Windows, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lists that the windows show: offsets `[n + 1] int32` and flat values."""
    sizes = windows.size.astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    index = np.arange(offsets[-1], dtype=np.int64) + np.repeat(windows.start - offsets[:-1], sizes)
    if windows.skip is not None:
        kept = index != np.repeat(windows.skip, sizes)
        offsets = offsets - np.concatenate([np.zeros(1, np.int64), np.cumsum(windows.skip >= 0)])
        index = index[kept]
    return offsets.astype(np.int32), values[index]
