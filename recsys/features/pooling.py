"""Several ids a row to one vector: pooling over the values that are there, never over padding.

Ragged work is done on the flat list of present values, so a batch costs what its values cost, not its longest row; and
each distinct value is looked up once, so that the gradient of a table has few rows to begin with.
"""

from collections.abc import Callable
from dataclasses import dataclass

from recsys._tensorflow import keras, tf
from recsys.features.embedding import EmbeddingTable
from recsys.features.ragged import as_ragged, repeated
from recsys.schema import MISSING_ID

WIDE = 8
"""From so many weights a vector on, a sparse product sums faster than a segment sum."""


@dataclass(frozen=True)
class FlatValues:
    """The values of an id column of lists, row by row. Every row has at least one.

    `ids` `[values] int32`; `row` `[values] int32`, ascending; `from_end` `[values] int32`: 0 for a row's last value.
    """

    ids: tf.Tensor
    row: tf.Tensor
    from_end: tf.Tensor


def flatten(ids: tf.Tensor | tf.RaggedTensor, drop_rate: float = 0.0, seed: tf.Tensor | None = None) -> FlatValues:
    """The values of `ids`, ragged or `[batch, width] int32` padded with 0.

    With a seed each is left out with probability `drop_rate`. A row without any gets the missing id.
    """
    ragged = as_ragged(ids)
    values, lengths = ragged.values, tf.cast(ragged.row_lengths(), tf.int32)
    row = repeated(lengths)
    from_end = tf.gather(tf.cumsum(lengths), row) - 1 - tf.range(tf.size(values))
    if seed is not None and drop_rate > 0:
        kept = tf.random.stateless_uniform(tf.shape(values), seed) >= drop_rate
        lengths = tf.math.unsorted_segment_sum(tf.cast(kept, tf.int32), row, tf.size(lengths))
        values, from_end = tf.boolean_mask(values, kept), tf.boolean_mask(from_end, kept)
        row = tf.boolean_mask(row, kept)
    flat = (values, row, from_end)
    return FlatValues(*tf.cond(tf.reduce_any(lengths < 1), lambda: _without_empty_rows(*flat, lengths), lambda: flat))


