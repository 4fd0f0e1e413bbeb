"""Split times are exact order statistics, however rows were distributed; splits are what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config.ingest import SplitConfig
from recsys.ingestion.cuts import BIN_BITS, histogram, plan_output, settle
from recsys.ingestion.elements import pack
from recsys.ingestion.split import split_leave_last_out, split_random

TIMES = st.lists(st.integers(0, 1 << 20), min_size=1, max_size=60)


@given(TIMES, st.floats(0, 0.4), st.floats(0, 0.4), st.integers(1, 5))
def test_split_times_are_order_statistics(times: list[int], validation: float, test: float, shards: int) -> None:
    split = SplitConfig.model_validate({"kind": "time", "validation": validation, "test": test})
    parts = [np.array(times[shard::shards], np.int64) for shard in range(shards)]
    plan = plan_output([pack(histogram(part)) for part in parts], split, file_rows=7)
    exact = [part[np.isin(part >> BIN_BITS, plan.bins)] for part in parts]
    plan = settle(plan, [pack(histogram(part, bits=0)) for part in exact])
    ordered = sorted(times)
    for found, share in ((plan.validation, validation + test), (plan.test, test)):
        rank = round((1 - validation - test if share != test else 1 - test) * len(times))
        assert found == (ordered[rank] if rank < len(times) else ordered[-1] + 1)
    assert plan.rows == len(times)


def test_files_begin_about_every_so_many_rows() -> None:
    keys = np.arange(100_000, dtype=np.int64) << 10
    plan = plan_output([pack(histogram(keys))], SplitConfig(), file_rows=10_000)
    sizes = np.diff(np.searchsorted(keys, [0, *plan.edges, 1 << 40]))
    assert len(sizes) == 10
    assert sizes.min() > 9_900


def test_random_split_is_a_hash_of_row_and_item() -> None:
    rows = np.arange(100_000, dtype=np.int64) + (3 << 40)
    items = (rows % 1_000).astype(np.int32)
    split = split_random(rows, items, 0.2, 0.1, seed=1)
    assert np.bincount(split) / len(rows) == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    np.testing.assert_array_equal(split[::7], split_random(rows[::7], items[::7], 0.2, 0.1, seed=1))
    assert 0.3 < np.mean(split == split_random(rows, items, 0.2, 0.1, seed=2)) < 0.7


def test_random_split_parts_the_items_of_one_line() -> None:
    rows, items = np.repeat(np.arange(1_000), 50), np.tile(np.arange(50), 1_000)
    moved = split_random(rows, items, 0.2, 0.0, seed=1).reshape(1_000, 50).sum(axis=1)
    assert moved.min() > 0
    assert moved.max() < 30
    assert np.var(moved) == pytest.approx(50 * 0.2 * 0.8, rel=0.2)  # as independent draws


def test_leave_last_out() -> None:
    users = np.array([1, 1, 1, 1, 1, 2, 2])
    positive = np.array([1, 0, 1, 0, 1, 1, 1]) > 0
    assert split_leave_last_out(users, positive).tolist() == [0, 0, 1, 1, 2, 0, 0]
