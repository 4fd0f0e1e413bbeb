"""How often an item is in a batch: the logQ of the sampling correction, from counts or from the stream itself."""

import numpy as np

from recsys._tensorflow import tf
from recsys.config.train import StreamingConfig

SMALLEST = 1e-8
"""Estimates are clamped to [SMALLEST, 1]: an item without estimate must not get an infinite correction."""

PRIME = (1 << 31) - 1
"""Modulus of the multiply-add hashes; products of two numbers below it fit int64."""


def expected_counts(counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Expected occurrences of each item id in a batch, `[ids] float32`, from training counts `[ids]`.

    An item without training positives cannot be drawn; it is counted as one so that its logarithm exists.
    """
    total = max(1, int(np.sum(counts)))
    return (batch_size * np.maximum(counts, 1) / total).astype(np.float32)


def occurrences(ids: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """How often each id occurs in a batch of ids, `ids.shape float32`."""
    ordered = tf.sort(batch)
    count = tf.searchsorted(ordered, ids, side="right") - tf.searchsorted(ordered, ids, side="left")
    return tf.cast(count, tf.float32)


def recent_occurrences(batch: tf.Tensor, recent: tf.Tensor) -> tf.Tensor:
    """What each row of a batch stands for, `[rows] float32`, given how popular its item was just before, `recent`.

    An item that is in the batch n times gets n x P(it is in a batch at all): then the sum over its n rows of
    exp(s - log of this) has the expectation exp(s), and the chance in n cancels. Occurrences are taken as Poisson
    with a mean proportional to `recent` `[rows] float32 > 0`, scaled such that those of the batch's items add up to its
    rows.
    """
    count = occurrences(batch, batch)
    scale = tf.cast(tf.size(batch), tf.float32) / tf.reduce_sum(recent / count)
    return -count * tf.math.expm1(-scale * recent)


class StreamingFrequencies(tf.Module):
    """The streaming estimator of Yi et al. 2019 (algorithm 2 and section 4.1) with several hashes.

    It keeps for each bucket the step at which an item of it was last seen and a running mean of the gap between
    sightings; 1 / gap estimates the probability that the item is in a batch. Collisions shorten gaps, so of the hashes
    the longest gap counts. All state is in variables: `last` `[hashes, buckets] int64`, `gap` `[hashes, buckets]
    float32` and `step` int64.
    """

    def __init__(self, config: StreamingConfig, *, first_gap: float, seed: int) -> None:
        """`first_gap` is what an unseen item is taken to have: corpus size / batch size, so it looks rare, not hot."""
        super().__init__(name="streaming_frequencies")
        rng = np.random.default_rng([seed, 0xF4E9])
        self.alpha = config.alpha
        self.buckets = config.buckets
        self.multipliers = rng.integers(1, PRIME, config.hashes, dtype=np.int64)
        self.offsets = rng.integers(0, PRIME, config.hashes, dtype=np.int64)
        shape = [config.hashes, config.buckets]
        self.last = tf.Variable(tf.zeros(shape, tf.int64), trainable=False, name="last")
        self.gap = tf.Variable(tf.fill(shape, tf.constant(first_gap, tf.float32)), trainable=False, name="gap")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def update(self, ids: tf.Tensor) -> None:
        """Take in the item ids of one global batch; an item counts once a step, and so does a bucket.

        In a replica of a `tf.distribute` strategy `ids` are that replica's, and the union of all replicas' is taken in,
        once, wherever the variables live (one copy, or mirrored).
        """
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            self._take_in(ids)
        else:
            context.merge_call(lambda strategy, parts: self._take_in(strategy.gather(parts, axis=0)), args=(ids,))

    def _take_in(self, ids: tf.Tensor) -> None:
        """One step of the algorithm. Items that share a bucket write the same, worked out from what was there."""
        step = self.step.assign_add(1)
        for index, bucket in enumerate(self._hashed(tf.unique(tf.reshape(ids, [-1])).y)):
            where = tf.stack([tf.fill(tf.shape(bucket), tf.constant(index, tf.int64)), bucket], axis=1)
            since = tf.cast(step - tf.gather_nd(self.last, where), tf.float32)
            gap = (1.0 - self.alpha) * tf.gather_nd(self.gap, where) + self.alpha * since
            for variable, values in ((self.gap, gap), (self.last, tf.fill(tf.shape(bucket), step))):
                for copy in tf.distribute.get_strategy().experimental_local_results(variable):
                    copy.scatter_nd_update(where, values)

    def probabilities(self, ids: tf.Tensor) -> tf.Tensor:
        """Estimated probability that each id is in a batch, same shape, float32 in [SMALLEST, 1]."""
        gaps = [tf.gather(self.gap[index], bucket) for index, bucket in enumerate(self._hashed(ids))]
        return tf.clip_by_value(1.0 / tf.reduce_max(tf.stack(gaps), axis=0), SMALLEST, 1.0)

    def _hashed(self, ids: tf.Tensor) -> list[tf.Tensor]:
        """Buckets of the ids under each hash."""
        ids = tf.cast(ids, tf.int64)
        hashes = zip(self.multipliers, self.offsets, strict=True)
        return [((ids * multiplier + offset) % PRIME) % self.buckets for multiplier, offset in hashes]