def _without_empty_rows(
    values: tf.Tensor, row: tf.Tensor, from_end: tf.Tensor, lengths: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same with the missing id where a row has no value."""
    empty = tf.cast(tf.equal(lengths, 0), tf.int32)
    row = repeated(lengths + empty)
    source = tf.range(tf.size(row)) - tf.gather(tf.cumsum(empty, exclusive=True), row)
    # An empty row takes its one value from a place behind all others.
    source = tf.where(tf.gather(tf.equal(empty, 1), row), tf.size(values), source)
    ids = tf.gather(tf.concat([values, [MISSING_ID]], axis=0), source)
    return ids, row, tf.gather(tf.concat([from_end, [0]], axis=0), source)


@dataclass(frozen=True)
class DistinctVectors:
    """Vectors of the distinct values of a `FlatValues`: `vectors` `[distinct, dim]`, `place` `[values] int32` in it.

    `openness` `[distinct] float32` is what each value counts where values can be closed (0: not at all), else None.
    """

    vectors: tf.Tensor
    place: tf.Tensor
    openness: tf.Tensor | None = None


def look_up(table: EmbeddingTable, values: FlatValues) -> DistinctVectors:
    """The embeddings of flat values, gated where the table is, each distinct table row once."""
    distinct = tf.unique(table.rows(values.ids))
    return DistinctVectors(table.vectors(distinct.y), distinct.idx, table.openness(distinct.y))


def spread(vectors: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """`vectors` `[distinct, …]` at `place` `[values] int32`; the gradient is a plain tensor, summed by place.

    Of wide vectors the sum is a sparse product as in `sum_by_row`, in half to two thirds of the time.
    """

    @tf.custom_gradient
    def gathered(vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            if upstream.shape.rank != 2 or (upstream.shape[1] or 0) < WIDE:
                return tf.math.unsorted_segment_sum(upstream, place, tf.shape(vectors)[0])
            values = tf.range(tf.size(place))
            shape = [tf.size(place), tf.shape(vectors)[0]]
            return _product(_transposed(_sparse(values, place, tf.ones(tf.shape(place)), shape)), upstream)

        return tf.gather(vectors, place), gradient

    return gathered(vectors)


def mean_by_row(looked_up: DistinctVectors, values: FlatValues, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Mean of each row's vectors, weighted by positive `weights` `[values]` where given: `[batch, dim] float32`.

    Closed values are left out of the mean; a row of which less than one value is open fades to zeros with it.
    """
    if looked_up.openness is not None:
        return _open_mean(looked_up, values, looked_up.openness, weights)
    total = sum_by_row(looked_up, values, weights)
    if weights is None:
        return total / _counts(values)[:, None]
    return total / tf.math.segment_sum(weights, values.row)[:, None]


def sum_by_row(looked_up: DistinctVectors, values: FlatValues, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Sum of each row's vectors, times `weights` `[values]` where given: `[batch, dim] float32`.

    A product with the sparse `[batch, distinct]` matrix of the values, and in the gradient with its transpose, which
    costs a quarter of TensorFlow's own gradient of segment sums and adds in the same order each time.
    """
    if weights is None:
        return _plain_sum(looked_up.vectors, looked_up.place, values.row)
    return _weighted_sum(looked_up.vectors, weights, looked_up.place, values.row)


def _plain_sum(vectors: tf.Tensor, place: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient
    def summed(vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            shape = [tf.shape(upstream)[0], tf.shape(vectors)[0]]
            return _product(_transposed(_sparse(row, place, tf.ones(tf.shape(row)), shape)), upstream)

        return tf.sparse.segment_sum(vectors, place, row), gradient

    return summed(vectors)


def _weighted_sum(vectors: tf.Tensor, weights: tf.Tensor, place: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    rows = tf.reduce_sum(row[-1:] + 1)  # none in an empty batch

    @tf.custom_gradient
    def summed(
        vectors: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        # The product divides by the number of rows: with none at all, one is added and cut off again.
        matrix = _sparse(row, place, weights, [tf.maximum(rows, 1), tf.shape(vectors)[0]])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_weights = tf.reduce_sum(tf.gather(upstream, row) * tf.gather(vectors, place), axis=1)
            missing = tf.maximum(1 - rows, 0)
            return _product(_transposed(matrix), tf.pad(upstream, [[0, missing], [0, 0]])), of_weights

        return _product(matrix, vectors)[:rows], gradient

    return summed(vectors, weights)


def _sparse(row: tf.Tensor, column: tf.Tensor, values: tf.Tensor, shape: list[tf.Tensor]) -> tf.Tensor:
    """A sparse matrix (a variant tensor) of values at (row, column), rows ascending."""
    places = tf.cast(tf.stack([row, column], axis=1), tf.int64)
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=places, values=values, dense_shape=tf.cast(tf.stack(shape), tf.int64)
    )


def _transposed(matrix: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.SparseMatrixTranspose(input=matrix, conjugate=False, type=tf.float32)


def _product(matrix: tf.Tensor, dense: tf.Tensor) -> tf.Tensor:
    """Sparse times dense. Not by its option to transpose, which adds in the order in which threads come."""
    return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense)


def _counts(values: FlatValues) -> tf.Tensor:
    """How many values each row has, `[batch] float32`."""
    return tf.math.segment_sum(tf.ones(tf.shape(values.row)), values.row)


def _open_mean(
    looked_up: DistinctVectors, values: FlatValues, openness: tf.Tensor, weights: tf.Tensor | None
) -> tf.Tensor:
    """sum of w_v x_v / sum of w_v o_v x min(1, sum of o_v), o the openness: without w, sum of x_v / max(1, sum of o_v).

    OptFS specification, section 6, where x_v = g_v e_v; with weights, its extension.
    """
    opened = tf.gather(openness, looked_up.place)
    count = tf.math.segment_sum(opened, values.row)
    if weights is None:
        return sum_by_row(looked_up, values) / tf.maximum(count, 1.0)[:, None]
    total = sum_by_row(looked_up, values, weights)
    share = tf.math.divide_no_nan(tf.minimum(count, 1.0), tf.math.segment_sum(weights * opened, values.row))
    return total * share[:, None]


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
        if self.kind == "root" and looked_up.openness is not None:
            count = tf.math.segment_sum(tf.gather(looked_up.openness, looked_up.place), values.row)
            return sum_by_row(looked_up, values) / tf.sqrt(tf.maximum(count, 1.0))[:, None]
        if self.kind == "root":
            return sum_by_row(looked_up, values) / tf.sqrt(_counts(values))[:, None]
        if self.kind == "recent":
            return mean_by_row(looked_up, values, tf.pow(0.5, tf.cast(values.from_end, tf.float32) / self.half_life))
        place = tf.minimum(values.from_end, self.log_weights.shape[0] - 1)
        return mean_by_row(looked_up, values, tf.exp(tf.gather(self.log_weights, place)))
