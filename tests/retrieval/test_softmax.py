"""The sampled softmax: against NumPy in float64, against TFRS, in direction, and on a corpus small enough to sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys._tensorflow import keras, tf
from recsys.features.ragged import as_ragged
from recsys.retrieval.softmax import Distinct, sampled_softmax_loss


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(queries, candidates, log_q, inverse, ids=None, weights=None):
    """Loss and gradients (queries, candidates, inverse temperature) in float64, the whole logits at once."""
    queries, candidates, log_q = (np.asarray(x, np.float64) for x in (queries, candidates, log_q))
    rows = len(queries)
    own = np.arange(rows)
    weights = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
    logits = queries @ candidates.T * inverse - log_q
    if ids is not None:
        hit = ids[:rows, None] == ids[None, :]
        hit[own, own] = False
        logits[hit] = -np.inf
    top = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - top).sum(axis=1, keepdims=True)
    loss = np.mean(weights * (np.log(sums) + top - logits[own, own][:, None])[:, 0])
    slope = np.exp(logits - top) / sums
    slope[own, own] -= 1
    slope *= weights[:, None] / rows
    cosines = queries @ candidates.T
    return loss, inverse * slope @ candidates, inverse * slope.T @ queries, float((slope * cosines).sum())


def ours(queries, candidates, log_q, inverse, ids=None, weights=None, block_rows=256, stored=0, products=tf.float32):
    """Loss and gradients; the last `stored` candidates are handed over as constants, with no gradient of theirs."""
    live = len(candidates) - stored
    constants = tf.constant(candidates[live:], tf.float32) if stored else None
    queries, candidates = tf.constant(queries, tf.float32), tf.constant(candidates[:live], tf.float32)
    inverse = tf.constant(inverse, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([queries, candidates, inverse])
        loss = sampled_softmax_loss(
            queries,
            candidates,
            tf.constant(log_q, tf.float32),
            inverse,
            stored=constants,
            candidate_ids=None if ids is None else tf.constant(ids),
            weights=None if weights is None else tf.constant(weights, tf.float32),
            block_rows=block_rows,
            products=products,
        )
    return [float(loss), *(x.numpy() for x in tape.gradient(loss, [queries, candidates, inverse]))]


def check(found, expected, tolerance=1e-5) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    for mine, right in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(mine, right, atol=tolerance * (1 + np.abs(right).max()))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 40),
    extra=st.integers(0, 9),
    block=st.sampled_from([1, 3, 8, 64]),
    distinct=st.integers(1, 60),
    masked=st.booleans(),
    weighted=st.booleans(),
    temperature=st.sampled_from([0.003, 0.05, 0.5]),
    seed=st.integers(0, 999),
    stored=st.sampled_from([0, 0, 1, 20]),
)
def test_loss_and_gradients_equal_the_oracle(rows, extra, block, distinct, masked, weighted, temperature, seed, stored):
    """Whatever the blocks, extra and stored negatives, repeats of items; positives too improbable for float32 too."""
    rng = np.random.default_rng(seed)
    arguments = {
        "queries": unit(rng, rows, 5).astype(np.float32),
        "candidates": unit(rng, rows + extra + stored, 5).astype(np.float32),
        "log_q": rng.normal(size=rows + extra + stored).astype(np.float32) * 2,
        "inverse": 1 / temperature,
        "ids": rng.integers(3, 3 + distinct, rows + extra + stored) if masked else None,
        "weights": rng.random(rows).astype(np.float32) if weighted else None,
    }
    loss, of_queries, of_candidates, of_inverse = oracle(**arguments)
    right = loss, of_queries, of_candidates[: rows + extra], of_inverse
    check(ours(**arguments, block_rows=block, stored=stored), right, 1e-4 if temperature < 0.01 else 1e-5)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 40),
    extra=st.integers(0, 9),
    items=st.integers(1, 12),
    filled=st.integers(0, 3),
    masked=st.booleans(),
    temperature=st.sampled_from([0.003, 0.05, 0.5]),
    seed=st.integers(0, 999),
)
def test_equal_candidates_may_share_a_column(rows, extra, items, filled, masked, temperature, seed):
    """The oracle sees each copy; here each item is one column, some of them in no copies."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng, items + filled, 5).astype(np.float32)
    log_q = rng.normal(size=items + filled).astype(np.float32) * 2
    of = rng.integers(0, items, rows + extra)
    queries, weights = unit(rng, rows, 5).astype(np.float32), rng.random(rows).astype(np.float32)
    loss, of_queries, of_copies, of_inverse = oracle(
        queries, vectors[of], log_q[of], 1 / temperature, of if masked else None, weights
    )
    of_columns = np.zeros(vectors.shape)
    np.add.at(of_columns, of, of_copies)
    copies = np.bincount(of, minlength=items + filled)
    inputs = [tf.constant(queries), tf.constant(vectors), tf.constant(1 / temperature, tf.float32)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        found = sampled_softmax_loss(
            *inputs[:2],
            tf.constant(log_q),
            inputs[2],
            candidate_ids=tf.range(items + filled) if masked else None,
            distinct=Distinct(tf.constant(of[:rows], tf.int32), tf.constant(copies, tf.float32)),
            weights=tf.constant(weights),
            block_rows=7,
        )
    mine = [float(found), *(x.numpy() for x in tape.gradient(found, inputs))]
    check(mine, (loss, of_queries, of_columns, of_inverse), 1e-4 if temperature < 0.01 else 1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.005])
