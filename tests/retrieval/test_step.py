"""The step's loss as it is wired: towers, logQ, masks and extra negatives, beside slow NumPy in float64."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.model import HistoryConfig, IdentityConfig, ModelConfig, TowerConfig
from recsys.config.train import LossConfig, OptimiserConfig
from recsys.features.spec import AudienceSpec, Form, InputSpec, audience_spec, full_table
from recsys.retrieval.job import build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.retrieval.step import Catalogue, Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, PADDING_ID, USER

ITEMS, USERS, BATCH, WIDTH = 12, 9, 16, 3
SEED = tf.constant([3, 4], tf.int32)
COUNTS = np.concatenate([[0, 0, 0], np.arange(1, ITEMS + 1) ** 2]).astype(np.int64)


def two_tower(audience: AudienceSpec | None = None) -> TwoTower:
    """Users by id and history, items by id; large weights, so that every term matters."""
    config = ModelConfig(
        embedding_dim=4, output_dim=4, user_id=IdentityConfig(), history=HistoryConfig(), initial_scale=1.0
    )
    history = InputSpec("history", Form.HISTORY, ITEM, length=WIDTH)
    query = TowerSpec("query", USER, IdentityConfig(), (history,), TowerConfig())
    item = TowerSpec("item", ITEM, IdentityConfig(), (), TowerConfig(combine="concat" if audience is None else "sum"))
    tables = (full_table(USER, USERS + 3), full_table(ITEM, ITEMS + 3))
    model = TwoTower(TwoTowerSpec(config, query, item, tables, audience), 1)
    build(model)
    return model


def one_batch() -> dict[str, dict[str, tf.Tensor]]:
    """Few items for many rows: accidental hits are certain, and so are negatives that stand in a history."""
    rng = np.random.default_rng(0)
    histories = rng.integers(3, ITEMS + 3, (BATCH, WIDTH)).astype(np.int32)
    histories[::4, -1] = PADDING_ID
    users = rng.integers(3, USERS + 3, BATCH).astype(np.int32)
    items = rng.integers(3, ITEMS + 3, BATCH).astype(np.int32)
    watched = rng.choice([0.0, 0.5, 3.0], BATCH).astype(np.float32)
    return {
        "query": {USER: tf.constant(users), "history": tf.constant(histories), "watched": tf.constant(watched)},
        "item": {ITEM: tf.constant(items)},
    }


def trainer_of(config: LossConfig, audience: AudienceSpec | None = None, *, fixed: bool = False) -> Trainer:
    log_q = LogQ(config, COUNTS, ITEMS, BATCH, 5)
    catalogue = Catalogue(np.arange(3, ITEMS + 3), {}, fixed)
    return Trainer(two_tower(audience), make_optimiser(OptimiserConfig()), config, log_q, catalogue, 7)


def expected(trainer: Trainer, config: LossConfig) -> float:
    """The loss of `one_batch` by its definition, row by row."""
    batch = one_batch()
    items = batch["item"]
    if config.uniform_negatives:
        items = trainer._with_uniform({**items}, tf.random.fold_in(SEED, 2))
    ids = items[ITEM].numpy()
    queries = trainer.model.query_tower(batch["query"]).numpy().astype(np.float64)
    candidates = trainer.model.item_tower(items).numpy().astype(np.float64)
    histories = batch["query"]["history"].numpy()
    total = 0.0
    for row in range(BATCH):
        logits = []
        for column, item in enumerate(ids):
            if column != row and config.mask_accidental_hits and item == ids[row]:
                continue
            if column != row and config.mask_history and item in histories[row]:
                continue
            logit = queries[row] @ candidates[column] / trainer.model.spec.config.temperature.value
            if config.frequencies == "exact":
                in_batch = BATCH * COUNTS[item] / COUNTS.sum()
                logit -= config.log_q_strength * np.log(in_batch + config.uniform_negatives / ITEMS)
            logits.append((column == row, logit))
        values = np.array([logit for _, logit in logits])
        top = values.max()
        weight = 1.0 if config.weight_field is None else float(batch["query"][config.weight_field][row])
        total += weight * (top + np.log(np.exp(values - top).sum()) - next(logit for own, logit in logits if own))
    return total / BATCH


SETTINGS: list[dict] = [
    {"frequencies": "none", "mask_accidental_hits": False},
    {"frequencies": "exact", "mask_accidental_hits": False},
    {"frequencies": "exact"},
    {"frequencies": "exact", "log_q_strength": 0.5},
    {"frequencies": "exact", "mask_history": True},
    {"frequencies": "exact", "weight_field": "watched"},
    {"frequencies": "exact", "uniform_negatives": 20},
    {"frequencies": "exact", "uniform_negatives": 20, "mask_history": True, "block_rows": 5},
]


@pytest.mark.parametrize("fixed", [False, True], ids=["row by row", "each item once"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_loss_is_what_its_definition_says(settings: dict, fixed: bool) -> None:
    config = LossConfig.model_validate(settings)
    trainer = trainer_of(config, fixed=fixed)
    assert trainer.distinct == fixed
    assert float(trainer.loss(one_batch(), SEED)) == pytest.approx(expected(trainer, config), rel=2e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_item_once_trains_as_row_by_row(settings: dict) -> None:
    """After some steps all weights are the same, but for rounding."""
    trainers = [trainer_of(LossConfig.model_validate(settings), fixed=fixed) for fixed in (False, True)]
    for trainer in trainers:
        for _ in range(3):
            trainer.train_step(one_batch(), tf.constant(0.01))
    for one, other in zip(*(trainer.model.trainable_variables for trainer in trainers), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5)


def test_items_whose_rows_may_differ_are_not_taken_together() -> None:
    """By what events say of them, by dropout or by their user; and stored candidates come one by one."""
    of_user = audience_spec(np.array([3]), np.array([3]), ITEMS + 3)
    assert trainer_of(LossConfig(), fixed=True).distinct
    assert not trainer_of(LossConfig(), fixed=False).distinct
    assert not trainer_of(LossConfig(), of_user, fixed=True).distinct
    assert not trainer_of(LossConfig(cross_batch_negatives=10), fixed=True).distinct


@pytest.mark.parametrize(
    ("model", "item", "varies"),
    [
        ({}, {}, False),
        ({"item_id": {"dropout": 0.1}}, {}, True),
        ({"embedding_dropout": 0.1}, {}, True),
        ({"history": {"dropout": 0.1}}, {}, True),
        ({}, {"feature_dropout": 0.1}, True),
    ],
)
def test_a_tower_knows_whether_rows_of_one_item_can_differ(model: dict, item: dict, varies: bool) -> None:
    config = ModelConfig.model_validate({**model, "embedding_dim": 4, "output_dim": 4, "item": item})
    related = InputSpec("related", Form.HISTORY, ITEM, length=WIDTH)
    query = TowerSpec("query", USER, config.user_id, (), TowerConfig())
    spec = TowerSpec("item", ITEM, config.item_id, (related,), config.item)
    tables = (full_table(USER, USERS + 3), full_table(ITEM, ITEMS + 3))
    tower = TwoTower(TwoTowerSpec(config, query, spec, tables), 1).item_tower
    assert tower.varies_by_row == varies
    rows = {ITEM: tf.fill([200], 4), "related": tf.fill([200, WIDTH], 5)}
    vectors = tower(rows, seed=SEED).numpy()
    assert bool(np.any(vectors != vectors[0])) == varies


def test_each_setting_changes_the_loss() -> None:
    """Else the comparison above could not tell them apart."""
    losses = [float(trainer_of(config).loss(one_batch(), SEED)) for config in map(LossConfig.model_validate, SETTINGS)]
    gaps = np.diff(np.sort(losses))
    assert gaps.min() > 1e-3


def test_a_step_lowers_the_loss_of_its_batch_and_touches_its_rows_only() -> None:
    trainer = trainer_of(LossConfig())
    batch = one_batch()
    before = trainer.model.embedding_tables[USER].table.numpy()
    first = float(trainer.train_step(batch, tf.constant(0.01)))
    for _ in range(5):
        last = float(trainer.train_step(batch, tf.constant(0.01)))
    assert last < first
    moved = np.any(trainer.model.embedding_tables[USER].table.numpy() != before, axis=1)
    assert set(np.flatnonzero(moved)) == set(batch["query"][USER].numpy())


def test_uniform_negatives_are_of_the_whole_catalogue_and_nothing_else() -> None:
    trainer = trainer_of(LossConfig(uniform_negatives=4000))
    drawn = trainer._with_uniform(one_batch()["item"], SEED)[ITEM].numpy()[BATCH:]
    ids, counts = np.unique(drawn, return_counts=True)
    assert ids.tolist() == list(range(3, ITEMS + 3))
    assert counts.min() > 0.7 * 4000 / ITEMS


def test_uniform_negatives_are_of_the_catalogue_as_it_was() -> None:
    """Of the ids given, the last and the first among them, and no others."""
    config = LossConfig(uniform_negatives=300)
    log_q = LogQ(config, COUNTS, 3, BATCH, 5)
    catalogue = Catalogue(np.array([4, 9, 11]), {})
    trainer = Trainer(two_tower(), make_optimiser(OptimiserConfig()), config, log_q, catalogue, 7)
    drawn = trainer._with_uniform(one_batch()["item"], SEED)[ITEM].numpy()[BATCH:]
    assert sorted(set(drawn.tolist())) == [4, 9, 11]


@pytest.mark.parametrize("uniform", [0, 5])
def test_an_item_reads_its_users_but_not_its_rows_own(uniform: int) -> None:
    """Each row's item is embedded without the row's user, an extra negative with all of its users."""
    batch = one_batch()
    users, items = (batch["query"][USER].numpy(), batch["item"][ITEM].numpy())
    pairs = np.unique(np.stack([users, items]), axis=1)
    config = LossConfig(frequencies="none", mask_accidental_hits=False, uniform_negatives=uniform)
    trainer = trainer_of(config, audience_spec(*pairs, ITEMS + 3))
    ids = trainer._with_uniform(batch["item"], tf.random.fold_in(SEED, 2))[ITEM].numpy() if uniform else items
    tables = {name: table.table.numpy().astype(np.float64) for name, table in trainer.model.embedding_tables.items()}
    candidates = []
    for place, item in enumerate(ids):
        others = [user for user, had in pairs.T if had == item and (place >= BATCH or user != users[place])]
        candidates.append(tables[ITEM][item] + tables[USER][others].sum(axis=0) / np.sqrt(max(len(others), 1)))
    vectors = np.array(candidates) / np.linalg.norm(candidates, axis=1, keepdims=True)
    queries = trainer.model.query_tower(batch["query"]).numpy().astype(np.float64)
    logits = queries @ vectors.T / trainer.model.spec.config.temperature.value
    wanted = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    assert float(trainer.loss(batch, SEED)) == pytest.approx(wanted, rel=2e-5)


def test_every_step_shows_its_items_to_the_streaming_estimator() -> None:
    """After n steps on one batch, the estimator is where n updates with the batch's items bring another one."""
    config = LossConfig.model_validate({"frequencies": "streaming", "streaming": {"buckets": 64, "alpha": 0.3}})
    trainer, alone = trainer_of(config), LogQ(config, COUNTS, ITEMS, BATCH, 5)
    trainer.optimiser.build(trainer.model.trainable_variables)
    for _ in range(3):
        trainer.train_step(one_batch(), tf.constant(0.01))
        alone.update(one_batch()["item"][ITEM])
    assert trainer.log_q.streaming is not None and alone.streaming is not None
    assert int(trainer.log_q.streaming.step) == 3
    for found, wanted in zip(trainer.log_q.streaming.variables, alone.streaming.variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())
