"""The parameters follow from measured recall, and what is published is what was measured."""

import numpy as np
import pytest

from recsys.config.index import IndexConfig
from recsys.errors import UserError
from recsys.index.kinds import candidates
from recsys.index.tuning import build_tuned, measure_recall
from recsys.index.vectors import VectorIndex


@pytest.fixture(scope="module")
def spread() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spread-out vectors, hard for approximate search: ids, vectors, queries."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1500, 16)).astype(np.float32)
    queries = rng.normal(size=(60, 16)).astype(np.float32)
    return rng.permutation(1500).astype(np.int64) + 3, vectors, queries


@pytest.mark.parametrize(("kind", "target"), [("ivf", 0.8), ("hnsw", 0.995), ("ivf_pq", 0.7)])
def test_the_least_effort_that_reaches_the_target_is_chosen(kind: str, target: float, spread: tuple) -> None:
    ids, vectors, queries = spread
    config = IndexConfig(type=kind, target_recall=target, recall_at=10, lists=32, build_effort=40, neighbours=8)
    index, info = build_tuned(ids, vectors, queries, config)
    assert info["target_reached"]
    assert info["recall"]["value"] >= target
    assert all(one["recall"] < target for one in info["tried"][:-1])
    assert len(info["tried"]) > 1, "the target must be hard enough for this test to mean something"
    assert info["recall"]["value"] == measure_recall(index, ids, vectors, queries, 10)


def test_recall_is_the_share_of_exact_results_found(spread: tuple) -> None:
    ids, vectors, queries = spread
    index = VectorIndex.build(ids, vectors, candidates(IndexConfig(type="ivf", lists=32), len(ids), 16)[0], effort=2)
    shares = []
    for query in queries.astype(np.float64):
        best = set(ids[np.argsort(-(vectors.astype(np.float64) @ query))[:10]].tolist())
        found = index.search(query[None].astype(np.float32), 10)[0][0]
        shares.append(len(best & set(found.tolist())) / 10)
    assert 0.1 < np.mean(shares) < 0.9
    assert measure_recall(index, ids, vectors, queries, 10) == pytest.approx(np.mean(shares), abs=1e-9)


def test_flat_is_exact_at_once(spread: tuple) -> None:
    index, info = build_tuned(*spread, IndexConfig())
    assert info["recall"]["value"] == 1.0 and len(info["tried"]) == 1 and index.settings.type == "flat"


def test_items_with_equal_vectors_do_not_count_against_recall() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    index = VectorIndex.build(np.arange(20) + 3, vectors, candidates(IndexConfig(), 20, 4)[0])
    assert measure_recall(index, np.arange(20) + 3, vectors, np.eye(4, dtype=np.float32), 3) == 1.0


def test_an_unreachable_target_is_said_to_be_missed(spread: tuple) -> None:
    config = IndexConfig(type="ivf_pq", code_bytes=2, target_recall=0.999, recall_at=10, lists=16)
    _, info = build_tuned(*spread, config)
    assert not info["target_reached"] and info["recall"]["value"] < 0.999


@pytest.mark.parametrize("kind", ["ivf", "ivf_pq", "hnsw"])
def test_a_small_catalogue_is_tuned_at_the_depth_that_is_asked_for(kind: str) -> None:
    """Half of the catalogue and more: what is measured is the search at its effort, not an exhaustive one."""
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    ids = np.arange(50) + 3
    index, info = build_tuned(ids, vectors, queries, IndexConfig(type=kind, recall_at=30, code_bytes=8, lists=14))
    assert info["recall"]["value"] == measure_recall(index, ids, vectors, queries, 30)
    if kind == "ivf":
        assert index.effort > 1
    assert (index.search(queries, 3)[0] >= 0).all()


def test_code_bytes_must_divide_the_dimension() -> None:
    with pytest.raises(
        UserError,
        match=r"index.code_bytes: 7 does not divide the vectors' dimension 12; expected one of 1, 2, 3, 4, 6, 12,",
    ):
        candidates(IndexConfig(type="ivf_pq", code_bytes=7), 100, 12)
    assert candidates(IndexConfig(type="ivf_pq", code_bytes=6), 100, 12)[0].code_bytes == 6
