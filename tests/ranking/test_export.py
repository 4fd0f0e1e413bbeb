"""The SavedModel gives what the model gives, by name; a step's settings reach what they are for."""

from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.ranking import RankingTrainConfig
from recsys.ranking.calibration import Isotonic, Platt
from recsys.ranking.export import export_ranker
from recsys.ranking.step import Trainer
from recsys.scoring.ranker import load_ranker
from tests.ranking.test_backbones import FEATURES, make, run


@pytest.mark.parametrize("backbone", ["fm", "deepfm", "dcn", "dcn_v2", "ipnn", "two_tower"])
@pytest.mark.parametrize("calibration", [Platt(0.5, -1.0), Isotonic((-2.0, 0.0, 3.0), (0.1, 0.3, 0.6))])
def test_outputs_are_the_model_s_by_name(tiny_dataset: Path, tmp_path: Path, backbone: str, calibration) -> None:
    model = make(tiny_dataset, backbone)
    expected = run(model)
    export_ranker(model, calibration, {}, tmp_path / "model")
    scores = load_ranker(tmp_path).score(FEATURES)
    np.testing.assert_allclose(scores.logit, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.probability, calibration.probabilities(expected.logits), rtol=1e-5)
    for name, values in scores.activations.items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-5, atol=1e-6)
    vectors, _ = model.layer({name: tf.constant(values) for name, values in FEATURES.items()})
    np.testing.assert_allclose(scores.activations["encoded"], np.reshape(vectors, [4, -1]), rtol=1e-5, atol=1e-6)
    sides = 2 if backbone == "two_tower" else 1
    widths = [scores.activations[name].shape[1] for name in ("first_hidden", "last_hidden")]
    assert widths == ([3, 3] if backbone == "fm" else [6 * sides, 5 * sides])


def stepped(tiny_dataset: Path, slower: float | None = None, **settings) -> tuple[np.ndarray, np.ndarray]:
    """How far the table's rows of one batch and the first hidden layer went in one step."""
    model = make(tiny_dataset, "deepfm")
    trainer = Trainer(model, RankingTrainConfig.model_validate({"epsilon": 1.0, **settings}), 1)
    if slower is not None:
        trainer.slow_down(slower)
    watched = model.table.table, model.backbone.network.dense[0].kernel
    before = [one.numpy() for one in watched]
    vector = tf.constant([1.0, 0.0, 1.0, 0.0])
    features = {name: tf.constant(values) for name, values in FEATURES.items()}
    trainer.train_step({"features": features, "labels": vector, "weights": tf.ones([4]), "offsets": tf.zeros([4])})
    table, network = (one.numpy() - old for one, old in zip(watched, before, strict=True))
    return table, network


def test_each_part_has_its_own_decay(tiny_dataset: Path) -> None:
    table, network = stepped(tiny_dataset)
    decayed, same = stepped(tiny_dataset, l2_embeddings=0.3)
    np.testing.assert_array_equal(same, network)
    moved = np.abs(table).max(axis=1) > 0
    assert not np.allclose(decayed[moved], table[moved]) and not decayed[~moved].any()
    same, decayed = stepped(tiny_dataset, l2_network=0.3)
    np.testing.assert_array_equal(same, table)
    assert not np.allclose(decayed, network)


def test_a_plateau_slows_table_and_network_down(tiny_dataset: Path) -> None:
    for usual, slow in zip(stepped(tiny_dataset), stepped(tiny_dataset, slower=0.1), strict=True):
        np.testing.assert_allclose(slow, 0.1 * usual, rtol=1e-3, atol=1e-7)
        assert np.abs(usual).max() > 1e-5
