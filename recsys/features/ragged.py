"""Rows of different lengths as a flat list of values and row lengths, at the cost of the values, not of the padding."""

from recsys._tensorflow import tf
from recsys.schema import PADDING_ID


def as_ragged(ids: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    """`[batch, width] int32` padded with 0 as the values that are there; a ragged tensor as it is."""
    if isinstance(ids, tf.RaggedTensor):
        return ids
    present = tf.not_equal(ids, PADDING_ID)
    lengths = tf.reduce_sum(tf.cast(present, tf.int32), axis=1)
    return tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, present), lengths, validate=False)


def repeated(counts: tf.Tensor) -> tf.Tensor:
    """0 counts[0] times, 1 counts[1] times, …: `[sum of counts] int32`, for `counts` `[n] int32`, zeros among them.

    What tf.repeat and RaggedTensor.value_rowids do too, but those fill n x max(counts) cells on the way.
    """
    splits = tf.concat([[0], tf.cumsum(counts)], axis=0)
    numbered = tf.raw_ops.RaggedTensorToSparse(
        rt_nested_splits=[splits], rt_dense_values=tf.zeros(splits[-1:], tf.bool)
    )
    return tf.cast(numbered.sparse_indices[:, 0], tf.int32)
