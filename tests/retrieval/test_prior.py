"""The popularity prior: which inner products it makes, and that vectors stay what an index of unit vectors expects."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.retrieval.prior import COORDINATES, PopularityPrior
from recsys.schema import FIRST_VALUE_ID

COUNTS = np.array([0, 0, 0, 500, 90, 7, 1, 0])


def unit(rows: int, dim: int = 6) -> np.ndarray:
    vectors = np.random.default_rng(rows).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.01, 0.2, 1.0])
def test_inner_products_are_cosines_and_weighted_logarithms_over_one_constant(weight: float) -> None:
    prior, ids = PopularityPrior(COUNTS, weight), np.arange(FIRST_VALUE_ID, len(COUNTS))
    items, queries = unit(len(ids)), unit(9)
    found_items = prior.items(tf.constant(items), tf.constant(ids)).numpy()
    found_queries = prior.queries(tf.constant(queries)).numpy()
    assert found_items.shape[1] == items.shape[1] + COORDINATES == found_queries.shape[1]
    for found in (found_items, found_queries):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    bonus = weight * np.log(np.maximum(COUNTS[ids], 1.0))
    scale = np.sqrt(2 * (1 + bonus.max() ** 2))
    np.testing.assert_allclose(found_queries @ found_items.T * scale, queries @ items.T + bonus, atol=1e-5)


def test_an_item_that_training_did_not_know_counts_as_seen_once() -> None:
    prior, vector = PopularityPrior(COUNTS, 0.2), unit(1)
    once = prior.items(tf.constant(vector), tf.constant([6])).numpy()
    for unknown in (7, 8, 10_000, -1):
        np.testing.assert_array_equal(prior.items(tf.constant(vector), tf.constant([unknown])).numpy(), once)


def test_it_does_not_train() -> None:
    assert PopularityPrior(COUNTS, 0.2).trainable_variables == []
