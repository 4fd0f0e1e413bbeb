"""The temperature's law, by epoch and by step: what every step of both training loops sees, killed and resumed too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch, unused_gate
from recsys.ranking import step as ranking_step
from recsys.ranking.workbench import Workbench
from recsys.retrieval import step as retrieval_step
from recsys.retrieval.checkpoints import CheckpointFolder
from tests.features.test_gates import change, soft_gates
from tests.retrieval.test_job import run

BY_EPOCH = change(epochs=3, epoch_steps=40)
BY_STEP = replace(BY_EPOCH, by_step=True)
BOTH = pytest.mark.parametrize("search", [BY_EPOCH, BY_STEP], ids=["epoch", "step"])


def law(final: float, epochs: int, steps: int, by: str) -> np.ndarray:
    """T^p at every step of a search, by the specification's words alone: `[epochs * steps] float64`."""
    progress = np.arange(epochs * steps) / (epochs * steps - 1)
    if by == "epoch":
        progress = np.repeat(np.arange(epochs) / (epochs - 1), steps)
    return np.exp(progress * np.log(final))


@BOTH
def test_the_schedule_is_the_law(search: GateSearch) -> None:
    """From 1 to the final temperature; asked only where it changes, it is right at every step."""
    found, now = [], 0.0
    for epoch in range(search.epochs):
        for step in range(search.epoch_steps):
            if search.changes_at(step):
                now = search.temperature(epoch, step)
            assert now == search.temperature(epoch, step)
            found.append(now)
    np.testing.assert_allclose(found, law(200.0, 3, 40, "step" if search.by_step else "epoch"), rtol=1e-12)
    assert found[0] == 1.0 and found[-1] == pytest.approx(200.0)


@BOTH
def test_a_warm_up_comes_first_at_temperature_1_and_moves_the_law(search: GateSearch) -> None:
    warm = replace(search, warmup=2)
    assert [warm.rests(epoch) for epoch in range(5)] == [True, True, False, False, False]
    assert {warm.temperature(epoch, step) for epoch in range(2) for step in range(40)} == {1.0}
    found = [warm.temperature(epoch, step) for epoch in range(2, 5) for step in range(40)]
    np.testing.assert_allclose(found, law(200.0, 3, 40, "step" if search.by_step else "epoch"), rtol=1e-12)
    assert unused_gate(warm) == unused_gate(search)


def unused(search: GateSearch) -> np.ndarray:
    """Adam on the slope of the penalty alone, step by step, float64: the logit after each epoch."""
    logit, mean, square, after = search.start, 0.0, 0.0, []
    by = "step" if search.by_step else "epoch"
    for number, t in enumerate(law(search.final_temperature, search.epochs, search.epoch_steps, by), start=1):
        soft = 1 / (1 + np.exp(-t * logit))
        slope = search.penalty * t * soft * (1 - soft)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        root = np.sqrt(square / (1 - 0.999**number))
        logit -= search.learning_rate * mean / (1 - 0.9**number) / (root + search.epsilon)
        after.append(logit)
    return np.array(after)[search.epoch_steps - 1 :: search.epoch_steps]


@BOTH
def test_an_unused_gate_meets_the_temperature_of_each_step(search: GateSearch) -> None:
    """The pre-flight recursion is the oracle's; a rising temperature within the epochs is another search."""
    np.testing.assert_allclose(unused_gate(search), unused(search), atol=1e-12)
    assert abs(unused_gate(BY_STEP)[-1] - unused_gate(BY_EPOCH)[-1]) > 1e-3


@BOTH
@pytest.mark.parametrize("sparse", [True, False])
def test_a_dense_penalty_integrates_over_the_temperatures(search: GateSearch, sparse: bool) -> None:
    """Rows that a step does not look up are pushed down at that step's temperature, however the optimiser does it."""
    gates = soft_gates([0.5] * 4, 1.0)
    optimiser = GateOptimiser([gates], search, dense=True)
    apply, found = tf.function(optimiser.apply), []
    nothing = tf.IndexedSlices(tf.zeros([1]), tf.constant([2]), tf.constant([4])) if sparse else tf.zeros([4])
    for epoch in range(search.epochs):
        for step in range(search.epoch_steps):
            gates.temperature.assign(search.temperature(epoch, step))
            apply([nothing])
        found.append(gates.logits.numpy())
    np.testing.assert_allclose(found[-1], np.full(4, unused(search)[-1]), atol=1e-3)


