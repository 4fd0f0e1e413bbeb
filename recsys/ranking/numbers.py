"""Numbers as a ranker reads them: to ids of buckets, or as a factor on their field's embedding."""

from recsys._tensorflow import tf
from recsys.features.numeric import LIMIT
from recsys.ranking.buckets import LARGEST_BUCKET
from recsys.ranking.spec import FieldSpec, Reading
from recsys.schema import FIRST_VALUE_ID, MISSING_ID


def number_ids(values: tf.Tensor, field: FieldSpec, size: int) -> tf.Tensor:
    """Ids of numbers `[batch] float32` among the field's `size` ids, `[batch] int32`; NaN is missing.

    Buckets below the lowest and above the highest of training are taken for these.
    """
    missing = tf.math.is_nan(values)
    present = tf.where(missing, 0.0, values)
    if field.reading is Reading.VALUE:
        bucket = tf.zeros_like(present, tf.int32)
    elif field.reading is Reading.QUANTILE:
        bucket = tf.searchsorted(tf.constant(field.edges, tf.float32), present, side="right")
    else:
        limit = float(LARGEST_BUCKET)
        small = tf.clip_by_value(present, -limit, 2.0)
        large = tf.floor(tf.square(tf.math.log(tf.clip_by_value(present, 1.0, 1e30))))
        bucket = tf.cast(tf.where(present <= 2.0, tf.math.sign(small) * tf.floor(tf.abs(small)), large), tf.int32)
        bucket = tf.maximum(tf.minimum(bucket, LARGEST_BUCKET) - field.lowest, 0)
    return tf.where(missing, MISSING_ID, tf.minimum(bucket + FIRST_VALUE_ID, size - 1))


def number_factor(values: tf.Tensor, field: FieldSpec) -> tf.Tensor:
    """What a `value` field's row is multiplied by, `[batch] float32`: the standardised number, 1 where missing."""
    scaled = tf.math.log1p(tf.maximum(values, 0.0)) if field.log else values
    scaled = tf.clip_by_value((scaled - field.mean) / field.std, -LIMIT, LIMIT)
    return tf.where(tf.math.is_nan(values), 1.0, scaled)
