"""Uniform draws of catalogue entries for self-supervision, known by the number of the step."""

import numpy as np

from recsys._tensorflow import tf


class UniformSampler(tf.Module):
    """Batches of distinct ones of `ids` `[n] int32`, in a random order of all of them that is drawn anew each pass.

    The order of a pass comes from (seed, number of the pass) alone and the place in it from the step, so a run that was
    stopped goes on with the batch that was next. What is left of a pass and fills no batch waits for another pass.
    """

    def __init__(self, ids: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(name="uniform_sampler")
        self.count, self.size = len(ids), min(batch_size, len(ids))
        self.ids = tf.Variable(ids, trainable=False, dtype=tf.int32, name="ids")
        self.seed = tf.constant([seed % (1 << 31), 0x551], tf.int32)
        # Made from the seed when it is needed, hence in no checkpoint.
        self.order = tf.Variable(tf.zeros([self.count], tf.int32), trainable=False, name="order")
        self.drawn = tf.Variable(-1, trainable=False, dtype=tf.int64, name="drawn")

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The ids of step `step` (from 0), `[min(batch_size, n)] int32`."""
        step = tf.cast(step, tf.int64)
        batches = self.count // self.size
        number, place = step // batches, tf.cast(step % batches, tf.int32)
        tf.cond(tf.equal(number, self.drawn), lambda: None, lambda: self._shuffle(number))
        return self.order[place * self.size : (place + 1) * self.size]

    def _shuffle(self, number: tf.Tensor) -> None:
        self.order.assign(tf.random.experimental.stateless_shuffle(self.ids, tf.random.fold_in(self.seed, number)))
        self.drawn.assign(number)
