"""Windows on a user's positives: against loops, and what a history must never hold."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.encoding.arrays import lexicographic_order
from recsys.encoding.histories import (
    Windows,
    expand,
    listed_without_time,
    trim,
    windows_at_end,
    windows_before,
    windows_without_time,
)

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans(), st.integers(0, 2)), max_size=40)


def columns(rows: list[tuple]) -> tuple[np.ndarray, ...]:
    """User, time, positive, part, sorted by (user, time)."""
    user, time, positive, part = (np.array([row[place] for row in rows], np.int64) for place in range(4))
    order = lexicographic_order(user, time)
    return user[order], time[order], positive[order] > 0, part[order]


def lists(windows: Windows, values: np.ndarray) -> list[list[int]]:
    """The lists that windows show."""
    offsets, shown = expand(windows, values)
    return [shown[a:b].tolist() for a, b in pairwise(offsets)]


@given(ROWS, st.integers(1, 5), st.integers(0, 4))
def test_windows_before(rows: list[tuple], length: int, lag: int) -> None:
    user, time, positive, _ = columns(rows)
    listed = np.flatnonzero(positive)
    found = lists(windows_before(user, time, positive, length, lag), listed)
    for row, history in enumerate(found):
        mine = [other for other in listed if user[other] == user[row]]
        past = [other for other in mine if time[other] <= time[row] - lag and time[other] < time[row]]
        assert history == past[-length:]


@given(ROWS, st.integers(1, 5))
def test_windows_without_time(rows: list[tuple], length: int) -> None:
    user, _, positive, part = columns(rows)
    listed = listed_without_time(user, positive, part)
    found = lists(windows_without_time(user, listed, part, length), listed)
    for row, history in enumerate(found):
        mine = [o for o in np.flatnonzero(positive) if user[o] == user[row] and o != row]
        known = [o for o in mine if part[o] == 0]
        if part[row] == 2:
            known += [o for o in mine if part[o] == 1]
        assert history == known[-length:]


@given(ROWS, st.integers(1, 5))
def test_trimming_changes_no_list(rows: list[tuple], length: int) -> None:
    user, time, positive, _ = columns(rows)
    listed = np.flatnonzero(positive)
    windows = windows_before(user, time, positive, length, 0).take(slice(1, None, 2))
    trimmed, kept = trim(windows, listed)
    assert lists(trimmed, kept) == lists(windows, listed)
    assert set(kept) == {value for row in lists(windows, listed) for value in row}


def test_at_the_end() -> None:
    users, windows = windows_at_end(np.array([2, 2, 2, 5]), 2)
    assert users.tolist() == [2, 5]
    assert lists(windows, np.array([7, 8, 9, 4])) == [[8, 9], [4]]
