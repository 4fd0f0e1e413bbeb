"""Sparse optimisers against plain NumPy, row by row."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.train import OptimiserConfig
from recsys.retrieval.optimiser import make_optimiser

ROWS, DIM = 6, 3


def adam_oracle(table, batches, rate, l2):
    """Kingma and Ba's algorithm 1 applied to the rows of each batch alone, in float64."""
    table = table.astype(np.float64)
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step, (rows, values) in enumerate(batches, start=1):
        for row in sorted(set(rows)):
            slope = sum(v for r, v in zip(rows, values, strict=True) if r == row) + 2 * l2 * table[row]
            first[row] = 0.9 * first[row] + 0.1 * slope
            second[row] = 0.999 * second[row] + 0.001 * slope**2
            mean, square = first[row] / (1 - 0.9**step), second[row] / (1 - 0.999**step)
            table[row] -= rate * mean / (np.sqrt(square) + 1e-8)
    return table


def adagrad_oracle(table, batches, rate, l2):
    """Duchi et al.'s diagonal update applied to the rows of each batch alone, in float64."""
    table = table.astype(np.float64)
    sums = np.full_like(table, 0.1)
    for rows, values in batches:
        for row in sorted(set(rows)):
            slope = sum(v for r, v in zip(rows, values, strict=True) if r == row) + 2 * l2 * table[row]
            sums[row] += slope**2
            table[row] -= rate * slope / (np.sqrt(sums[row]) + 1e-7)
    return table


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "oracle"), [("adam", adam_oracle), ("adagrad", adagrad_oracle)])
def test_rows_follow_the_oracle_and_the_others_stay(kind, oracle, l2):
    """Repeated rows in a batch are summed once; a row outside the batch keeps weight and moments."""
    rng = np.random.default_rng(1)
    start = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    batches = [(list(rng.integers(0, ROWS - 1, 4)), list(rng.normal(size=(4, DIM)))) for _ in range(12)]
    optimiser = make_optimiser(OptimiserConfig(kind=kind, learning_rate=0.05, l2=l2))
    table = tf.Variable(start)
    for rows, values in batches:
        slices = tf.IndexedSlices(tf.constant(np.array(values), tf.float32), tf.constant(rows, tf.int64), table.shape)
        optimiser.apply_gradients([(slices, table)])
    np.testing.assert_allclose(table.numpy(), oracle(start, batches, 0.05, l2), atol=2e-6)
    np.testing.assert_array_equal(table.numpy()[ROWS - 1], start[ROWS - 1])


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_a_dense_gradient_is_the_same_as_all_rows(kind):
    """Dense variables (layers) and tables with every row in the batch get one and the same update."""
    rng = np.random.default_rng(2)
    start = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    dense, sparse = tf.Variable(start), tf.Variable(start)
    one, other = (make_optimiser(OptimiserConfig(kind=kind, learning_rate=0.1)) for _ in range(2))
    for _ in range(5):
        gradient = tf.constant(rng.normal(size=(ROWS, DIM)), tf.float32)
        one.apply_gradients([(gradient, dense)])
        other.apply_gradients([(tf.IndexedSlices(gradient, tf.range(ROWS), sparse.shape), sparse)])
    np.testing.assert_allclose(dense.numpy(), sparse.numpy(), atol=1e-7)


def test_descends():
    """A convex bowl is left behind."""
    optimiser = make_optimiser(OptimiserConfig(learning_rate=0.1))
    table = tf.Variable(np.full((2, 1), 3.0, np.float32))
    for _ in range(200):
        optimiser.apply_gradients([(tf.IndexedSlices(2 * tf.gather(table, [0]), tf.constant([0]), table.shape), table)])
    assert abs(float(table[0, 0])) < 0.05
    assert float(table[1, 0]) == 3.0