def test_bfloat16_products_cost_little_precision(temperature):
    """The same loss as in float32, gradients within 1e-2 of float64, also of improbable positives."""
    rng = np.random.default_rng(10)
    queries, candidates = unit(rng, 300, 32), unit(rng, 320, 32)
    log_q, ids = rng.normal(size=320) * 3, rng.integers(3, 200, 320)
    exact, rough = (
        ours(queries, candidates, log_q, 1 / temperature, ids, products=products)
        for products in (tf.float32, tf.bfloat16)
    )
    assert rough[0] == exact[0]
    expected = oracle(queries, candidates, log_q, 1 / temperature, ids)
    for mine, right, fine in zip(rough[1:3], expected[1:3], exact[1:3], strict=True):
        assert np.linalg.norm(mine - right) < 1e-2 * np.linalg.norm(right)
        assert np.linalg.norm(mine - right) > 10 * np.linalg.norm(fine - right)


def test_long_vectors_are_no_overflow():
    """Logits of several hundreds would overflow exp in float32; the result is finite and right."""
    rng = np.random.default_rng(3)
    queries, candidates = unit(rng, 20, 4) * 30, unit(rng, 20, 4) * 30
    found = ours(queries, candidates, np.zeros(20), 1.0)
    assert np.isfinite(found[0])
    check(found, oracle(np.float32(queries), np.float32(candidates), np.zeros(20), 1.0), 1e-4)


def test_a_masked_hit_with_the_largest_logit_stays_masked():
    """The maximum of a row must be that of its remaining candidates, or everything else underflows."""
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    candidates = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    ids = np.array([7, 8, 7])
    check(ours(queries, candidates, np.zeros(3), 300.0, ids), oracle(queries, candidates, np.zeros(3), 300.0, ids))


def test_both_logarithms_agree_where_both_are_valid():
    """Where positives become too improbable for the logarithm of the softmax, nothing jumps."""
    rng = np.random.default_rng(4)
    queries, candidates, log_q = unit(rng, 64, 8), unit(rng, 64, 8), rng.normal(size=64)
    losses = [ours(queries, candidates, log_q, inverse)[0] for inverse in np.linspace(20, 90, 71)]
    steps = np.diff(losses)
    assert np.abs(np.diff(steps)).max() < 0.02


def test_equals_the_library_task():
    """The same loss as tensorflow_recommenders.tasks.Retrieval with its logQ and its accidental-hit mask."""
    import tensorflow_recommenders as tfrs

    rng = np.random.default_rng(5)
    queries, candidates = unit(rng, 96, 16).astype(np.float32), unit(rng, 96, 16).astype(np.float32)
    ids = rng.integers(3, 40, 96)
    probability = rng.dirichlet(np.ones(96)).astype(np.float32)
    task = tfrs.tasks.Retrieval(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, reduction=keras.losses.Reduction.SUM),
        temperature=0.1,
        remove_accidental_hits=True,
    )
    library = task(
        tf.constant(queries),
        tf.constant(candidates),
        candidate_sampling_probability=tf.constant(probability),
        candidate_ids=tf.constant(ids),
        compute_metrics=False,
    )
    # The library clips probabilities at 1e-6 and sums over rows.
    found = ours(queries, candidates, np.log(np.maximum(probability, 1e-6)), 10.0, ids)[0]
    assert found == pytest.approx(float(library) / 96, rel=1e-5)


def test_a_popular_negative_is_pushed_away_less_after_correction():
    """The gradient on a popular item shrinks, that on a rare one grows, compared with no correction."""
    rng = np.random.default_rng(6)
    queries, candidates = unit(rng, 32, 8), unit(rng, 32, 8)
    log_q = np.zeros(32)
    log_q[5], log_q[9] = np.log(20.0), -np.log(20.0)

    def push(correction: np.ndarray, item: int) -> float:
        """How strongly the other rows push the item away: the size of its gradient without its own row's weight."""
        others = (np.arange(32) != item).astype(float)
        return float(np.linalg.norm(ours(queries, candidates, correction, 10.0, weights=others)[2][item]))

    assert push(log_q, 5) < 0.5 * push(np.zeros(32), 5)
    assert push(log_q, 9) > 1.5 * push(np.zeros(32), 9)