@BOTH
def test_a_million_gates_meet_the_same_temperatures(search: GateSearch) -> None:
    """However rarely a gate is looked up, and whatever is saved on it meanwhile."""
    search = replace(search, epochs=2, epoch_steps=12, learning_rate=0.02)
    gates = soft_gates([search.start] * ((1 << 20) + 3), 1.0)
    optimiser = GateOptimiser([gates], search, dense=True)
    settle = getattr(optimiser, "settle", lambda: None)
    size = tf.constant([gates.size], tf.int64)
    apply = tf.function(lambda rows: optimiser.apply([tf.IndexedSlices(tf.zeros([2]), rows, size)]))
    for epoch in range(search.epochs):
        for step in range(search.epoch_steps):
            gates.temperature.assign(search.temperature(epoch, step))
            often, once = 5 * (step % 5), 7 if step == 0 and epoch == 0 else 3
            apply(tf.constant([often, once], tf.int64))
        settle()
    np.testing.assert_allclose(gates.logits.numpy()[[0, 5, 7, 9, -1]], unused(search)[-1], atol=2e-4)


RESTING = -1.0
"""In place of the temperature of a step that moves no gate."""


class Stopped(Exception):
    """Stands for SIGKILL."""


def spy(monkeypatch: pytest.MonkeyPatch, module: object, seen: list[float], stop_at: int) -> None:
    """In the place of the module's training step: note the temperature of the gates and learn nothing."""

    def step(trainer: object, *arguments: object) -> tf.Tensor:
        if trainer.gates is not None:  # type: ignore[attr-defined]
            if len(seen) == stop_at:
                raise Stopped
            rests = arguments[-1]
            seen.append(RESTING if rests else float(trainer.gates.gates[0].temperature))  # type: ignore[attr-defined]
        return tf.constant(0.5)

    monkeypatch.setattr(module.Trainer, "train_step", step)  # type: ignore[attr-defined]


GATES = {"mode": "value-dense", "penalty": 1e-3, "learning_rate": 0.1, "final_temperature": 50.0} | {
    "warmup_epochs": 2,
    "search_epochs": 3,
}


def search_of_towers(dataset: Path, folder: Path, by: str) -> None:
    run(dataset, folder, epochs=1, batch_size=32, gates={**GATES, "temperature_by": by}, checkpoint={"every_steps": 2})


def search_of_ranker(dataset: Path, folder: Path, by: str) -> None:
    settings = {
        "model": {"backbone": "fm", "embedding_dim": 4},
        "train": {"batch_size": 128, "negatives": {"source": "catalogue"}, "checkpoint": {"every_steps": 2}},
        "gates": {**GATES, "temperature_by": by},
    }
    config = RankingConfig.model_validate(settings)
    bench = Workbench(DatasetFolder.open(dataset), config, 1, CheckpointFolder(folder, "test"))
    bench.search("search", bench.config.gates)


@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize(
    ("module", "search"),
    [(retrieval_step, search_of_towers), (ranking_step, search_of_ranker)],
    ids=["towers", "ranker"],
)
def test_every_step_of_the_loops_sees_it(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, search: Callable, by: str
) -> None:
    """After two epochs of warm-up. By step, stopped in the search's second epoch and run again, a loop goes on at the
    temperature of its step."""
    whole: list[float] = []
    spy(monkeypatch, module, whole, stop_at=-1)
    search(tiny_dataset, tmp_path / "whole", by)
    steps = len(whole) // 5
    assert steps > 4 and len(whole) == 5 * steps
    assert whole[: 2 * steps] == [RESTING] * (2 * steps)
    np.testing.assert_allclose(whole[2 * steps :], law(50.0, 3, steps, by), rtol=1e-6)
    if by == "epoch":
        return  # tests of both jobs kill these
    stop = 3 * steps + 3
    parts: list[float] = []
    spy(monkeypatch, module, parts, stop_at=stop)
    with pytest.raises(Stopped):
        search(tiny_dataset, tmp_path / "parts", by)
    resumed: list[float] = []
    spy(monkeypatch, module, resumed, stop_at=-1)
    search(tiny_dataset, tmp_path / "parts", by)
    assert parts == whole[:stop]
    assert 0 < len(resumed) < len(whole) and resumed == whole[-len(resumed) :]
