"""Co-click clusters: they find blocks, later items join by votes, and the cut into batches changes nothing."""

import numpy as np
import pytest

from recsys.encoding.clusters import NO_CLUSTER, CoClickClusters, base_clusters, co_clicks
from recsys.schema import FIRST_VALUE_ID, MISSING_ID


def block_pairs(random: np.random.Generator, pairs: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Co-clicks within blocks of ten items, a few across."""
    first = random.integers(0, 30, pairs)
    second = first // 10 * 10 + random.integers(0, 10, pairs)
    stray = random.random(pairs) < 0.05
    second[stray] = random.integers(0, 30, stray.sum())
    return first, second


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_base_clusters_find_blocks(seed: int) -> None:
    found = base_clusters(*block_pairs(np.random.default_rng(seed)), items=32, clusters=3, seed=seed)
    blocks = found[:30].reshape(3, 10)
    assert (blocks == blocks[:, :1]).all()
    assert len(set(blocks[:, 0])) == 3
    assert (found[30:] == NO_CLUSTER).all()


def test_base_clusters_depend_on_the_seed_alone() -> None:
    first, second = block_pairs(np.random.default_rng(4))
    order = np.random.default_rng(5).permutation(len(first))
    once = base_clusters(first, second, 30, 5, seed=3)
    np.testing.assert_array_equal(once, base_clusters(first[order], second[order], 30, 5, seed=3))


def test_pairs_are_consecutive_and_of_one_user() -> None:
    users, items = np.array([1, 1, 1, 2, 2]), np.array([7, 7, 8, 8, 9])
    first, second, when = co_clicks(users, items, np.array([10, 20, 30, 5, 6]))
    assert (first.tolist(), second.tolist(), when.tolist()) == ([7, 8], [8, 9], [30, 6])


def test_a_later_item_joins_its_neighbours() -> None:
    base = np.array([0, 0, 1, 1], np.int32)
    state = CoClickClusters(base, clusters=2, refresh_ms=10, min_votes=1)
    known = np.array([0, 2]), np.array([1, 3])
    state.update(*known, np.array([0, 0]))
    state.update(np.array([4, 4, 4]), np.array([0, 2, 3]), np.array([12, 13, 14]))
    state.update(np.array([4, 4, 4]), np.array([0, 1, 0]), np.array([25, 25, 25]))
    times = np.array([9, 10, 19, 20, 29, 30])
    assert state.at(np.full(6, 4), times).tolist() == [
        MISSING_ID,
        MISSING_ID,
        MISSING_ID,
        1 + FIRST_VALUE_ID,
        1 + FIRST_VALUE_ID,
        0 + FIRST_VALUE_ID,
    ]
    assert state.at(np.array([0, 0]), np.array([9, 10])).tolist() == [MISSING_ID, FIRST_VALUE_ID]


@pytest.mark.parametrize("cuts", [2, 17, 400])
def test_batches_do_not_matter(cuts: int) -> None:
    random = np.random.default_rng(8)
    first, second = block_pairs(random, 400)
    times = np.sort(random.integers(0, 300, 400))
    base = base_clusters(first[:100] % 20, second[:100] % 20, 20, 3, seed=1)
    whole = CoClickClusters(base, 3, 10, 2)
    whole.update(first, second, times)
    pieces = CoClickClusters(base, 3, 10, 2)
    for part in np.array_split(np.arange(400), cuts):
        pieces.update(first[part], second[part], times[part])
        asked = random.integers(0, 30, 50), random.integers(0, max(int(times[part[-1]]), 1), 50)
        np.testing.assert_array_equal(pieces.at(*asked), whole.at(*asked))
    items, moments = (grid.ravel() for grid in np.meshgrid(np.arange(30), np.arange(0, 320, 5)))
    np.testing.assert_array_equal(pieces.at(items, moments), whole.at(items, moments))
    assert len(np.unique(whole.at(items, moments))) == 4
