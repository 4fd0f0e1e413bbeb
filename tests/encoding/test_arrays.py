"""Searches of many groups at once, beside a plain count per query, with keys as large as int64 allows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.encoding.arrays import GroupedTimes

YEAR_MS = 365 * 24 * 3_600_000
LARGE = st.one_of(st.integers(0, 5), st.integers(-(1 << 62), 1 << 62))
PAIRS = st.lists(st.tuples(LARGE, LARGE), max_size=12)


def plain_up_to(entries: list[tuple[int, int]], group: int, time: int) -> int:
    """Python's integers and tuples: entries that are not behind (group, time)."""
    return sum(entry <= (group, time) for entry in entries)


def searched(entries: list[tuple[int, int]], queries: list[tuple[int, int]]) -> list[int]:
    groups, times = (np.array([pair[side] for pair in entries], np.int64) for side in (0, 1))
    asked, moments = (np.array([pair[side] for pair in queries], np.int64) for side in (0, 1))
    return GroupedTimes(groups, times).up_to(asked, moments).tolist()


@settings(max_examples=300, deadline=None)
@given(entries=PAIRS, queries=PAIRS)
def test_any_int64_is_searched_right(entries: list[tuple[int, int]], queries: list[tuple[int, int]]) -> None:
    entries = sorted(entries)
    queries = queries + entries
    assert searched(entries, queries) == [plain_up_to(entries, *query) for query in queries]


@pytest.mark.parametrize(
    ("groups", "first", "last"), [(6_000_000, 0, 53 * YEAR_MS), (300_000_000, 50 * YEAR_MS, 51 * YEAR_MS)]
)
def test_many_groups_over_a_long_time(groups: int, first: int, last: int) -> None:
    """One event at time 0 among those of today, or many ids over a year: group * span alone is beyond int64."""
    entries = [(0, last), (groups // 2, first), (groups // 2, last - 1), (groups, last)]
    queries = [(0, last - 1), (0, last), (1, last), (groups // 2, last - 2), (groups, last - 1), (groups, last)]
    assert searched(entries, queries) == [0, 1, 1, 2, 3, 4]
