"""Metrics: meaning, oracles, and the conventions that published tables differ by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation import metrics
from tests.evaluation import oracles
from tests.evaluation.oracles import ragged

queries = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), max_size=12, unique=True),
        st.lists(st.integers(0, 30), min_size=1, max_size=15, unique=True),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(queries=queries, k=st.integers(1, 14))
def test_every_metric_is_its_oracle(queries: list[tuple[list[int], list[int]]], k: int) -> None:
    shown = np.full((len(queries), 12), -1, np.int64)
    for row, (columns, _) in enumerate(queries):
        shown[row, : len(columns)] = columns
    offsets, targets = ragged([wanted for _, wanted in queries])
    hits = metrics.find_hits(shown, offsets, targets)
    for name, metric in metrics.METRICS.items():
        oracle = getattr(oracles, name)
        expected = [oracle(columns, set(wanted), k) for columns, wanted in queries]
        np.testing.assert_allclose(metric(hits, offsets, k), expected, rtol=0, atol=1e-12, err_msg=name)


def one(rank: int | None, targets: int = 1, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Hits of one query whose only found target is at `rank` (0-based)."""
    hits = np.zeros((1, width), bool)
    if rank is not None:
        hits[0, rank] = True
    return hits, np.array([0, targets])


def test_ndcg_of_one_target_is_the_discount_of_its_rank() -> None:
    for rank in range(10):
        hits, offsets = one(rank)
        assert metrics.ndcg(hits, offsets, 10)[0] == pytest.approx(1 / math.log2(rank + 2))
        assert metrics.mrr(hits, offsets, 10)[0] == pytest.approx(1 / (rank + 1))


def test_a_target_beyond_k_is_not_found() -> None:
    hits, offsets = one(5)
    assert (
        metrics.recall(hits, offsets, 5)[0]
        == metrics.ndcg(hits, offsets, 5)[0]
        == metrics.mrr(hits, offsets, 5)[0]
        == 0
    )
    assert metrics.recall(hits, offsets, 6)[0] == metrics.hit_rate(hits, offsets, 6)[0] == 1


def test_recall_divides_by_all_targets_and_the_ideal_list_is_cut_at_k() -> None:
    hits = np.ones((1, 5), bool)
    offsets = np.array([0, 20])
    assert metrics.recall(hits, offsets, 5)[0] == 0.25  # not 1: the definition of the published Gowalla table
    assert metrics.ndcg(hits, offsets, 5)[0] == pytest.approx(1.0)


def test_moving_a_hit_up_never_hurts() -> None:
    offsets = np.array([0, 2])
    values = [metrics.ndcg(one(rank, 2)[0], offsets, 10)[0] for rank in range(10)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 10


def test_a_query_without_targets_has_no_value() -> None:
    hits = np.zeros((2, 3), bool)
    offsets = np.array([0, 0, 1])
    for metric in metrics.METRICS.values():
        values = metric(hits, offsets, 3)
        assert np.isnan(values[0]) and values[1] == 0


def test_fillers_and_unmatchable_targets_never_hit() -> None:
    hits = metrics.find_hits(np.array([[-1, 2], [1, -1]]), *ragged([[-1, 2], [-1]]))
    np.testing.assert_array_equal(hits, [[False, True], [False, False]])
    assert metrics.recall(hits, np.array([0, 2, 3]), 2).tolist() == [0.5, 0.0]


def test_targets_of_a_neighbouring_query_do_not_count() -> None:
    hits = metrics.find_hits(np.array([[1], [0]]), *ragged([[0], [1]]))
    assert not hits.any()


def test_coverage_novelty_and_popularity() -> None:
    counts = np.array([8, 4, 2, 0])
    shown = np.array([[0, 1], [0, -1]])
    assert metrics.coverage(shown, 4, 1) == 0.25
    assert metrics.coverage(shown, 4, 2) == 0.5
    assert metrics.mean_popularity(shown, counts, 2) == pytest.approx((8 + 4 + 8) / 3)
    expected = -(2 * math.log2(9 / 18) + math.log2(5 / 18)) / 3
    assert metrics.novelty(shown, counts, 2) == pytest.approx(expected)
    rare = metrics.novelty(np.array([[3]]), counts, 1)
    assert math.isfinite(rare) and rare > metrics.novelty(np.array([[2]]), counts, 1)
