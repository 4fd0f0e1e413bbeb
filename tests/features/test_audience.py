"""An item's users pooled: against plain NumPy, and what must not matter to it."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.features.audience import Audience
from recsys.features.embedding import EmbeddingTable
from recsys.features.spec import TableSpec, audience_spec, full_table
from recsys.schema import FIRST_VALUE_ID, PADDING_ID

USERS, ITEMS, DIM = 12, 9, 4


def pairs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (user, item) pairs in random order; the last item has no user."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.5)
    kept = item < ITEMS - 1
    order = rng.permutation(int(kept.sum()))
    return user[kept][order] + FIRST_VALUE_ID, item[kept][order] + FIRST_VALUE_ID


def layer(table_spec: TableSpec | None = None) -> Audience:
    table = EmbeddingTable(table_spec or full_table("user", USERS + FIRST_VALUE_ID), DIM, scale=1.0, seed=3)
    return Audience(audience_spec(*pairs(), ITEMS + FIRST_VALUE_ID), table)


def expected(audience: Audience, item: int, without: int = PADDING_ID) -> np.ndarray:
    """Sum over the other users / sqrt of their number, one by one in float64."""
    user, items = pairs()
    table = audience.table.table.numpy().astype(np.float64)
    rows = [audience.table.spec.row_of[u] for u, i in zip(user, items, strict=True) if i == item and u != without]
    return np.sum([table[row] for row in rows], axis=0) / np.sqrt(max(len(rows), 1)) if rows else np.zeros(DIM)


def test_is_the_sum_over_the_users_over_the_root_of_their_number() -> None:
    audience = layer()
    items = np.array([5, 3, 5, 10, 4, 3], np.int32)  # repeats, in no order
    found = audience(tf.constant(items)).numpy()
    np.testing.assert_allclose(found, [expected(audience, item) for item in items], atol=1e-5)


def test_the_rows_own_user_is_left_out() -> None:
    audience = layer()
    user, item = pairs()
    found = audience(tf.constant(item, tf.int32), tf.constant(user, tf.int32)).numpy()
    np.testing.assert_allclose(found, [expected(audience, i, u) for u, i in zip(user, item, strict=True)], atol=1e-5)
    # What the own user's vector is must not matter, nor be learned from.
    with tf.GradientTape() as tape:
        vector = audience(tf.constant(item[:1], tf.int32), tf.constant(user[:1], tf.int32))
    gradient = tf.convert_to_tensor(tape.gradient(vector, audience.table.table)).numpy()
    assert np.abs(gradient[user[0]]).max() == pytest.approx(0.0, abs=1e-6)
    others = user[(item == item[0]) & (user != user[0])]
    np.testing.assert_allclose(gradient[others], 1 / np.sqrt(len(others)), rtol=1e-5)


def test_padding_leaves_no_one_out() -> None:
    audience = layer()
    items = tf.constant([3, 4], tf.int32)
    np.testing.assert_array_equal(audience(items, tf.zeros([2], tf.int32)).numpy(), audience(items).numpy())


@pytest.mark.parametrize("item", [ITEMS - 1 + FIRST_VALUE_ID, ITEMS + FIRST_VALUE_ID, 10_000, -1, PADDING_ID])
def test_an_item_without_users_has_zeros(item: int) -> None:
    assert not layer()(tf.constant([item], tf.int32)).numpy().any()


def test_users_without_a_row_speak_as_the_unseen_one() -> None:
    row_of = np.minimum(np.arange(USERS + FIRST_VALUE_ID), 6)
    row_of[7:] = FIRST_VALUE_ID - 1
    audience = layer(TableSpec("user", row_of.astype(np.int64)))
    np.testing.assert_allclose(audience(tf.constant([3], tf.int32)).numpy()[0], expected(audience, 3), atol=1e-5)
