"""Masks and value dropout of the two views (ssl_two_tower specification, section 8, items 5 and 7)."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys._tensorflow import tf
from recsys.encoding.information import mutual_information
from recsys.retrieval.views import correlated_masks, correlated_sets, drop_values, random_masks
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side


def drawn(masks: Callable[[tf.Tensor], tf.Tensor], count: int) -> np.ndarray:
    """What a function of a seed gives for `count` seeds."""
    seeds = tf.stack([tf.range(count), tf.fill([count], 9)], axis=1)
    return tf.function(lambda: tf.map_fn(masks, seeds, fn_output_signature=tf.bool))().numpy()


def matrix_of(fields: int, seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).random((fields, fields))
    return half + half.T


@settings(max_examples=30, deadline=None)
@given(fields=st.integers(3, 12), seed=st.integers(0, 1000), with_id=st.booleans())
def test_the_seed_and_its_nearest_half_are_hidden_together(fields: int, seed: int, with_id: bool) -> None:
    """Against a ranking written out field by field; the id is no one's neighbour while others are left."""
    information = matrix_of(fields, seed)
    identity = 0 if with_id else None
    sets = correlated_sets(information, identity)
    for place in range(fields):
        others = [other for other in range(fields) if other != place]
        others.sort(key=lambda other: (other == identity, -information[place, other]))
        assert set(np.flatnonzero(sets[place])) == {place, *others[: fields // 2]}
    masks = correlated_masks(sets, tf.constant([seed, 1])).numpy()
    assert (masks.sum(axis=0) == 1).all(), "each field is hidden in exactly one view"
    assert masks[0].sum() == fields // 2 + 1
    assert not masks.all(axis=1).any(), "no view hides everything"


def test_every_field_is_the_seed_as_often() -> None:
    """With sets of one field each, the mask shows which field was drawn."""
    alone = np.eye(5, dtype=bool)
    share = drawn(lambda seed: correlated_masks(alone, seed)[0], 4000).mean(axis=0)
    np.testing.assert_allclose(share, 0.2, atol=4 * np.sqrt(0.16 / 4000))


@pytest.mark.parametrize("fields", [4, 5])
@pytest.mark.parametrize("complementary", [True, False])
def test_random_halves(fields: int, complementary: bool) -> None:
    """Complementary ones cover each field once; independent ones are drawn apart; each field is as likely."""
    masks = drawn(lambda seed: random_masks(fields, seed, complementary=complementary), 2000)
    sizes = masks.sum(axis=2)
    assert (sizes[:, 0] == fields // 2).all()
    assert (sizes[:, 1] == (fields - fields // 2 if complementary else fields // 2)).all()
    np.testing.assert_allclose(masks[:, 0].mean(axis=0), (fields // 2) / fields, atol=0.05)
    both = (masks[:, 0] & masks[:, 1]).mean()
    expected = 0.0 if complementary else ((fields // 2) / fields) ** 2
    assert both == pytest.approx(expected, abs=0.03)


def test_values_are_dropped_at_the_rate_and_one_always_stays() -> None:
    """Padding stays padding and is no value that could be the one that stays."""
    rng = np.random.default_rng(3)
    ids = rng.integers(3, 99, (2000, 4)).astype(np.int32)
    lengths = rng.integers(1, 5, 2000)
    ids[np.arange(4) >= lengths[:, None]] = 0
    kept = drop_values(tf.constant(ids), 0.3, tf.constant([1, 2])).numpy()
    assert ((kept == ids) | (kept == 0)).all()
    counts = (kept > 0).sum(axis=1)
    assert counts.min() == 1
    four = lengths == 4
    assert counts[four].mean() == pytest.approx(4 * 0.7 + 0.3**4, abs=0.1)
    single = drop_values(tf.constant(ids), 0.99, tf.constant([1, 2])).numpy()
    stays = (single[four] > 0)[(single[four] > 0).sum(axis=1) == 1].mean(axis=0)
    np.testing.assert_allclose(stays, 0.25, atol=0.08)


# Mutual information


def items(columns: dict[str, np.ndarray]) -> tuple[pa.Table, Schema]:
    fields = tuple(Field(name=name, side=Side.ITEM, kind=Kind.CATEGORICAL) for name in columns)
    table = pa.table({name: (values + FIRST_VALUE_ID).astype(np.int32) for name, values in columns.items()})
    return table, Schema(fields=fields)


def entropy(values: np.ndarray) -> float:
    share = np.bincount(values) / len(values)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def test_mutual_information_of_independent_and_of_equal_columns() -> None:
    """About 0, although 200 x 200 cells for 3,000 items bias the plain estimate far up; a column's entropy."""
    rng = np.random.default_rng(5)
    one, other = rng.integers(0, 200, 3000), rng.integers(0, 200, 3000)
    table, schema = items({"one": one, "other": other})
    found = mutual_information(table, schema, Side.ITEM, 1)
    matrix = np.array(found["matrix"])
    assert matrix[0, 1] == matrix[1, 0] < 0.05
    np.testing.assert_allclose(np.diag(matrix), [entropy(one), entropy(other)], atol=1e-9)
    np.testing.assert_allclose(found["id"], [entropy(one), entropy(other)], atol=1e-9)
    joint = np.bincount(one * 200 + other, minlength=40_000).reshape(200, 200) / 3000
    left, right = np.meshgrid(joint.sum(axis=1), joint.sum(axis=0), indexing="ij")
    seen = joint > 0
    assert (joint[seen] * np.log(joint[seen] / (left * right)[seen])).sum() > 1.0, "the uncorrected estimate is biased"


def test_a_copied_field_is_always_hidden_with_its_original() -> None:
    """Whatever else there is: five fields, two of them copies, one nearly so."""
    rng = np.random.default_rng(6)
    original = rng.integers(0, 30, 3000)
    near = np.where(rng.random(3000) < 0.2, rng.integers(0, 30, 3000), original)
    columns = {
        "near": near,
        "original": original,
        "noise": rng.integers(0, 500, 3000),
        "copy": original.copy(),
        "half": original // 2,
    }
    table, schema = items(columns)
    sets = correlated_sets(np.array(mutual_information(table, schema, Side.ITEM, 1)["matrix"]))
    for row in (1, 3):
        assert sets[row, 1] and sets[row, 3]


def test_multi_valued_fields_spread_an_item_over_its_values() -> None:
    """Against the definition written out; shuffling breaks the tie between the fields, so little is taken off."""
    rng = np.random.default_rng(7)
    colour = rng.integers(0, 3, 4000)
    tags = [sorted({int(c), int(rng.integers(3, 6))}) for c in colour]
    schema = Schema(
        fields=(
            Field(name="colour", side=Side.ITEM, kind=Kind.CATEGORICAL),
            Field(name="tags", side=Side.ITEM, kind=Kind.MULTI_VALUED),
        )
    )
    table = pa.table(
        {
            "colour": (colour + FIRST_VALUE_ID).astype(np.int32),
            "tags": pa.array([[tag + FIRST_VALUE_ID for tag in row] for row in tags], pa.list_(pa.int32())),
        }
    )
    found = np.array(mutual_information(table, schema, Side.ITEM, 1)["matrix"])
    joint = np.zeros((3, 6))
    for c, row in zip(colour, tags, strict=True):
        for tag in row:
            joint[c, tag] += 1 / len(row) / len(colour)
    expected = sum(p * np.log(p / joint[c].sum() / joint[:, t].sum()) for (c, t), p in np.ndenumerate(joint) if p > 0)
    assert found[0, 1] == pytest.approx(expected, abs=0.003)


def test_numbers_count_by_decile_and_missing_ones_are_a_value() -> None:
    """A field that is the number's sign, and one that says where it is missing, share what they can with it."""
    rng = np.random.default_rng(8)
    number = rng.normal(size=4000).astype(np.float32)
    sign = (number > np.median(number)).astype(np.int32)
    missing = rng.random(4000) < 0.25
    schema = Schema(
        fields=(
            Field(name="price", side=Side.ITEM, kind=Kind.NUMERIC),
            Field(name="holed", side=Side.ITEM, kind=Kind.NUMERIC),
            Field(name="sign", side=Side.ITEM, kind=Kind.CATEGORICAL),
            Field(name="hole", side=Side.ITEM, kind=Kind.CATEGORICAL),
        )
    )
    columns = {
        "price": number,
        "holed": np.where(missing, np.float32(np.nan), rng.normal(size=4000).astype(np.float32)),
        "sign": sign + FIRST_VALUE_ID,
        "hole": missing.astype(np.int32) + FIRST_VALUE_ID,
    }
    found = np.array(mutual_information(pa.table(columns), schema, Side.ITEM, 1)["matrix"])
    assert found[0, 0] == pytest.approx(np.log(10), abs=1e-3), "ten values, as many of each"
    assert found[0, 2] == pytest.approx(np.log(2), abs=0.02)
    assert found[1, 3] == pytest.approx(entropy(missing.astype(int)), abs=0.02)
    assert max(found[0, 1], found[0, 3], found[1, 2]) < 0.02


def test_large_vocabularies_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids count modulo a bound, so two values of one remainder are one."""
    monkeypatch.setattr("recsys.encoding.information.HASHED_VALUES", 8)
    values = np.random.default_rng(9).integers(0, 32, 2000)
    table, schema = items({"many": values})
    found = mutual_information(table, schema, Side.ITEM, 1)
    assert found["matrix"][0][0] == pytest.approx(entropy((values + FIRST_VALUE_ID) % 8), abs=1e-9)
