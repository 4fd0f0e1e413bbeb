"""Target attention: a history pooled by what the candidate makes of each of its items (Zhou et al., DIN, KDD 2018)."""

from recsys._tensorflow import keras, tf
from recsys.features.pooling import DistinctVectors, FlatValues
from recsys.ranking.seeds import named_seed

UNITS = 32


class Attention(keras.layers.Layer):
    """sum of w_j x_j over a row's values, w = softmax of a small network of [x_j, q, x_j q], q the candidate's vector.

    A value counts with its openness, so a closed one is as absent; a row without open values gives zeros. First-order
    weights, the column after `dim`, are pooled with the same w.
    """

    def __init__(self, name: str, dim: int, seed: int) -> None:
        super().__init__(name=f"attention_{name}")
        self.dim = dim

        def dense(part: str, units: int, activation: str | None = None) -> keras.layers.Dense:
            start = keras.initializers.GlorotUniform(seed=named_seed(seed, f"{name}/{part}"))
            return keras.layers.Dense(units, activation=activation, kernel_initializer=start, name=part)

        self.hidden, self.score = dense("hidden", UNITS, "relu"), dense("score", 1)

    def call(self, looked_up: DistinctVectors, values: FlatValues, candidate: tf.Tensor) -> tf.Tensor:
        """`[batch, width] float32`; `candidate` `[batch, dim]` is the candidate's gated vector."""
        vectors = tf.gather(looked_up.vectors, looked_up.place)
        keys, query = vectors[:, : self.dim], tf.gather(candidate, values.row)
        scores = self.score(self.hidden(tf.concat([keys, query, keys * query], axis=1)))[:, 0]
        highest = tf.stop_gradient(tf.math.segment_max(scores, values.row))
        weights = tf.exp(scores - tf.gather(highest, values.row))
        if looked_up.openness is not None:
            weights *= tf.gather(looked_up.openness, looked_up.place)
        total = tf.math.segment_sum(weights, values.row)
        pooled = tf.math.segment_sum(weights[:, None] * vectors, values.row)
        return tf.math.divide_no_nan(pooled, total[:, None])