def test_order_of_rows_and_a_constant_in_log_q_do_not_matter():
    """Permuting the batch permutes the gradients; probabilities per slot or per batch give the same loss."""
    rng = np.random.default_rng(7)
    queries, candidates, log_q = unit(rng, 50, 8), unit(rng, 50, 8), rng.normal(size=50)
    ids = rng.integers(3, 30, 50)
    order = rng.permutation(50)
    loss, of_queries, of_candidates, _ = ours(queries, candidates, log_q, 12.0, ids, block_rows=16)
    moved = ours(queries[order], candidates[order], log_q[order] + 3.0, 12.0, ids[order], block_rows=16)
    assert moved[0] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(moved[1], of_queries[order], atol=1e-6)
    np.testing.assert_allclose(moved[2], of_candidates[order], atol=1e-6)


def test_with_log_q_the_expected_gradient_approaches_that_of_the_full_softmax():
    """A toy corpus: the mean gradient over sampled batches points where the full softmax points, only if corrected."""
    rng = np.random.default_rng(8)
    items, dim, inverse, target = 12, 4, 4.0, 5
    corpus = unit(rng, items, dim)
    query = unit(rng, 1, dim)
    popularity = np.arange(1, items + 1.0) ** 2
    popularity /= popularity.sum()
    full = np.exp(corpus @ query[0] * inverse)
    right = inverse * ((full / full.sum()) @ corpus - corpus[target])

    def error(strength: float, batch: int) -> float:
        """How far the mean gradient of the query is from that of the full softmax, relative to it."""
        total = np.zeros(dim)
        for _ in range(40):
            drawn = np.concatenate([[target], rng.choice(items, batch - 1, p=popularity)])
            total += ours(query, corpus[drawn], strength * np.log(batch * popularity[drawn]), inverse)[1][0]
        return float(np.linalg.norm(total / 40 - right) / np.linalg.norm(right))

    # The positive is always there, not drawn: a bias that corrected sampling loses as batches grow.
    assert error(1.0, 1000) < 0.05
    assert error(1.0, 1000) < error(1.0, 20)
    assert error(0.0, 1000) > 0.3


def test_the_learned_temperature_moves_the_right_way():
    """Where positives already score highest, sharpening lowers the loss; where they score lowest, it raises it."""
    rng = np.random.default_rng(9)
    vectors = unit(rng, 16, 8)
    assert ours(vectors, vectors, np.zeros(16), 2.0)[3] < 0
    assert ours(vectors, -vectors, np.zeros(16), 2.0)[3] > 0


def test_logits_never_exist_as_a_whole():
    """No tensor of the compiled graph can hold rows x candidates: blocks have a fixed number of rows."""
    signature = [tf.TensorSpec([2048, 8]), tf.TensorSpec([2048, 8]), tf.TensorSpec([2048])]
    function = tf.function(lambda q, c, p: sampled_softmax_loss(q, c, p, 10.0, block_rows=128), signature)
    graph = function.get_concrete_function().graph
    graphs = [graph, *(value.graph for value in graph._functions.values() if hasattr(value, "graph"))]
    sizes = [
        t.shape.num_elements() or 0 for g in graphs for op in g.get_operations() for t in op.outputs if t.shape.rank
    ]
    assert max(sizes) < 2048 * 128


@pytest.mark.parametrize("temperature", [0.002, 0.1])
def test_what_a_row_has_seen_is_no_negative_of_it(temperature):
    """Loss as by plain logits with the seen candidates masked, in blocks, also of improbable positives."""
    rng = np.random.default_rng(5)
    rows, extra = 37, 9
    queries, candidates = rng.normal(size=(rows, 8)), rng.normal(size=(rows + extra, 8))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    ids = rng.integers(3, 30, rows + extra)
    seen = rng.integers(3, 30, (rows, 5)) * (rng.random((rows, 5)) < 0.6)
    seen[:7, 0] = ids[:7]  # a row's own item is its positive all the same
    logits = queries @ candidates.T / temperature
    for row, column in np.ndindex(*logits.shape):
        if column != row and (ids[column] == ids[row] or ids[column] in seen[row][seen[row] > 0]):
            logits[row, column] = -np.inf
    top = logits.max(axis=1)
    right = np.mean(np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(rows), np.arange(rows)])
    loss = sampled_softmax_loss(
        tf.constant(queries, tf.float32),
        tf.constant(candidates, tf.float32),
        tf.zeros([rows + extra]),
        tf.constant(1 / temperature, tf.float32),
        candidate_ids=tf.constant(ids),
        seen_ids=as_ragged(tf.constant(seen)),
        block_rows=8,
    )
    assert float(loss) == pytest.approx(right, rel=1e-5)
