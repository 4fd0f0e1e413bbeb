"""Embedding tables that map data-set ids to their own rows."""

import zlib

from recsys._tensorflow import keras, tf
from recsys.features.gates import Gates, openness
from recsys.features.spec import TableSpec
from recsys.schema import UNSEEN_ID

UNSEEN_ROW = UNSEEN_ID
"""The special ids have the rows of the same number in every table."""


class EmbeddingTable(keras.layers.Layer):
    """`[rows, dim] float32`, one row a data-set id that the model learned; the others share the unseen row.

    Initial values are normal with standard deviation `scale`, drawn from (seed, table name) alone. With `gates`, one a
    row, every vector is its row times its gate.
    """

    def __init__(self, spec: TableSpec, dim: int, *, scale: float, seed: int, gates: Gates | None = None) -> None:
        super().__init__(name=f"table_{spec.name}")
        self.spec, self.dim, self.gates = spec, dim, gates
        first = tf.random.stateless_normal([spec.rows, dim], seed=[seed, zlib.crc32(spec.name.encode()) >> 1])
        self.table = tf.Variable(first * scale, name=f"{spec.name}/table")
        # A variable, not a constant: a large map must not live inside the exported graph. int64 has GPU kernels.
        self.row_of = tf.Variable(spec.row_of, trainable=False, name=f"{spec.name}/row_of", dtype=tf.int64)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Table rows of data-set ids, same shape, int64; unknown ids and ids beyond the map give the unseen row."""
        ids = tf.cast(ids, tf.int64)
        known = (ids >= 0) & (ids < self.row_of.shape[0])
        return tf.gather(self.row_of, tf.where(known, ids, UNSEEN_ROW))

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeddings of table rows, `rows.shape + [dim] float32`, gated where there are gates."""
        vectors = tf.gather(self.table, rows)
        return vectors if self.gates is None else vectors * self.gates.at(rows)[..., None]

    def openness(self, rows: tf.Tensor) -> tf.Tensor | None:
        """What each row counts in a pooled mean, `rows.shape float32` from 0, closed, to 1; None: 1 for all."""
        if self.gates is not None:
            return openness(self.gates.at(rows))
        if self.spec.closed_row is not None:
            return tf.cast(tf.not_equal(rows, self.spec.closed_row), tf.float32)
        return None

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Embeddings of data-set ids, `ids.shape + [dim] float32`."""
        return self.vectors(self.rows(ids))


def drop_identity(rows: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Replace a random share of rows by the unseen row, which is how that row learns to stand for a newcomer."""
    dropped = tf.random.stateless_uniform(tf.shape(rows), seed) < rate
    return tf.where(dropped, tf.constant(UNSEEN_ROW, rows.dtype), rows)
