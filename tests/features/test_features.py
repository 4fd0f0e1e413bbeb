"""Lookups, pooling and standardising against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys._tensorflow import tf
from recsys.features.embedding import UNSEEN_ROW, EmbeddingTable, drop_identity
from recsys.features.numeric import standardise
from recsys.features.pooling import Pooling, flatten, look_up
from recsys.features.ragged import repeated
from recsys.features.spec import Form, InputSpec, full_table, identity_table

DIM = 4


def table(ids: int = 12, **options) -> EmbeddingTable:
    return EmbeddingTable(full_table("t", ids), DIM, scale=1.0, seed=options.get("seed", 1))


def test_ids_without_enough_positives_share_the_unseen_row():
    """And special ids keep theirs, rows are dense, ids beyond the table or below 0 are unseen."""
    spec = identity_table("item", np.array([0, 0, 0, 5, 1, 2, 0, 9]), min_count=2)
    assert spec.row_of.tolist() == [0, 1, 2, 3, UNSEEN_ROW, 4, UNSEEN_ROW, 5]
    assert spec.rows == 6
    layer = EmbeddingTable(spec, DIM, scale=1.0, seed=1)
    assert layer.rows(tf.constant([3, 4, 7, 8, 1000, -1, 1])).numpy().tolist() == [3, 2, 5, 2, 2, 2, 1]
    np.testing.assert_array_equal(layer(tf.constant([4])), layer(tf.constant([99])))


def test_a_table_depends_on_seed_and_name_alone():
    """So every process starts a model from the same weights."""
    np.testing.assert_array_equal(table(seed=3).table, table(seed=3).table)
    assert np.abs(table(seed=3).table - table(seed=4).table).max() > 0.1
    assert float(
        tf.math.reduce_std(EmbeddingTable(full_table("x", 4000), 8, scale=0.05, seed=1).table)
    ) == pytest.approx(0.05, rel=0.05)


def plain_pool(
    ids: np.ndarray, weights: np.ndarray, kind: str, half_life: float, log_weights: np.ndarray
) -> np.ndarray:
    """One row at a time."""
    pooled = []
    for row in ids:
        present = [i for i in row if i] or [1]
        share = np.ones(len(present))
        places = np.arange(len(present))[::-1]
        if kind == "recent":
            share = 0.5 ** (places / half_life)
        if kind == "position":
            share = np.exp(log_weights[np.minimum(places, len(log_weights) - 1)])
        total = (share[:, None] * weights[present]).sum(axis=0)
        pooled.append(total / (np.sqrt(len(present)) if kind == "root" else share.sum()))
    return np.array(pooled)


@settings(deadline=None, max_examples=20)
@given(
    rows=st.lists(st.lists(st.integers(3, 11), max_size=6), min_size=1, max_size=7),
    kind=st.sampled_from(["mean", "root", "recent", "position"]),
    width=st.integers(6, 9),
)
def test_pooling_equals_plain_python(rows, kind, width):
    """Whatever the padding; an empty row is the missing id."""
    ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    layer = Pooling("h", kind, half_life=2.0, positions=4)
    log_weights = np.array([0.3, -0.2, 0.1, 0.5])
    if kind == "position":
        layer.log_weights.assign(log_weights)
    values = flatten(tf.constant(ids))
    lookup = table()
    found = layer(look_up(lookup, values), values).numpy()
    np.testing.assert_allclose(found, plain_pool(ids, lookup.table.numpy(), kind, 2.0, log_weights), atol=1e-5)
    ragged = flatten(tf.ragged.constant(rows, tf.int32, ragged_rank=1))
    for padded, flat in ((values.ids, ragged.ids), (values.row, ragged.row), (values.from_end, ragged.from_end)):
        np.testing.assert_array_equal(padded, flat)


@given(counts=st.lists(st.integers(0, 5), max_size=8))
@settings(deadline=None, max_examples=30)
def test_places_repeated_as_often_as_asked(counts):
    """Zeros at the start, in the middle and at the end, and nothing at all."""
    found = repeated(tf.constant(counts, tf.int32, shape=[len(counts)])).numpy()
    np.testing.assert_array_equal(found, np.repeat(np.arange(len(counts)), counts))


def test_a_batch_costs_what_its_values_cost():
    """No tensor on the way from ragged ids to pooled vectors has rows x longest row cells."""
    layer, lookup = Pooling("h", "recent"), table()

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int32)])
    def pooled(ids: tf.RaggedTensor) -> tf.Tensor:
        values = flatten(ids, 0.5, tf.constant([1, 2]))
        return layer(look_up(lookup, values), values)

    padding = {"Tile", "RaggedTensorToTensor", "SequenceMask"}  # tf.repeat and value_rowids tile as they pad
    assert not padding & {op.type for op in pooled.get_concrete_function().graph.get_operations()}
    ids = tf.RaggedTensor.from_row_lengths(np.full(3300, 5, np.int32), np.array([1] * 300 + [3000], np.int32))
    np.testing.assert_allclose(pooled(ids)[-1], lookup.table[5], atol=1e-5)


def test_the_gradient_reaches_each_value_by_its_share():
    """A value that stands twice in a row gets twice the gradient of one that stands once; others none."""
    lookup = table()
    with tf.GradientTape() as tape:
        values = flatten(tf.constant([[3, 3, 4, 0], [5, 0, 0, 0]]))
        loss = tf.reduce_sum(Pooling("h")(look_up(lookup, values), values))
    slope = tf.convert_to_tensor(tape.gradient(loss, lookup.table)).numpy()[:, 0]
    np.testing.assert_allclose(slope[[3, 4, 5, 6, 0, 1]], [2 / 3, 1 / 3, 1, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "root", "recent", "position"])
def test_gradients_of_pooling_equal_those_of_plain_gathers(kind):
    """Of the table and of learned weights, with values twice in a row and a row without any."""
    rng = np.random.default_rng(4)
    lookup, layer = table(), Pooling("h", kind, half_life=2.0, positions=4)
    if kind == "position":
        layer.log_weights.assign([0.3, -0.2, 0.1, 0.5])
    ids, upstream = rng.integers(3, 12, (9, 7)) * (np.arange(7) < rng.integers(0, 7, 9)[:, None]), rng.normal(size=9)
    ids[0], ids[1] = 0, 5
    values = flatten(tf.constant(ids, tf.int32))

    def plain() -> tf.Tensor:
        """Every value's vector, weighted, on its own."""
        place = tf.minimum(values.from_end, 3)
        weights = {
            "recent": lambda: 0.5 ** (tf.cast(values.from_end, tf.float32) / 2.0),
            "position": lambda: tf.exp(tf.gather(layer.log_weights, place)),
        }.get(kind, lambda: tf.ones(tf.shape(values.ids)))()
        total = tf.math.segment_sum(weights[:, None] * tf.gather(lookup.table, values.ids), values.row)
        norm = tf.math.segment_sum(weights, values.row)[:, None]
        return total / (tf.sqrt(norm) if kind == "root" else norm)

    found = []
    for pooled in (lambda: layer(look_up(lookup, values), values), plain):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(pooled()) * upstream[:, None].astype(np.float32))
        sources = [lookup.table, *layer.trainable_variables]
        found.append([tf.convert_to_tensor(slope).numpy() for slope in tape.gradient(loss, sources)])
    for ours, right in zip(*found, strict=True):
        np.testing.assert_allclose(ours, right, atol=2e-5)


