"""Popularity classes and slices of targets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation.metrics import find_hits, recall
from recsys.evaluation.queries import Queries, Spans
from recsys.evaluation.slices import ITEM_SLICES, OVERALL, popularity_classes, slice_targets

HEAD, TORSO, TAIL, NEW = range(4)


def test_classes_by_share_of_the_events() -> None:
    counts = np.array([1, 50, 0, 30, 15, 4])
    assert popularity_classes(counts, 0.5, 0.1).tolist() == [TAIL, HEAD, NEW, TORSO, TORSO, TAIL]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_more_popular_is_never_a_lower_class_and_equal_counts_share_one(counts: list[int]) -> None:
    classes = popularity_classes(np.array(counts), 0.5, 0.1)
    pairs = sorted(zip(counts, classes.tolist(), strict=True), reverse=True)
    assert [cls for _, cls in pairs] == sorted(cls for _, cls in pairs)
    assert len(set(pairs)) == len(set(counts))
    assert all((cls == NEW) == (count == 0) for count, cls in pairs)


def some_queries(seed: int) -> tuple[Queries, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, 30)
    stop = np.cumsum(sizes)
    columns = np.concatenate([rng.choice(20, size, replace=False) for size in sizes])
    zeros = np.zeros(30, np.int64)
    empty = Spans(zeros[:0], zeros, zeros)
    targets = Spans(columns, stop - sizes, stop)
    queries = Queries("test", "user", rng.integers(0, 9, 30), zeros, zeros, zeros, empty, None, targets)
    shown = np.argsort(rng.random((30, 20)), axis=1)[:, :6]
    return queries, shown


def test_item_slices_split_the_targets_and_user_slices_split_the_queries() -> None:
    queries, shown = some_queries(0)
    user_counts = np.array([0, 3, 0, 1, 5, 0, 2, 2, 2])
    classes = np.arange(20) % 4
    slices = slice_targets(queries, user_counts, classes)
    assert sum(len(slices[name][1]) for name in ITEM_SLICES) == len(slices[OVERALL][1])
    total = 0.0
    for name in ITEM_SLICES:
        offsets, columns = slices[name]
        assert (classes[columns] == ITEM_SLICES.index(name)).all()
        total += find_hits(shown, offsets, columns).sum()
    assert total == find_hits(shown, *slices[OVERALL]).sum()
    new = user_counts[queries.users] == 0
    everyone = recall(find_hits(shown, *slices[OVERALL]), slices[OVERALL][0], 6)
    for name, mask in (("new_users", new), ("known_users", ~new)):
        values = recall(find_hits(shown, *slices[name]), slices[name][0], 6)
        np.testing.assert_array_equal(values[mask], everyone[mask])
        assert np.isnan(values[~mask]).all()
