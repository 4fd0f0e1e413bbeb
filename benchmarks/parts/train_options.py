"""What each option of training costs: time of a step with it over time of the same step without.

All contenders live in one process, take the same warm batches, and take turns, so what else the machine does falls on
all of them alike.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.parts.train_loss import fastest_ms, step_products
from benchmarks.parts.train_trainer import make_trainer
from recsys._tensorflow import tf
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.retrieval.step import Trainer

BATCH = 4096
KEPT_BATCHES = 4
TOGETHER = 2
"""Steps that are timed together: with an option of every second step they are not alike."""

RATE = 0.001
SEARCH = {"kappa": 1.0, "search_epochs": 500}
"""A search long enough that the check before it lets it pass; what a step costs does not depend on it."""

Option = tuple[dict[str, Any], dict[str, Any], bool]
"""Changes of `model` and of `train`, and whether the step is one of a search for gates."""

OFF, SSL, SPARE_SSL, GATES = "off", "self-supervision", "self-supervision, every 2nd step", "gates"
OPTIONS: dict[str, Option] = {
    OFF: ({}, {}, False),
    SSL: ({}, {"ssl": {}}, False),
    SPARE_SSL: ({}, {"ssl": {"every": 2}}, False),
    f"{GATES}: field, search": ({}, {"gates": {"mode": "field", **SEARCH}}, True),
    f"{GATES}: field, hard": ({}, {"gates": {"mode": "field", **SEARCH}}, False),
    f"{GATES}: value-lazy, search": ({}, {"gates": {"mode": "value-lazy", **SEARCH}}, True),
    f"{GATES}: value-dense, search": ({}, {"gates": {"mode": "value-dense", **SEARCH}}, True),
    f"{GATES}: by value, hard": ({}, {"gates": {"mode": "value-dense", **SEARCH}}, False),
    "streaming logQ": ({}, {"loss": {"frequencies": "streaming"}}, False),
    "learned temperature": ({"temperature": {"learned": True}}, {}, False),
    "1,024 uniform negatives": ({}, {"loss": {"uniform_negatives": 1024}}, False),
    "4,096 cross-batch negatives": ({}, {"loss": {"cross_batch_negatives": 4096}}, False),
    "history masked": ({}, {"loss": {"mask_history": True}}, False),
    "bfloat16": ({}, {"loss": {"precision": "bfloat16"}}, False),
    "self-supervision, bfloat16": ({}, {"ssl": {}, "loss": {"precision": "bfloat16"}}, False),
}
QUICK = (OFF, SSL, f"{GATES}: value-dense, search")


@dataclass(frozen=True)
class Anatomy:
    """Milliseconds of a step without options, of its matrix products alone, and of making a batch alone."""

    step: float
    products: float
    input: float


class _Steps:
    """Steps of one trainer on a few kept batches in turn."""

    def __init__(self, dataset: DatasetFolder, model: dict[str, Any], train: dict[str, Any], search: bool) -> None:
        config = TrainConfig.model_validate({"batch_size": BATCH, **train})
        made: tuple[Trainer, Iterator[Any]] = make_trainer(
            dataset, ModelConfig.model_validate(model), config, search=search
        )
        self.trainer, self.batches = made
        self.kept = [next(self.batches) for _ in range(KEPT_BATCHES)]
        self.rate, self.taken = tf.constant(RATE, tf.float32), 0
        for _ in self.kept:  # compiles, twice: for the first shapes, then for any
            self()

    def __call__(self) -> tf.Tensor:
        self.taken += 1
        return self.trainer.train_step(self.kept[self.taken % len(self.kept)], self.rate, self.trainer.due(self.taken))


class Options:
    """The steps with each option, over one data set."""

    def __init__(self, dataset: DatasetFolder, names: tuple[str, ...]) -> None:
        self.runs = {name: _Steps(dataset, *OPTIONS[name]) for name in names}

    def times(self, *, rounds: int, steps: int) -> dict[str, list[float]]:
        """Milliseconds of a step by option, one median a round; each option takes about `steps` steps a round."""
        times: dict[str, list[float]] = {name: [] for name in self.runs}
        for _ in range(rounds):
            for name, step in self.runs.items():
                times[name].append(statistics.median(_ms(step) for _ in range(-(-steps // TOGETHER))))
        return times

    @staticmethod
    def ratios(times: dict[str, list[float]]) -> dict[str, float]:
        """Time with each option over time without, of each the fastest round: what is left of a busy machine."""
        return {name: min(values) / min(times[OFF]) for name, values in times.items() if name != OFF}

    def anatomy(self, repeats: int) -> Anatomy:
        """What the step without options is made of; each part's fastest call counts."""
        steps = self.runs[OFF]
        found = fastest_ms({"step": steps, **step_products(steps.trainer, BATCH)}, repeats)
        whole = found.pop("step")
        # Whole epochs of input: single batches wait ready in the queue.
        taken = 4 * len(steps.kept)
        started = time.perf_counter()
        for _ in range(taken):
            next(steps.batches)
        return Anatomy(whole, sum(found.values()), (time.perf_counter() - started) * 1e3 / taken)


def _ms(step: _Steps) -> float:
    """Milliseconds of a step, the mean of `TOGETHER` one after the other."""
    started = time.perf_counter()
    for _ in range(TOGETHER):
        float(step())
    return (time.perf_counter() - started) * 1e3 / TOGETHER
