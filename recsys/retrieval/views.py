"""Two views of the same fields: which of them each view hides, and which values it leaves out.

T. Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021, section 3. One pair of masks
holds for a whole batch; all randomness comes from stateless seeds.
"""

import numpy as np

from recsys._tensorflow import tf
from recsys.schema import PADDING_ID


def correlated_sets(information: np.ndarray, last: int | None = None) -> np.ndarray:
    """Which fields are hidden together (F_m) with each seed field, `[fields, fields] bool`, row = seed.

    A row holds the seed and the floor(fields / 2) others with the most mutual information `[fields, fields]` with it;
    of equals the first. `last` is the place of a field that comes last in the others' rows, whatever it tells (the id
    tells everything about every field, which says nothing about how alike fields are).
    """
    fields = len(information)
    ranked = np.array(information, np.float64)
    if last is not None:
        ranked[:, last] = -np.inf
    np.fill_diagonal(ranked, np.inf)
    order = np.argsort(-ranked, axis=1, kind="stable")[:, : fields // 2 + 1]
    sets = np.zeros((fields, fields), bool)
    np.put_along_axis(sets, order, True, axis=1)
    return sets


def correlated_masks(sets: np.ndarray, seed: tf.Tensor) -> tf.Tensor:
    """Correlated feature masking: `[2, fields] bool`, true where a view hides a field.

    A field is drawn uniformly from `seed` `[2] int32`; the first view hides its row of `sets`, the second the rest.
    """
    drawn = tf.random.stateless_uniform([], seed, maxval=len(sets), dtype=tf.int32)
    first = tf.constant(sets)[drawn]
    return tf.stack([first, tf.logical_not(first)])


def random_masks(fields: int, seed: tf.Tensor, *, complementary: bool = True) -> tf.Tensor:
    """Random feature masking: `[2, fields] bool`, true where a view hides a field.

    The first view hides floor(fields / 2) of them, the second the others; or, where not `complementary`, floor(fields /
    2) drawn anew.
    """
    first = _random_half(fields, tf.random.fold_in(seed, 0))
    second = tf.logical_not(first) if complementary else _random_half(fields, tf.random.fold_in(seed, 1))
    return tf.stack([first, second])


def _random_half(fields: int, seed: tf.Tensor) -> tf.Tensor:
    order = tf.argsort(tf.random.stateless_uniform([fields], seed))
    return order < fields // 2


def drop_values(ids: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """A multi-valued column `[batch, width] int32` with each value turned into padding with probability `rate`.

    A row of which nothing would be left keeps one value, any with the same probability.
    """
    drawn = tf.where(tf.equal(ids, PADDING_ID), -1.0, tf.random.stateless_uniform(tf.shape(ids), seed))
    kept = (drawn >= rate) | tf.equal(drawn, tf.reduce_max(drawn, axis=1, keepdims=True))
    return tf.where(kept, ids, PADDING_ID)
