"""A phase of a ranker's training: which weights it hands on, what slows it down, what its optimisers are told."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.ranking import RankingTrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.gate_optimiser import GateOptimiser
from recsys.ranking.model import Ranker
from recsys.ranking.phase import Phase, _stalls
from recsys.ranking.step import Trainer
from tests.impressions import write_impressions
from tests.ranking.test_searched import bench_of
from tests.ranking.test_step_cost import batch, ranker_and_step


@pytest.fixture(scope="module")
def shop(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_impressions(DatasetFolder.open(tiny_dataset), tmp_path_factory.mktemp("phase") / "dataset")


@pytest.mark.parametrize("rewind", [0, 2, 3])
def test_what_is_gone_back_to_is_of_the_rewind_epoch(
    shop: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewind: int
) -> None:
    """After so many epochs of warm-up and search, and the weights of that moment."""
    written: list[tuple[int, dict[str, np.ndarray]]] = []
    write = Phase._write

    def watch(phase: Phase, what: str, arrays: dict[str, np.ndarray]) -> None:
        assert what == "rewind"
        written.append((int(phase.trainer.step), dict(arrays)))
        write(phase, what, arrays)

    monkeypatch.setattr(Phase, "_write", watch)
    bench = bench_of(shop, tmp_path, gates={"warmup_epochs": 2, "search_epochs": 2, "rewind_epoch": rewind})
    found = bench.search("search", bench.config.gates)
    ((steps, arrays),) = written
    assert steps == rewind * bench.reader.steps and len(found.epochs) == 4
    assert found.rewind.keys() == found.weights.keys() and len(arrays) == len(found.rewind)
    for key, values in found.rewind.items():
        np.testing.assert_array_equal(values, arrays[key])
    first = bench._model(None, None).table.table.numpy()
    assert (min(np.abs(first - one).max() for one in found.rewind.values() if one.shape == first.shape) == 0) == (
        rewind == 0
    )


def test_gates_that_catch_up_are_brought_to_the_present_after_each_epoch(
    shop: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many gates there are: those that few rows have end as where all move at every step."""
    found = []
    for exact in (1 << 20, 0):
        monkeypatch.setattr("recsys.ranking.workbench.GateOptimiser", partial(GateOptimiser, exact_gates=exact))
        bench = bench_of(shop, tmp_path / str(exact), gates={"learning_rate": 0.05, "warmup_epochs": 1})
        found.append(bench.search("search", bench.config.gates).gates)
    np.testing.assert_allclose(found[1], found[0], atol=0.02)
    assert np.ptp(found[0]) > 0.1


def test_an_epoch_that_is_only_as_good_slows_down_too() -> None:
    assert _stalls([{"auc": value} for value in (0.6, 0.7, 0.7, 0.65, 0.71, 0.71)]) == 3
    assert _stalls([{"loss": 1.0}, {"loss": 2.0}]) == 0


def one_step(**settings: float) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Weights before and after a step with learning rate .01, the table first; and which of its rows the step read."""
    model: Ranker = ranker_and_step("deepfm", None).model
    model.table.table.assign(tf.random.stateless_normal(model.table.table.shape, [1, 2]))
    trainer = Trainer(model, RankingTrainConfig.model_validate({"learning_rate": 0.01, **settings}), 1)
    weights = [model.table.table, *model.network_variables]
    before = [one.numpy() for one in weights]
    trainer.train_step(batch())
    rows = np.unique(model.layer.every_row(batch()["features"]).numpy())
    return before, [one.numpy() for one in weights], rows


@pytest.mark.parametrize("what", ["l2_embeddings", "l2_network"])
def test_each_l2_pulls_its_own_weights_to_zero(what: str) -> None:
    """A coefficient beside which the loss is nothing: Adam's first step is the learning rate towards 0."""
    before, after, rows = one_step(**{what: 1e6})
    pulled = [one - 0.01 * np.sign(one) for one in before]
    table = np.allclose(after[0][rows], pulled[0][rows], atol=1e-4)
    network = all(
        np.allclose(one[was != 0], to[was != 0], atol=1e-4)
        for one, to, was in zip(after[1:], pulled[1:], before[1:], strict=True)
    )
    assert (table, network) == (what == "l2_embeddings", what == "l2_network")
    others = np.setdiff1d(np.arange(len(before[0])), rows)
    np.testing.assert_array_equal(after[0][others], before[0][others])


def test_a_large_epsilon_holds_all_weights() -> None:
    before, after, _ = one_step(epsilon=1e6)
    assert max(np.abs(one - other).max() for one, other in zip(before, after, strict=True)) < 1e-6
    before, after, _ = one_step()
    assert min(np.abs(one - other).max() for one, other in zip(before, after, strict=True)) > 1e-3


def test_a_lazy_search_is_refused_only_where_a_value_of_every_row_would_stay(
    shop: DatasetFolder, tmp_path: Path
) -> None:
    """A value that a batch has once has a 64th of the price, here less than epsilon: of those it is only told."""
    gates = {"mode": "value-lazy", "penalty": 1e-4, "kappa": None, "epsilon": 3e-6, "learning_rate": 0.05}
    bench = bench_of(shop, tmp_path, gates=gates)
    told = bench.rare_values(bench.config.gates)
    assert told is not None and "stay open, needed or not" in told
    with pytest.raises(UserError, match=r"ranking\.gates: .* would end at logit .*penalty 0.0001,"):
        bench.search_settings(bench.config.gates.model_copy(update={"epsilon": 1e-2}))
