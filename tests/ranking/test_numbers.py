"""Numbers to buckets and factors: the law of each reading, beside plain Python; NumPy and TensorFlow alike."""

import math

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.ranking.buckets import LARGEST_BUCKET, quantile_edges, squared_log_bucket
from recsys.ranking.numbers import number_factor, number_ids
from recsys.ranking.spec import FieldSpec, Reading
from recsys.schema import FIRST_VALUE_ID, MISSING_ID, Side

NUMBERS = np.array([-7.9, -2.5, -0.4, 0.0, 0.9, 1.0, 1.99, 2.0, 2.1, 3.0, 10.0, 1234.5, 8e8], np.float32)
BUCKETS = [-7, -2, 0, 0, 0, 1, 1, 2, 0, 1, 5, 50, 420]
"""int(x) up to 2, floor(ln(x)^2) above (OptFS, section 6)."""


def field(reading: Reading, **settings) -> FieldSpec:
    return FieldSpec("price", Side.ITEM, reading, "price", **settings)


def test_squared_logarithms_are_the_specification_s() -> None:
    assert squared_log_bucket(NUMBERS).tolist() == BUCKETS
    lowest, size = min(BUCKETS), max(BUCKETS) - min(BUCKETS) + 1 + FIRST_VALUE_ID
    found = number_ids(tf.constant(np.append(NUMBERS, np.nan)), field(Reading.LOG_SQUARED, lowest=lowest), size)
    assert found.numpy().tolist() == [one - lowest + FIRST_VALUE_ID for one in BUCKETS] + [MISSING_ID]


def test_beyond_the_training_numbers_the_last_bucket_is_taken() -> None:
    strange = tf.constant([-1e30, -3.0, 5.0, 1e30, np.inf, -np.inf])
    found = number_ids(strange, field(Reading.LOG_SQUARED, lowest=-3), FIRST_VALUE_ID + 5)
    assert (found.numpy() - FIRST_VALUE_ID).tolist() == [0, 0, 4, 4, 4, 0]
    wide = number_ids(strange, field(Reading.LOG_SQUARED), FIRST_VALUE_ID + 10_000).numpy() - FIRST_VALUE_ID
    assert wide.tolist() == [0, 0, 2, LARGEST_BUCKET, LARGEST_BUCKET, 0]


def test_quantile_edges_are_numbers_of_training_and_a_bucket_starts_at_its_edge() -> None:
    values = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 100, *[np.nan] * 30], np.float32)
    edges = quantile_edges(values, 4)
    assert edges.tolist() == [4, 6, 8]  # the missing are left out; an edge is a value, none between two
    ids = number_ids(tf.constant(values[:10]), field(Reading.QUANTILE, edges=tuple(edges.tolist())), 7).numpy()
    assert np.bincount(ids - FIRST_VALUE_ID).tolist() == [3, 2, 2, 3]
    assert ids[values[:10] == 4] == FIRST_VALUE_ID + 1
    assert quantile_edges(np.repeat([1.0, 2.0], [99, 1]), 10).tolist() == [1]
    assert len(quantile_edges(np.array([np.nan]), 4)) == 0


@pytest.mark.parametrize("log", [False, True])
def test_a_factor_is_the_standardised_number(log: bool) -> None:
    found = number_factor(tf.constant([2.0, np.nan, -3.0, 1e30]), field(Reading.VALUE, mean=0.5, std=0.25, log=log))
    expected = [math.log1p(2.0), math.log1p(0.0)] if log else [2.0, -3.0]
    low, high = (np.clip((one - 0.5) / 0.25, -10, 10) for one in expected)
    np.testing.assert_allclose(found, [low, 1.0, high, 10.0], rtol=1e-6)
