"""Self-supervision (ssl_two_tower specification, section 8, items 4 to 6), and what hiding a field means."""

from collections.abc import Mapping

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.model import IdentityConfig, ModelConfig, TowerConfig
from recsys.config.ssl import SslConfig
from recsys.config.train import LossConfig, OptimiserConfig
from recsys.features.spec import Form, InputSpec, full_table
from recsys.retrieval.job import build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.sampler import UniformSampler
from recsys.retrieval.softmax import sampled_softmax_loss
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.retrieval.ssl import SelfSupervision, make_masks
from recsys.retrieval.step import Catalogue, Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, MISSING_ID, UNSEEN_ID, USER

ITEMS, VALUES = 40, 12
STEP = tf.constant(0, tf.int64)
COLD = tf.constant(1 / 0.1)


def two_tower(*, feature_dropout: float = 0.0, moment: bool = False) -> TwoTower:
    """Users by id; items by id, a category, tags, a number and, where wanted, a value of the moment."""
    inputs = (
        InputSpec("category", Form.ID, "category"),
        InputSpec("tags", Form.IDS, "tags"),
        InputSpec("price", Form.NUMBER),
        *((InputSpec("age", Form.NUMBER),) if moment else ()),
    )
    config = ModelConfig(embedding_dim=8, output_dim=6, user_id=IdentityConfig())
    plain = TowerConfig(hidden=(16,), feature_dropout=feature_dropout)
    item = TowerSpec("item", ITEM, IdentityConfig(), inputs, plain)
    query = TowerSpec("query", USER, IdentityConfig(), (), TowerConfig())
    sizes = {ITEM: ITEMS + 3, USER: 23, "category": VALUES + 3, "tags": VALUES + 3}
    tables = tuple(full_table(name, size) for name, size in sizes.items())
    model = TwoTower(TwoTowerSpec(config, query, item, tables), 5)
    build(model)
    return model


def catalogue() -> dict[str, tf.Tensor]:
    """Static features by id, `[ids, …]`; the special ids have missing values."""
    rng = np.random.default_rng(2)
    tags = rng.integers(3, VALUES + 3, (ITEMS + 3, 3)).astype(np.int32)
    tags[rng.random(tags.shape) < 0.3] = 0
    tags[:, 0] = np.maximum(tags[:, 0], 3)
    return {
        "category": tf.constant(rng.integers(3, VALUES + 3, ITEMS + 3).astype(np.int32)),
        "tags": tf.constant(tags),
        "price": tf.constant(rng.normal(size=ITEMS + 3).astype(np.float32)),
    }


def supervised(model: TwoTower, method: str = "cfm", **changes) -> SelfSupervision:
    config = SslConfig.model_validate({"method": method, "batch_size": 16} | changes)
    information = np.random.default_rng(4).random((4, 4))
    sampler = UniformSampler(np.arange(3, ITEMS + 3), 16, 3)
    masks = make_masks(config, information + information.T, 0)
    return SelfSupervision(model.item_tower, config, masks, catalogue(), lambda step, batch: sampler(step), 7)


