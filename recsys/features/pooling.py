"""Several ids a row to one vector: pooling over the values that are there, never over padding.

Ragged work is done on the flat list of present values, so a batch costs what its values cost, not its longest row; and
each distinct value is looked up once, so that the gradient of a table has few rows to begin with.
"""

from dataclasses import dataclass

from recsys._tensorflow import keras, tf
from recsys.features.embedding import EmbeddingTable
from recsys.schema import MISSING_ID, PADDING_ID


@dataclass(frozen=True)
class FlatValues:
    """The present values of a padded `[batch, width]` id column, row by row. Every row has at least one.

    `ids` `[values] int32`; `row` `[values] int64`, ascending; `from_end` `[values] int32`: 0 for a row's last value.
    """

    ids: tf.Tensor
    row: tf.Tensor
    from_end: tf.Tensor


def flatten(ids: tf.Tensor, drop_rate: float = 0.0, seed: tf.Tensor | None = None) -> FlatValues:
    """The values of `[batch, width] int32` that are not padding.

    With a seed each is left out with probability `drop_rate`. A row without any gets the missing id.
    """
    present = tf.not_equal(ids, PADDING_ID)
    length = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
    if seed is not None and drop_rate > 0:
        present &= tf.random.stateless_uniform(tf.shape(ids), seed) >= drop_rate
    empty = tf.logical_not(tf.reduce_any(present, axis=1, keepdims=True))
    first = tf.range(tf.shape(ids)[1])[None, :] == 0
    ids = tf.where(empty & first, MISSING_ID, ids)
    where = tf.where(present | (empty & first))
    from_end = tf.gather(length, where[:, 0]) - 1 - tf.cast(where[:, 1], tf.int32)
    return FlatValues(tf.gather_nd(ids, where), where[:, 0], tf.maximum(from_end, 0))


@dataclass(frozen=True)
class DistinctVectors:
    """Vectors of the distinct values of a `FlatValues`: `vectors` `[distinct, dim]`, `place` `[values] int32` in it."""

    vectors: tf.Tensor
    place: tf.Tensor


def look_up(table: EmbeddingTable, values: FlatValues) -> DistinctVectors:
    """The embeddings of flat values, each distinct table row once. What gates values multiplies `vectors`."""
    distinct = tf.unique(table.rows(values.ids))
    return DistinctVectors(table.vectors(distinct.y), distinct.idx)


def mean_by_row(looked_up: DistinctVectors, values: FlatValues, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Mean of each row's vectors, weighted by positive `weights` `[values]` where given: `[batch, dim] float32`."""
    if weights is None:
        return tf.sparse.segment_mean(looked_up.vectors, looked_up.place, values.row)
    weighted = weights[:, None] * tf.gather(looked_up.vectors, looked_up.place)
    return tf.math.segment_sum(weighted, values.row) / tf.math.segment_sum(weights, values.row)[:, None]


class Pooling(keras.layers.Layer):
    """One way of pooling the vectors of a multi-valued column or a history into `[batch, dim]`.

    `mean`: all values alike. `root`: their sum over the root of their count (as in SVD++, Koren 2008). `recent`: mean
    with weights 0.5^(from_end / half_life). `position`: mean with weights exp of one learned number a place from the
    end, zeros at first; places beyond `positions` share the last one.
    """

    def __init__(self, name: str, kind: str = "mean", *, half_life: float = 1.0, positions: int = 1) -> None:
        super().__init__(name=f"pool_{name}")
        self.kind, self.half_life = kind, half_life
        if kind == "position":
            self.log_weights = tf.Variable(tf.zeros([positions]), name=f"{name}/log_weights")

    def call(self, looked_up: DistinctVectors, values: FlatValues) -> tf.Tensor:
        """Pool what `look_up` found for `values`."""
        if self.kind == "mean":
            return mean_by_row(looked_up, values)
        if self.kind == "root":
            return tf.sparse.segment_sqrt_n(looked_up.vectors, looked_up.place, values.row)
        if self.kind == "recent":
            return mean_by_row(looked_up, values, tf.pow(0.5, tf.cast(values.from_end, tf.float32) / self.half_life))
        place = tf.minimum(values.from_end, self.log_weights.shape[0] - 1)
        return mean_by_row(looked_up, values, tf.exp(tf.gather(self.log_weights, place)))
