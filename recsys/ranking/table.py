"""One table of embeddings (and first-order weights) for the values of all fields, with a gate a row."""

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.features.gates import Gates, openness
from recsys.features.pooling import DistinctVectors
from recsys.ranking.spec import FieldSpec, RankerSpec
from recsys.schema import UNSEEN_ID


class FeatureTable(keras.layers.Layer):
    """`[rows, width] float32`: all parts of the table of `spec` below each other, so that a step looks up once.

    A data-set id finds its row by its part's map; ids that the part does not know share its unseen row. Initial values
    are drawn from `seed` alone: normal with the configured scale, else Xavier-uniform (OptFS, section 3); first-order
    weights start at 0, having no symmetry to break. Rows outside `gated` `[rows] bool` have no gate.
    """

    def __init__(
        self, spec: RankerSpec, *, seed: int, gates: Gates | None = None, gated: np.ndarray | None = None
    ) -> None:
        super().__init__(name="feature_table")
        self.spec, self.gates = spec, gates
        shape, scale = [spec.rows, spec.dim + spec.linear], spec.config.initial_scale
        if scale is None:
            bound = float(np.sqrt(6.0 / (spec.rows + spec.config.embedding_dim)))
            first = tf.random.stateless_uniform(shape, [seed, 0], -bound, bound)
        else:
            first = tf.random.stateless_normal(shape, [seed, 0], stddev=scale)
        if spec.linear:
            first *= tf.constant([[1.0] * spec.dim + [0.0]])
        if spec.linear and spec.tasks:
            first = tf.concat([first, tf.zeros([spec.rows, len(spec.tasks)])], axis=1)
        self.table = tf.Variable(first, name="table")
        every = gated is None or bool(gated.all())
        self.gated = None if every else tf.Variable(gated, trainable=False, name="gated")
        maps = [table.row_of + spec.offsets[table.name] for table in spec.tables]
        self._starts = dict(zip(spec.offsets, np.cumsum([0, *map(len, maps)])[:-1].tolist(), strict=True))
        self.sizes = {table.name: len(table.row_of) for table in spec.tables}
        self.row_of = tf.Variable(np.concatenate(maps), trainable=False, dtype=tf.int64, name="row_of")
        self.closed = [spec.offsets[table.name] + table.closed_row for table in spec.tables if table.closed_row]

    def rows(self, ids: tf.Tensor, fields: tuple[FieldSpec, ...]) -> tf.Tensor:
        """Table rows of ids whose last axis runs over `fields` (or is free, for one field), same shape, int64."""
        ids = tf.cast(ids, tf.int64)
        size = tf.constant([self.sizes[field.table] for field in fields], tf.int64)
        start = tf.constant([self._starts[field.table] for field in fields], tf.int64)
        known = (ids >= 0) & (ids < size)
        return tf.gather(self.row_of, tf.where(known, ids, UNSEEN_ID) + start)

    def look_up(self, rows: tf.Tensor) -> DistinctVectors:
        """The weights of flat `rows` `[lookups] int64` times their gates, `[distinct, width] float32`.

        Each distinct row is read once, and its gate once, so their gradients have each row once.
        """
        distinct = tf.unique(rows)
        vectors, gates = tf.gather(self.table, distinct.y), None
        if self.gates is not None:
            gates = self.gates.at(distinct.y)
            if self.gated is not None:
                gates = tf.where(tf.gather(self.gated, distinct.y), gates, 1.0)
            vectors *= gates[:, None]
        return DistinctVectors(vectors, distinct.idx, self._openness(distinct.y, gates))

    def _openness(self, rows: tf.Tensor, gates: tf.Tensor | None) -> tf.Tensor | None:
        """What each row counts in a pooled mean, from 0, closed, to 1, `rows.shape float32`; None: 1 for all."""
        if gates is not None:
            return openness(gates)
        if self.closed:
            closed = tf.reduce_any(rows[..., None] == tf.constant(self.closed, tf.int64), axis=-1)
            return tf.cast(tf.logical_not(closed), tf.float32)
        return None
