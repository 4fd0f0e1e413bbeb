"""What an item's users say of it: their id vectors pooled, as a query's history pools items."""

from recsys._tensorflow import keras, tf
from recsys.features.embedding import EmbeddingTable
from recsys.features.ragged import repeated
from recsys.features.spec import AudienceSpec
from recsys.schema import PADDING_ID


class Audience(keras.layers.Layer):
    """Sum of the vectors of an item's users over the root of their number: `[batch, dim] float32`.

    One step of the graph convolution of LightGCN (He et al. 2020, equation 3, with the item's half of its symmetric
    norm), by an exact sum over all users instead of a sample. The lists are part of the model, so an item's vector
    still follows from its id. In training the row's own user is left out: else the item would know the answer.
    """

    def __init__(self, spec: AudienceSpec, table: EmbeddingTable) -> None:
        super().__init__(name="audience")
        self.table = table
        # Variables, not constants: long lists must not live inside the exported graph. int64 has GPU kernels.
        self.users = tf.Variable(spec.users, trainable=False, name="audience/users", dtype=tf.int64)
        self.splits = tf.Variable(spec.splits, trainable=False, name="audience/splits", dtype=tf.int64)

    def call(self, items: tf.Tensor, without: tf.Tensor | None = None) -> tf.Tensor:
        """Pool for data-set ids `items` `[batch]`; `without` `[batch]`: a user of each to leave out, 0 for none.

        An item without users, one that came after training too, gets zeros.
        """
        known = (items >= 0) & (items < self.splits.shape[0] - 1)
        distinct, place = tf.unique(tf.where(known, items, PADDING_ID))
        start = tf.gather(self.splits, distinct)
        count = tf.cast(tf.gather(self.splits, distinct + 1) - start, tf.int32)
        row = repeated(count)
        within = tf.range(tf.size(row)) - tf.gather(tf.cumsum(count, exclusive=True), row)
        users = tf.gather(self.users, tf.gather(start, row) + tf.cast(within, tf.int64))
        found = tf.unique(self.table.rows(users))
        total = tf.sparse.segment_sum(self.table.vectors(found.y), found.idx, row, num_segments=tf.size(distinct))
        total, count = tf.gather(total, place), tf.gather(tf.cast(count, tf.float32), place)
        if without is not None:
            own = tf.cast(tf.not_equal(without, PADDING_ID), tf.float32)
            total -= own[:, None] * self.table(without)
            count -= own
        return total / tf.sqrt(tf.maximum(count, 1.0))[:, None]
