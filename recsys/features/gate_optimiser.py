"""Adam for gates: the gradient of the loss, the slope of the penalty, and nothing for who is not asked."""

from collections.abc import Sequence

import numpy as np

from recsys._tensorflow import tf
from recsys.features.gate_schedule import BETA_1, BETA_2, GateSearch
from recsys.features.gates import Gates


class GateOptimiser(tf.Module):
    """Minimises loss + penalty x sum of S(t m_k) over gate logits m_k, with Adam (Kingma and Ba 2015, algorithm 1).

    `dense`: the sum runs over all gates at every step (OptFS). Otherwise over the gates whose rows the step looked up,
    each once however often it occurs; other gates rest, and so do their moments. Adam's bias correction counts the
    updates of a gate, not the steps, so a gate that is looked up rarely moves by the same law. Gates of fields, which
    are looked up by no row, are in every step.
    """

    def __init__(self, gates: Sequence[Gates], search: GateSearch, *, dense: bool) -> None:
        super().__init__(name="gate_optimiser")
        self.gates, self.search, self.dense = list(gates), search, dense
        self.state = [
            tuple(
                tf.Variable(tf.zeros([one.size], dtype), trainable=False, name=f"{one.name}/{name}")
                for name, dtype in (("mean", tf.float32), ("square", tf.float32), ("updates", tf.int64))
            )
            for one in self.gates
        ]

    def apply(self, gradients: Sequence[tf.Tensor | tf.IndexedSlices]) -> None:
        """One step, given the gradients of the loss in the order of the gates."""
        for gates, state, gradient in zip(self.gates, self.state, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices) and not self.dense:
                rows, place = tf.unique(gradient.indices)
                slope = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
                self._update(gates, state, rows, slope)
            else:
                self._update(gates, state, None, tf.convert_to_tensor(gradient))

    def met(self) -> list[np.ndarray]:
        """Which gates were ever updated, `[size] bool` each."""
        return [updates.numpy() > 0 for _, _, updates in self.state]

    def _update(self, gates: Gates, state: tuple[tf.Variable, ...], rows: tf.Tensor | None, slope: tf.Tensor) -> None:
        """Move the gates of `rows` (None: all), whose gradients of the loss are `slope`."""
        logit, mean, square, updates = (_read(variable, rows) for variable in (gates.logits, *state))
        slope += penalty_slope(logit, gates.temperature, self.search.penalty)
        updates += 1
        mean = BETA_1 * mean + (1.0 - BETA_1) * slope
        square = BETA_2 * square + (1.0 - BETA_2) * tf.square(slope)
        root = tf.sqrt(square / _corrected(BETA_2, updates))
        logit -= self.search.learning_rate * mean / _corrected(BETA_1, updates) / (root + self.search.epsilon)
        for variable, value in zip((gates.logits, *state), (logit, mean, square, updates), strict=True):
            _write(variable, rows, value)


def penalty_slope(logits: tf.Tensor, temperature: tf.Tensor, penalty: float) -> tf.Tensor:
    """d/dm of penalty x S(t m): penalty t S(t m) (1 - S(t m)), `logits.shape float32`."""
    soft = tf.sigmoid(temperature * logits)
    return penalty * temperature * soft * (1.0 - soft)


def _corrected(beta: float, updates: tf.Tensor) -> tf.Tensor:
    """1 - beta^updates."""
    return 1.0 - tf.pow(beta, tf.cast(updates, tf.float32))


def _read(variable: tf.Variable, rows: tf.Tensor | None) -> tf.Tensor:
    return tf.convert_to_tensor(variable) if rows is None else tf.gather(variable, rows)


def _write(variable: tf.Variable, rows: tf.Tensor | None, value: tf.Tensor) -> None:
    if rows is None:
        variable.assign(value)
    else:
        variable.scatter_update(tf.IndexedSlices(value, rows))
