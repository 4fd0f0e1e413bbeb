"""Numbers to standardised inputs."""

from recsys._tensorflow import tf
from recsys.features.spec import InputSpec

LIMIT = 10.0
"""Standardised values are clipped to +- this, so that one absurd raw value cannot swamp a tower."""


def standardise(values: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    """`[batch] float32` raw numbers (NaN where missing) to `[batch, 2]`: standardised value (0 where missing), flag.

    The flag is 1 where the value is missing.
    """
    missing = tf.math.is_nan(values)
    scaled = tf.math.log1p(tf.maximum(values, 0.0)) if spec.log else values
    scaled = tf.clip_by_value((scaled - spec.mean) / spec.std, -LIMIT, LIMIT)
    return tf.stack([tf.where(missing, 0.0, scaled), tf.cast(missing, tf.float32)], axis=1)
