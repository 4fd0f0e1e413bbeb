"""A weight for popularity when ranking, in two more coordinates of vectors that keep the length 1."""

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.schema import PADDING_ID

COORDINATES = 2
"""What the prior adds to the dimension of served vectors."""


class PopularityPrior(keras.layers.Layer):
    """Makes inner products rank by <q, c> + weight * log(training count of the item), which no unit vectors hold as is.

    An item's vector becomes (c, b, sqrt(M^2 - 1 - b^2)) / M with b its weighted logarithm and M^2 = 1 + max b^2, a
    query's (q, 1, 0) / sqrt(2): the reduction of maximum inner products to cosines (Bachrach et al., RecSys 2014,
    section 3.2). Inner products are those sums over sqrt(2) M. An item that training did not know counts as seen once.
    """

    def __init__(self, counts: np.ndarray, weight: float) -> None:
        """`counts` `[item ids]` are training counts."""
        super().__init__(name="popularity_prior")
        bonus = (weight * np.log(np.maximum(counts, 1))).astype(np.float32)
        bonus[PADDING_ID] = 0.0
        self.bonus = tf.Variable(bonus, trainable=False, name="popularity_prior/bonus")
        self.highest = float(bonus.max())

    def items(self, vectors: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """`[batch, dim]` unit vectors of item ids `[batch]` to `[batch, dim + 2]`."""
        known = (ids >= 0) & (ids < self.bonus.shape[0])
        bonus = tf.gather(self.bonus, tf.where(known, ids, PADDING_ID))[:, None]
        rest = tf.sqrt(tf.maximum(self.highest**2 - tf.square(bonus), 0.0))
        return tf.concat([vectors, bonus, rest], axis=1) / (1.0 + self.highest**2) ** 0.5

    @staticmethod
    def queries(vectors: tf.Tensor) -> tf.Tensor:
        """`[batch, dim]` unit vectors to `[batch, dim + 2]`."""
        one = tf.ones_like(vectors[:, :1])
        return tf.concat([vectors, one, tf.zeros_like(one)], axis=1) / 2.0**0.5
