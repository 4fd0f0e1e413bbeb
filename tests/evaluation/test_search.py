"""Exact search against sorting everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation import search
from recsys.evaluation.search import NO_COLUMN, best_columns, top_k
from tests.evaluation.oracles import best, ragged


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    width=st.integers(1, 80),
    k=st.integers(1, 20),
    ties=st.booleans(),
    masked=st.sampled_from([0.0, 0.2, 0.95]),
)
def test_best_columns_is_the_oracle(seed: int, rows: int, width: int, k: int, ties: bool, masked: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, (rows, width)).astype(np.float32) if ties else rng.normal(size=(rows, width))
    scores = scores.astype(np.float32)
    scores[rng.random((rows, width)) < masked] = -np.inf
    columns, values = best_columns(scores, k)
    for row in range(rows):
        expected = best(scores[row].tolist(), k, set())
        assert columns[row].tolist() == expected + [NO_COLUMN] * (k - len(expected))
        np.testing.assert_array_equal(values[row, : len(expected)], scores[row, expected])
        assert np.isneginf(values[row, len(expected) :]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 9), k=st.integers(1, 15), block=st.integers(1, 200))
def test_top_k_is_the_oracle_in_any_blocks(seed: int, queries: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    # Small integers: products are exact in float32, so ties are real ties.
    q = rng.integers(-3, 4, (queries, 3)).astype(np.float32)
    c = rng.integers(-3, 4, (30, 3)).astype(np.float32)
    bias = rng.integers(-2, 3, 30).astype(np.float32)
    banned = [rng.choice(30, rng.integers(0, 30), replace=False).tolist() for _ in range(queries)]
    before, search.BLOCK_SCORES = search.BLOCK_SCORES, block
    try:
        columns, _ = top_k(q, c, k, exclude=ragged(banned), bias=bias)
    finally:
        search.BLOCK_SCORES = before
    for row in range(queries):
        expected = best((q[row] @ c.T + bias).tolist(), k, set(banned[row]))
        assert columns[row].tolist() == expected + [NO_COLUMN] * (k - len(expected))


def test_wide_rows_take_the_sieve_and_agree_with_the_partition() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 5000)).astype(np.float32)
    scores[1] = 0.0  # every column passes the sieve
    columns, _ = best_columns(scores, 10)
    for row in range(5):
        assert columns[row].tolist() == best(scores[row].tolist(), 10, set())


def test_shapes_that_do_not_fit_are_refused() -> None:
    vectors = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="must be"):
        top_k(vectors, np.zeros((2, 4), np.float32), 1)
    with pytest.raises(ValueError, match="expected one more"):
        top_k(vectors, vectors, 1, exclude=(np.zeros(2, np.int64), np.zeros(0, np.int64)))
