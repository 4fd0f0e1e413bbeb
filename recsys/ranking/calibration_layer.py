"""The calibration as TensorFlow operations, for the exported ranker."""

from recsys._tensorflow import tf
from recsys.ranking.calibration import Calibration, Platt


def apply_calibration(calibration: Calibration, logits: tf.Tensor) -> tf.Tensor:
    """Logits `[n] float32` to probabilities `[n] float32`, as `calibration.probabilities` gives them."""
    if isinstance(calibration, Platt):
        return tf.sigmoid(calibration.slope * logits + calibration.intercept)
    knots = tf.constant(calibration.logits, tf.float32)
    values = tf.constant(calibration.values, tf.float32)
    last = len(calibration.logits) - 1
    above = tf.searchsorted(knots, logits, side="right")
    low, high = tf.clip_by_value(above - 1, 0, last), tf.clip_by_value(above, 0, last)
    left, right = tf.gather(knots, low), tf.gather(knots, high)
    share = tf.math.divide_no_nan(logits - left, right - left)
    return tf.gather(values, low) + share * (tf.gather(values, high) - tf.gather(values, low))