def inputs_of(ids: np.ndarray) -> dict[str, tf.Tensor]:
    return {ITEM: tf.constant(ids, tf.int32), **{name: tf.gather(x, ids) for name, x in catalogue().items()}}


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.normal(size=shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def contrastive(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """L_self in float64, row by row as the paper writes it."""
    losses = []
    for row, z in enumerate(first):
        similarities = np.array([z @ other / temperature for other in second])
        losses.append(-np.log(np.exp(similarities[row]) / np.exp(similarities).sum()))
    return float(np.mean(losses))


def value(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    first, second = first.astype(np.float32), second.astype(np.float32)
    return float(sampled_softmax_loss(first, second, tf.zeros(len(first)), tf.constant(1 / temperature)))


# The loss


def test_the_loss_of_two_items_by_hand() -> None:
    """N = 2: log(1 + exp((s_12 - s_11) / tau)), averaged over both rows."""
    first = np.array([[1.0, 0.0], [0.0, 1.0]])
    second = np.array([[0.6, 0.8], [0.8, 0.6]])
    expected = (np.log1p(np.exp((0.8 - 0.6) / 0.5)) + np.log1p(np.exp((0.8 - 0.6) / 0.5))) / 2
    assert value(first, second, 0.5) == pytest.approx(expected, rel=1e-5)


def test_the_loss_against_its_definition_and_in_any_order() -> None:
    """And for equal views it is the spread-out loss: every positive has similarity 1."""
    rng = np.random.default_rng(8)
    first, second = unit(rng, 30, 6), unit(rng, 30, 6)
    assert value(first, second, 0.1) == pytest.approx(contrastive(first, second, 0.1), rel=1e-4)
    order = rng.permutation(30)
    assert value(first[order], second[order], 0.1) == pytest.approx(value(first, second, 0.1), rel=1e-5)
    others = np.exp((first @ first.T) / 0.1)
    np.fill_diagonal(others, 0.0)
    spread = -np.log(np.exp(10) / (np.exp(10) + others.sum(axis=1))).mean()
    assert value(first, first, 0.1) == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("method", ["cfm", "rfm", "rfm_independent", "no_masking", "spread_out"])
def test_each_method_contrasts_its_views(method: str) -> None:
    """The compiled loss is the definition on the views of that step; nothing but the step changes them."""
    one = supervised(two_tower(), method)
    loss = tf.function(lambda step: one.loss(step, {}, COLD))
    first, second = one.views(one.draw(STEP, {}), STEP)
    assert float(loss(STEP)) == pytest.approx(contrastive(first.numpy(), second.numpy(), 0.1), rel=1e-4)
    assert float(loss(STEP)) == float(loss(STEP)) != float(loss(STEP + 1))
    assert np.allclose(first, second) == (method == "spread_out")


def test_own_temperature_and_the_ramp() -> None:
    """The temperature of the section wins; the weight grows linearly from the first step on and then stays."""
    one = supervised(two_tower(), temperature=0.5, weight=0.8, warmup_steps=4)
    first, second = one.views(one.draw(STEP, {}), STEP)
    expected = contrastive(first.numpy(), second.numpy(), 0.5)
    assert float(one.loss(STEP, {}, COLD)) == pytest.approx(expected, rel=1e-4)
    weights = [float(one.weight(tf.constant(step, tf.int64))) for step in range(6)]
    np.testing.assert_allclose(weights, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)
    assert float(supervised(two_tower(), weight=0.8).weight(STEP)) == pytest.approx(0.8)


# Views


def masks_of(one: SelfSupervision, step: tf.Tensor) -> np.ndarray:
    seed = tf.random.fold_in(one.seed, step)
    return one.masks(tf.random.fold_in(seed, 0)).numpy()


def test_a_view_knows_nothing_of_what_it_hides() -> None:
    """Changing a hidden field of every item changes nothing; changing a visible one does. Each in its one view."""
    for step in range(4):
        one = supervised(two_tower(), value_dropout=0.0)
        step = tf.constant(step, tf.int64)
        ids, masks = one.draw(step, {}), masks_of(one, step)
        before = one.views(ids, step)
        for place, field in enumerate(one.visible[1:], start=1):
            old = one.features[field]
            one.features = {**one.features, field: tf.reverse(old, [0])}
            after = one.views(ids, step)
            one.features = {**one.features, field: old}
            for view in range(2):
                same = np.array_equal(before[view].numpy(), after[view].numpy())
                assert same == bool(masks[view, place]), (field, view)


def test_value_dropout_reaches_visible_lists_in_both_independent_views() -> None:
    """Without masks the views differ by dropped values alone; where none can be dropped they are equal."""
    one = supervised(two_tower(), "no_masking", value_dropout=0.5)
    first, second = one.views(one.draw(STEP, {}), STEP)
    assert not np.allclose(first, second)
    one.features = {**one.features, "tags": one.features["tags"][:, :1]}
    first, second = one.views(one.draw(STEP, {}), STEP)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", ["cfm", "rfm"])
def test_values_are_dropped_from_the_view_that_sees_them(method: str) -> None:
    """After the masking: the view with the tags changes with the rate, the other has none to lose."""
    model = two_tower()
    kept, thinned = (supervised(model, method, value_dropout=rate) for rate in (0.0, 0.5))
    seen = set()
    for step in (tf.constant(number, tf.int64) for number in range(6)):
        masks = kept.masks(tf.random.fold_in(tf.random.fold_in(kept.seed, step), 0)).numpy()
        hidden = masks[:, kept.visible.index("tags")].tolist()
        ids = kept.draw(step, {})
        for view, one, other in zip(hidden, kept.views(ids, step), thinned.views(ids, step), strict=True):
            assert np.allclose(one, other) == view
        seen.add(tuple(hidden))
    assert seen and seen <= {(True, False), (False, True)}, "either view, never both"


def test_what_only_an_event_has_is_hidden_in_both_views() -> None:
    """A point-in-time number has no value for a drawn item: its default embedding stands in, whatever the method."""
    model = two_tower(moment=True)
    one = supervised(model, "spread_out")
    assert one.visible == (ITEM, "category", "tags", "price")
    before = one.views(one.draw(STEP, {}), STEP)[0].numpy()
    model.item_tower.defaults["price"].assign_add([1.0, 1.0])
    np.testing.assert_array_equal(one.views(one.draw(STEP, {}), STEP)[0].numpy(), before)
    model.item_tower.defaults["age"].assign_add([1.0, 1.0])
    assert not np.array_equal(one.views(one.draw(STEP, {}), STEP)[0].numpy(), before)


# Masked, missing, unseen


def test_masked_missing_and_unseen_are_three_things() -> None:
    """A hidden field is its default embedding whatever its value; missing and unseen have rows of their own."""
    model = two_tower()
    tower = model.item_tower
    tower.allow_hiding()
    columns = {name: tf.repeat(column[:1], 4, axis=0) for name, column in inputs_of(np.array([5])).items()}
    columns["category"] = tf.constant([4, MISSING_ID, UNSEEN_ID, 0])
    vectors = tower.field_vectors(columns, None)
    category = vectors["category"].numpy()
    hidden = tower.hide(vectors, tf.constant([[field == "category" for field in tower.fields]]))
    default = tower.defaults["category"].numpy()
    np.testing.assert_array_equal(hidden["category"].numpy(), np.tile(default, (4, 1)))
    table = model.embedding_tables["category"].table.numpy()
    np.testing.assert_array_equal(category, table[[4, 1, 2, 0]])
    distinct = [default, table[MISSING_ID], table[UNSEEN_ID], np.zeros_like(default)]  # a closed value's vector is 0
    for place, one in enumerate(distinct):
        for other in distinct[place + 1 :]:
            assert np.abs(one - other).max() > 1e-3
    for name in set(vectors) - {"category"}:
        assert hidden[name] is vectors[name] or np.array_equal(hidden[name], vectors[name])


def test_only_what_is_visible_gets_gradient() -> None:
    """A hidden field's gradient goes to its default embedding, none to its table."""
    model = two_tower()
    tower = model.item_tower
    tower.allow_hiding()
    columns = inputs_of(np.arange(3, 13))
    with tf.GradientTape() as tape:
        vectors = tower.hide(tower.field_vectors(columns, None), tf.constant([[False, True, False, False]]))
        loss = tf.reduce_sum(tower.encode(vectors)[:, 0])
    tables = model.embedding_tables
    hidden, shown, default = tape.gradient(
        loss, [tables["category"].table, tables["tags"].table, tower.defaults["category"]]
    )
    assert np.abs(tf.convert_to_tensor(hidden)).max() == 0.0
    assert np.abs(tf.convert_to_tensor(shown)).max() > 0.0 and np.abs(default).max() > 0.0


def test_feature_dropout_hides_a_share_of_each_rows_fields() -> None:
    """In training only, row by row: with everything hidden rows are alike, with little most are as served."""
    columns = inputs_of(np.arange(3, 43))
    seed = tf.constant([1, 2])
    nearly_all = two_tower(feature_dropout=0.999).item_tower
    same = nearly_all(columns, seed=seed).numpy()
    assert np.abs(same - same[0]).max(axis=1).mean() < 0.1
    served = nearly_all(columns).numpy()
    assert np.abs(served - served[0]).max() > 0.1
    some = two_tower(feature_dropout=0.1).item_tower
    unchanged = np.isclose(some(columns, seed=seed), some(columns), atol=1e-6).all(axis=1).mean()
    assert unchanged == pytest.approx(0.9**4, abs=0.2)


# The step


def trainer(model: TwoTower, kind: str = "adagrad", ones: tuple[SelfSupervision, ...] = ()) -> Trainer:
    loss = LossConfig()
    counts = np.ones(ITEMS + 3)
    return Trainer(
        model,
        make_optimiser(OptimiserConfig(kind=kind, learning_rate=0.05)),
        loss,
        LogQ(loss, counts, ITEMS, 16, 1),
        Catalogue(np.arange(3, ITEMS + 3), {}),
        11,
        ones,
    )


def step_through(one: Trainer, steps: int = 3) -> list[float]:
    rng = np.random.default_rng(9)
    one.optimiser.build(one.model.trainable_variables)
    losses = []
    for _ in range(steps):
        items = rng.integers(3, 13, 16)
        batch = {"query": {USER: tf.constant(rng.integers(3, 23, 16), tf.int32)}, "item": inputs_of(items)}
        losses.append(float(one.train_step(batch, tf.constant(0.05))))
    return losses


def weights(model: TwoTower) -> Mapping[str, np.ndarray]:
    return {variable.name: variable.numpy() for variable in model.variables if "/default/" not in variable.name}


def test_with_weight_zero_every_weight_is_bit_identical() -> None:
    """The branch computed and weighed by 0 (its draws come from a stream of their own) against no branch."""
    without, beside = two_tower(), two_tower()
    plain = step_through(trainer(without))
    weighed = step_through(trainer(beside, ones=(supervised(beside, weight=0.0),)))
    assert plain == weighed
    for name, array in weights(without).items():
        np.testing.assert_array_equal(array, weights(beside)[name], err_msg=name)


def test_every_other_step_it_weighs_twice() -> None:
    """Step 0 is that of twice the weight, step 1 that of none, step 2 of twice again, with the draw after the first."""
    model, doubled = two_tower(), two_tower()
    one, twice = supervised(model, weight=0.4, every=2), supervised(doubled, weight=0.8)
    draws: list[int] = []
    draw = one.draw
    one.draw = lambda step, batch: draws.append(step) or draw(step, batch)
    rare, often = trainer(model, ones=(one,)), trainer(doubled, ones=(twice,))
    assert [rare.due(step) for step in range(4)] == [(True,), (False,), (True,), (False,)]
    assert [often.due(step) for step in range(2)] == [(True,), (True,)]
    for each in (rare, often):
        each.optimiser.build(each.model.trainable_variables)
    items = np.arange(3, 19)
    batch = {"query": {USER: tf.constant(items, tf.int32)}, "item": inputs_of(items)}
    for step, due in enumerate([(True,), (False,)]):
        for each in (rare, often):
            each.train_step(batch, tf.constant(0.05), due)
        for name, array in weights(model).items():
            np.testing.assert_allclose(array, weights(doubled)[name], atol=1e-6, err_msg=f"{name}, step {step}")
    for step in range(4):
        one.loss(tf.constant(step, tf.int64), {}, COLD)
    assert [int(step) for step in draws[-4:]] == [0, 0, 1, 1]


def test_items_without_a_click_learn() -> None:
    """The main batches hold ids 3 to 12 only; self-supervision moves the others' rows too, and lowers its own loss."""
    model = two_tower()
    one = supervised(model, weight=1.0)
    before = model.embedding_tables[ITEM].table.numpy().copy()
    first = np.mean([float(one.loss(tf.constant(step, tf.int64), {}, COLD)) for step in range(5)])
    step_through(trainer(model, "adam", (one,)), 25)
    moved = np.abs(model.embedding_tables[ITEM].table.numpy() - before).max(axis=1)
    assert (moved[13:] > 0).mean() > 0.9
    last = np.mean([float(one.loss(tf.constant(step, tf.int64), {}, COLD)) for step in range(5)])
    assert last < first - 0.2
