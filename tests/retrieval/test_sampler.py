"""Uniform draws from the catalogue: without repetition, and exact wherever a run goes on."""

import numpy as np

from recsys._tensorflow import tf
from recsys.retrieval.sampler import UniformSampler


def draws(count: int, size: int, seed: int, steps: range) -> np.ndarray:
    sampler = UniformSampler(np.arange(3, count + 3, dtype=np.int32), size, seed)
    compiled = tf.function(sampler)
    return np.stack([compiled(tf.constant(step, tf.int64)).numpy() for step in steps])


def test_a_pass_holds_no_id_twice_and_passes_differ() -> None:
    found = draws(103, 20, 4, range(10))
    assert found.min() >= 3 and found.max() <= 105
    for start in (0, 5):
        assert len(np.unique(found[start : start + 5])) == 100
    assert (found[:5] != found[5:]).any()


def test_every_id_is_drawn_as_often() -> None:
    found = draws(50, 8, 5, range(3000))
    counts = np.bincount(found.ravel(), minlength=53)[3:]
    expected = 3000 * 8 / 50
    assert ((counts - expected) ** 2 / expected).sum() < 90  # chi-square with 49 degrees: 90 is beyond 0.9995


def test_a_batch_is_known_by_its_step() -> None:
    """A run that goes on at any step gets what an undisturbed one got; another seed gets something else."""
    whole = draws(64, 16, 6, range(12))
    for start in (3, 4, 7):
        np.testing.assert_array_equal(draws(64, 16, 6, range(start, 12)), whole[start:])
    assert (draws(64, 16, 7, range(12)) != whole).any()


def test_a_small_catalogue_is_drawn_whole() -> None:
    found = draws(5, 100, 8, range(3))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(3, 8), (3, 1)))
