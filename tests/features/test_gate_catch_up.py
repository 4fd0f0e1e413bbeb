"""Gates that catch up, beside the dense recursion step by step in NumPy float64."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.features.gate_catch_up import Moments, catch_up
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch, unused_gate
from recsys.features.gates import Gates

GATES, HITS = 4000, 300
SEARCH = GateSearch(
    start=0.5,
    penalty=1e-4,
    final_temperature=200.0,
    epochs=4,
    epoch_steps=80,
    learning_rate=6e-3,
    epsilon=1e-8,
)
BY_STEP = GateSearch(**{**SEARCH.__dict__, "by_step": True})
NEVER = 100
"""So many gates, the last, are in no step."""


def dense_step(state, step, slope_of_loss, temperature, search):
    """Adam's `step`-th (from 1) on all gates, (logit, mean, square) `[gates] float64` each."""
    logit, mean, square = state
    soft = 1 / (1 + np.exp(-temperature * logit))
    slope = slope_of_loss + search.penalty * temperature * soft * (1 - soft)
    mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
    root = np.sqrt(square / (1 - 0.999**step))
    return logit - search.learning_rate * mean / (1 - 0.9**step) / (root + search.epsilon), mean, square


class Searched:
    """Late gates beside their oracle; the loss of a step is the sum of worth x gate over the gates that it looks up."""

    def __init__(self, search: GateSearch) -> None:
        self.search = search
        self.temperature = tf.Variable(1.0, trainable=False)
        self.gates = Gates("g", GATES, start=search.start, temperature=self.temperature)
        self.optimiser = GateOptimiser([self.gates], search, dense=True, exact_gates=0)
        self.oracle = (np.full(GATES, search.start), np.zeros(GATES), np.zeros(GATES))
        self.rng = np.random.default_rng(5)
        share = np.arange(1, GATES - NEVER + 1.0) ** -1.0
        self.share = share / share.sum()
        self.worth = search.penalty / np.minimum(HITS * self.share, 1) * self.rng.uniform(0, 2.5, GATES - NEVER)
        form = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32)]
        self.step = tf.function(self._step, input_signature=form)

    def _step(self, rows: tf.Tensor, worth: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape, self.optimiser.reading():
            tape.watch(self.gates.logits)
            read = self.gates.at(rows)
            loss = -tf.reduce_sum(worth * read) / self.gates.scale
        self.optimiser.apply([tape.gradient(loss, self.gates.logits)], distinct=True)
        return read

    def draw(self):
        rows = np.unique(self.rng.choice(GATES - NEVER, HITS, p=self.share))
        return rows, self.worth[rows] * self.rng.normal(1, 3, len(rows))

    def run(self, start: int, stop: int, *, oracle: bool = True) -> float:
        """Steps `start` to `stop`; the largest difference between a gate as read and as the oracle has it, mean."""
        errors = []
        for step in range(start, stop):
            epoch, place = divmod(step, self.search.epoch_steps)
            if self.search.changes_at(place):
                self.temperature.assign(self.search.temperature(epoch, place))
            rows, worth = self.draw()
            read = self.step(tf.constant(rows), tf.constant(worth, tf.float32)).numpy()
            if oracle:
                temperature = self.search.temperature(epoch, place)
                soft = 1 / (1 + np.exp(-temperature * self.oracle[0][rows]))
                errors.append(np.abs(read - self.gates.scale * soft).mean())
                slope = np.zeros(GATES)
                slope[rows] = -worth * temperature * soft * (1 - soft)
                self.oracle = dense_step(self.oracle, step + 1, slope, temperature, self.search)
            if place == self.search.epoch_steps - 1:
                self.optimiser.settle()
        return float(np.max(errors)) if errors else 0.0


@pytest.mark.parametrize("search", [SEARCH, BY_STEP], ids=["epoch", "step"])
def test_gates_that_catch_up_end_where_the_dense_recursion_does(search: GateSearch):
    """The kept set, each logit, and every gate as a forward pass reads it."""
    searched = Searched(search)
    worst_read = searched.run(0, search.epochs * search.epoch_steps)
    found, expected = searched.gates.logits.numpy(), searched.oracle[0]
    assert 0.1 < (expected > 0).mean() < 0.9
    assert ((found > 0) == (expected > 0)).mean() >= 0.999
    error = np.abs(found - expected)
    assert error.mean() < 1.5e-3 and np.quantile(error, 0.99) < 1.5e-2
    assert worst_read < 0.02
    np.testing.assert_allclose(found[-NEVER:], unused_gate(search)[-1], atol=1e-3)
    assert searched.optimiser.met()[0].all()  # the penalty met them all, as in the dense recursion


def test_a_search_that_was_interrupted_goes_on_with_the_same_bytes():
    """In the middle of an epoch, when most gates are behind."""
    whole, first = Searched(SEARCH), Searched(SEARCH)
    whole.run(0, 120, oracle=False)
    first.run(0, 100, oracle=False)
    resumed = Searched(SEARCH)
    source = [first.gates.logits, first.temperature, *first.optimiser.kept_state]
    target = [resumed.gates.logits, resumed.temperature, *resumed.optimiser.kept_state]
    for one, other in zip(source, target, strict=True):
        other.assign(one)
    resumed.rng = first.rng
    resumed.run(100, 120, oracle=False)
    for one, other in zip(whole.optimiser.kept_state, resumed.optimiser.kept_state, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    np.testing.assert_array_equal(whole.gates.logits.numpy(), resumed.gates.logits.numpy())


@pytest.mark.parametrize("temperature", [1.0, 14.0, 200.0])
def test_missed_steps_at_once_are_missed_steps_one_by_one(temperature: float):
    """From any state: old and young gates, gates that were kicked up or down by an example, one step or hundreds."""
    rng, count = np.random.default_rng(0), 2000
    search = GateSearch(**{**SEARCH.__dict__, "penalty": 1e-5, "learning_rate": 3e-3})
    updates, missed = np.floor(10 ** rng.uniform(0, 3.3, count)), np.floor(10 ** rng.uniform(0, 2.5, count))
    logit = rng.uniform(-0.3, 0.6, count) if temperature < 50 else rng.normal(0, 0.05, count)
    kick = 10 ** rng.uniform(-7, -4, count) * rng.choice([-1, 1], count)
    soft = 1 / (1 + np.exp(-temperature * logit))
    slope = search.penalty * temperature * soft * (1 - soft)
    mean = slope * (1 - 0.9**updates) + 0.1 * kick
    square = slope**2 * (1 - 0.999**updates) + 0.001 * kick**2
    exact = (logit, mean, square)
    for step in range(1, int(missed.max()) + 1):
        moved = dense_step(exact, updates + step, 0.0, temperature, search)
        exact = tuple(np.where(step <= missed, one, other) for one, other in zip(moved, exact, strict=True))
    start = Moments(*(tf.constant(one, tf.float32) for one in (logit, mean, square, updates)))
    found = catch_up(start, tf.constant(missed, tf.float32), tf.constant(temperature), search)
    np.testing.assert_array_equal(found.updates, updates + missed)
    error, way = np.abs(found.logit - exact[0]), np.abs(exact[0] - logit)
    assert error.mean() < 0.01 * way.mean() and np.quantile(error, 0.99) < 0.1 * way.mean() + 0.01
    one = missed == 1
    np.testing.assert_allclose(found.logit.numpy()[one], exact[0][one], atol=2e-5)  # a step alone is exact
    assert np.quantile(np.abs(np.sqrt(found.square.numpy() / exact[2]) - 1), 0.99) < 0.1


def test_who_missed_nothing_stays():
    start = Moments(*(tf.constant([value, 0.2], tf.float32) for value in (0.1, 1e-6, 1e-12, 7.0)))
    found = catch_up(start, tf.constant([0.0, 0.0]), tf.constant(14.0), SEARCH)
    for one, other in zip(start, found, strict=True):
        np.testing.assert_array_equal(one, other)
