"""Looking distinct values up once and spreading them: the gradient is their sum by place."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.features.pooling import spread


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (17,), (3, 9)])
def test_what_is_spread_is_summed_up_by_place(shape: tuple[int, ...]) -> None:
    """Whatever the width, distinct values that nobody has among them."""
    rng = np.random.default_rng(0)
    vectors, place = rng.normal(size=(9, *shape)).astype(np.float32), rng.integers(0, 8, 50)
    upstream = rng.normal(size=(50, *shape)).astype(np.float32)
    source = tf.constant(vectors)
    with tf.GradientTape() as tape:
        tape.watch(source)
        found = spread(source, tf.constant(place, tf.int32))
    np.testing.assert_array_equal(found, vectors[place])
    expected = np.zeros((9, *shape))
    np.add.at(expected, place, upstream)
    np.testing.assert_allclose(tape.gradient(found, source, tf.constant(upstream)), expected, atol=1e-5)
