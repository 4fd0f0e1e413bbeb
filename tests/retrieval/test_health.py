"""What is logged of training beyond its loss: known optima, plain loops, and that looking changes nothing."""

from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.train import LossConfig, OptimiserConfig
from recsys.retrieval.health import Health, alignment, effective_rank, uniformity, view_figures
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.step import Catalogue, Trainer
from recsys.schema import ITEM, USER
from tests.retrieval.test_job import run
from tests.retrieval.test_ssl import ITEMS, inputs_of, supervised, two_tower, unit


def test_geometry_against_plain_loops():
    rng = np.random.default_rng(1)
    vectors = unit(rng, 7, 5)
    pairs = [np.exp(-2 * np.sum((x - y) ** 2)) for i, x in enumerate(vectors) for j, y in enumerate(vectors) if i != j]
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(pairs)))
    others = unit(rng, 7, 5)
    distances = [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(vectors, others, strict=True)]
    assert alignment(vectors, others) == pytest.approx(np.mean(distances))


def test_geometry_knows_its_extremes():
    """Collapsed vectors have rank 1 and uniformity 0, the most there is; orthogonal ones have full rank."""
    same, orthogonal = np.tile(np.eye(6)[:1], (6, 1)), np.eye(6)
    assert effective_rank(same) == pytest.approx(1.0)
    assert effective_rank(orthogonal) == pytest.approx(6.0)
    assert uniformity(same) == pytest.approx(0.0)
    assert uniformity(orthogonal) == pytest.approx(-4.0)  # all squared distances are 2
    assert alignment(orthogonal, orthogonal) == 0.0
    assert alignment(orthogonal, -orthogonal) == pytest.approx(4.0)


def test_the_nearest_view():
    views = unit(np.random.default_rng(2), 8, 6)
    assert view_figures(views, views) == pytest.approx(
        {
            "top_1": 1.0,
            "positive_cosine": 1.0,
            "negative_cosine": np.mean([views[i] @ views[j] for i in range(8) for j in range(8) if i != j]),
        }
    )
    assert view_figures(views, np.roll(views, 1, axis=0))["top_1"] == 0.0


def trainer(weight: float) -> Trainer:
    """Users and items by id; the item tower self-supervised."""
    model = two_tower()
    supervision = supervised(model, weight=weight, warmup_steps=0)
    config = LossConfig(frequencies="exact")
    counts = np.arange(ITEMS + 3)
    made = Trainer(
        model,
        make_optimiser(OptimiserConfig()),
        config,
        LogQ(config, counts, ITEMS, 6, 1),
        Catalogue(np.arange(3, ITEMS + 3), {}),
        1,
        (supervision,),
    )
    made.optimiser.build(model.trainable_variables)
    return made


IDS = np.array([3, 4, 4, 9, 12, 4])


def batch() -> dict:
    return {"query": {USER: tf.constant(IDS, tf.int32)}, "item": inputs_of(IDS)}


def test_figures_of_a_batch():
    """The second loss's part in the gradient grows with its weight; hits and logQ are the batch's; nothing changes."""
    light, heavy = trainer(0.1), trainer(0.4)
    before = [variable.numpy() for variable in light.model.variables]
    first, second = Health(light).measure(batch()), Health(heavy).measure(batch())
    for before_one, variable in zip(before, light.model.variables, strict=True):
        np.testing.assert_array_equal(before_one, variable.numpy())
    assert int(light.step) == 0
    assert second["ssl/item/gradient_ratio"] == pytest.approx(4 * first["ssl/item/gradient_ratio"], rel=1e-4)
    assert second["ssl/item/weighted_over_main"] == pytest.approx(4 * first["ssl/item/weighted_over_main"], rel=1e-4)
    assert first["ssl/item/loss"] == pytest.approx(
        float(light.self_supervisions[0].loss(light.step, batch(), light.model.inverse_temperature)), rel=1e-5
    )
    assert first["accidental_hits"] == pytest.approx(3 * 2 / 6)
    assert first["log_q/max"] - first["log_q/min"] == pytest.approx(np.log(12 / 3), rel=1e-5)
    assert 1.0 <= first["effective_rank/item"] <= 6.0


def test_the_gradients_ratio_by_hand():
    """Norms over the item tower's weights, tables included, from dense gradients."""
    made = trainer(0.3)
    one = made.self_supervisions[0]
    seed = tf.random.fold_in(tf.constant([1, 0x4EA1], tf.int32), made.step)

    def length(loss, weights) -> float:
        with tf.GradientTape() as tape:
            value = loss()
        found = [tf.convert_to_tensor(x) for x in tape.gradient(value, weights) if x is not None]
        return float(np.sqrt(sum(np.sum(np.square(x.numpy(), dtype=np.float64)) for x in found)))

    read = {f"/{name}": [one.tower.tables[name].table] for name in (ITEM, "category", "tags")}
    found = Health(made).measure(batch())
    for part, weights in {"": one.tower.trainable_variables, **read}.items():
        own = length(lambda: 0.3 * one.loss(made.step, batch(), made.model.inverse_temperature), weights)
        wanted = own / length(lambda: made.loss(batch(), seed), weights)
        assert found[f"ssl/item/gradient_ratio{part}"] == pytest.approx(wanted, rel=1e-4)
    assert not any(name.endswith(f"gradient_ratio/{USER}") for name in found)


def test_an_epoch_of_a_job_logs_it_all(tiny_dataset: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    gates = {"mode": "field", "penalty": 0.001, "search_epochs": 2, "learning_rate": 0.2}
    run(tiny_dataset, tmp_path, epochs=2, ssl={"batch_size": 8}, gates=gates)

    def logged(phase: str) -> dict[str, int]:
        events = EventAccumulator(str(tmp_path / "logs" / phase))
        events.Reload()
        return {tag: len(events.Tensors(tag)) for tag in events.Tags()["tensors"]}

    wanted = {"loss", "recall@5", "recall@5/head", "recall@5/known_users", "popularity@5", "coverage@5"}
    wanted |= {"alignment", "uniformity/item", "effective_rank/item", "effective_rank/query", "accidental_hits"}
    wanted |= {f"ssl/item/{name}" for name in ("loss", "weighted_over_main", "gradient_ratio", "top_1")}
    found = logged("train")
    assert {tag.removeprefix("epoch/") for tag, times in found.items() if times == 2} >= wanted
    searched = logged("gates")
    assert searched["epoch/open_gates/colour"] == 2 and searched["epoch/ssl/item/loss"] == 2
    assert {f"epoch/{name}" for name in ("recall@5", "recall@5/head", "popularity@5")} <= set(searched)
