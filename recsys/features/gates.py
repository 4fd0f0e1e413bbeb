"""OptFS gates: one learned number a value or a field that ends as open or closed (Lyu et al., WWW 2023).

Gate k has a logit m_k, which starts at m0. With S the logistic function and c = 1 / S(m0),

    soft, while searching:   g_k = c S(t m_k)      t: the temperature
    hard, once decided:      g_k = c 1[m_k > 0]

so at t = 1 every gate is 1 at first, and closed is 0 in the end. What is gated is the embedding, after the lookup and
before pooling; products of gated embeddings carry the product of their gates. Temperature and optimiser are others'
(gate_schedule.py, gate_optimiser.py).
"""

from collections.abc import Callable, Sequence

import numpy as np

from recsys._tensorflow import keras, tf


class Gates(keras.layers.Layer):
    """A vector of gates, for the rows of a table or for some fields.

    `logits` `[size] float32` is no trainable weight: the step that searches watches it and gives its gradient to the
    gates' own optimiser, so nothing else can move a gate. Always float32: t m reaches 1e4.
    """

    def __init__(self, name: str, size: int, *, start: float, temperature: tf.Variable | None) -> None:
        """`temperature` is a scalar that gates share; None for hard gates."""
        super().__init__(name=gates_name(name), dtype="float32")
        self.size = size
        self.scale = float(1.0 + np.exp(-start))
        """The paper's c, the value of an open gate in the end."""
        self.temperature = temperature
        self.before_reading: Callable[[tf.Tensor], None] | None = None
        """Called with places before their gates are read, while a step of a search is traced (gate_optimiser.py)."""
        self.logits = tf.Variable(
            tf.fill([size], tf.constant(start, tf.float32)), trainable=False, name=f"{name}/gates"
        )

    def at(self, places: tf.Tensor) -> tf.Tensor:
        """The gates at integer `places`, `places.shape float32`."""
        if self.before_reading is not None:
            self.before_reading(tf.reshape(places, [-1]))
        return self._gate(tf.gather(self.logits, places))

    def all(self) -> tf.Tensor:
        """All gates, `[size] float32`."""
        return self._gate(tf.convert_to_tensor(self.logits))

    def _gate(self, logits: tf.Tensor) -> tf.Tensor:
        if self.temperature is None:
            return self.scale * tf.cast(logits > 0.0, tf.float32)
        return self.scale * tf.sigmoid(self.temperature * logits)


def gates_name(of: str) -> str:
    """The name of the gates of a table, or of a tower's fields."""
    return f"gates_{of}"


def openness(gates: tf.Tensor) -> tf.Tensor:
    """What a value counts in a pooled mean, given its gate: min(1, g), without gradient; 1 or 0 once gates are hard.

    The specification (section 6) counts g / c. That is the same for hard gates, so in training on the kept values and
    in serving; while searching, min(1, g) starts as the plain mean, as section 10, item 5 asks, where g / c would not
    for two values or more.
    """
    return tf.stop_gradient(tf.minimum(gates, 1.0))


def kept(logits: np.ndarray) -> np.ndarray:
    """Which gates stay, `[size] bool`: those with a logit above 0, strictly."""
    return np.asarray(logits) > 0.0


def open_share(gates: Gates, places: Sequence[int] | None = None) -> float:
    """The share of gates that would stay if the search ended now, of all or of those at `places`."""
    stay = kept(gates.logits.numpy())
    return float(np.mean(stay if places is None else stay[list(places)]))