def test_history_dropout_drops_the_right_share_and_never_all():
    """A row that loses all its values becomes missing; without a seed nothing is dropped."""
    ids = tf.fill([4000, 3], 7)
    kept = flatten(ids, 0.4, tf.constant([1, 2]))
    assert float(tf.reduce_mean(tf.cast(kept.ids == 7, tf.float32))) > 0.9
    share = float(tf.reduce_sum(tf.cast(kept.ids == 7, tf.float32))) / 12_000
    assert share == pytest.approx(0.6, abs=0.03)
    missing = float(tf.reduce_sum(tf.cast(kept.ids == 1, tf.float32))) / 4000
    assert missing == pytest.approx(0.4**3, abs=0.02)
    assert len(np.unique(kept.row)) == 4000
    assert len(flatten(ids, 0.4).ids) == 12_000


def test_recency_counts_places_from_the_newest_even_with_dropout():
    """A dropped item leaves its place empty; it does not make older items newer."""
    values = flatten(tf.constant([[3, 4, 5, 6, 0]]), 0.5, tf.constant([3, 1]))
    place = dict(zip([3, 4, 5, 6], [3, 2, 1, 0], strict=True))
    assert [place[int(i)] for i in values.ids] == values.from_end.numpy().tolist()
    assert 0 < len(values.ids) < 4


def test_identity_dropout_gives_the_unseen_row():
    """In the asked share of rows."""
    rows = drop_identity(tf.fill([5000], tf.constant(9, tf.int64)), 0.3, tf.constant([1, 1])).numpy()
    assert set(rows) == {9, UNSEEN_ROW}
    assert (rows == UNSEEN_ROW).mean() == pytest.approx(0.3, abs=0.03)


def test_numbers_are_standardised_missing_ones_flagged_absurd_ones_clipped():
    """log1p first where the field is a count or an age."""
    spec = InputSpec("x", Form.NUMBER, mean=2.0, std=0.5)
    found = standardise(tf.constant([2.5, np.nan, 1e9, -1e9], tf.float32), spec).numpy()
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [10, 0], [-10, 0]])
    logged = standardise(tf.constant([np.e - 1], tf.float32), InputSpec("x", Form.NUMBER, mean=0.0, std=2.0, log=True))
    np.testing.assert_allclose(logged.numpy(), [[0.5, 0]], atol=1e-6)
