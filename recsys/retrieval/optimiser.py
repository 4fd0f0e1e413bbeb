"""Optimisers whose cost follows the batch: embedding tables change in the rows of the batch only."""

from recsys._tensorflow import keras, tf
from recsys.config.train import OptimiserConfig


class LazyAdam(keras.optimizers.Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1) with row-wise sparse updates.

    tf_keras' Adam decays the moments of a whole table every step. Here a row's moments and weights change only in steps
    whose batch has the row; bias correction uses the global step, as in plain Adam. Dense variables get plain Adam.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        l2: float = 0.0,
    ) -> None:
        super().__init__(name="lazy_adam", weight_decay=None, jit_compile=False)  # 0 would pass over whole tables
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.epsilon, self.l2 = beta_1, beta_2, epsilon, l2

    def build(self, var_list) -> None:
        """Make the two moments of every variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._first = [self.add_variable_from_reference(variable, "first") for variable in var_list]
        self._second = [self.add_variable_from_reference(variable, "second") for variable in var_list]
        self._built = True

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One update of one variable; a sparse gradient has each row once (Keras has summed repeats)."""
        place = self._index_dict[self._var_key(variable)]
        first, second = self._first[place], self._second[place]
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype)
        rate = rate * tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        # The corrected moments are m / (1 - b1^t) and v / (1 - b2^t); epsilon belongs to the corrected root.
        epsilon = self.epsilon * tf.sqrt(1.0 - tf.pow(self.beta_2, step))
        sparse = isinstance(gradient, tf.IndexedSlices)
        rows = gradient.indices if sparse else None

        def read(source: tf.Variable) -> tf.Tensor:
            return tf.gather(source, rows) if sparse else tf.convert_to_tensor(source)

        def write(target: tf.Variable, value: tf.Tensor) -> None:
            if sparse:
                target.scatter_update(tf.IndexedSlices(value, rows))
            else:
                target.assign(value)

        weights = read(variable)
        slope = (gradient.values if sparse else gradient) + (2.0 * self.l2 * weights if self.l2 else 0.0)
        mean = read(first) * self.beta_1 + slope * (1.0 - self.beta_1)
        square = read(second) * self.beta_2 + tf.square(slope) * (1.0 - self.beta_2)
        write(first, mean)
        write(second, square)
        write(variable, weights - rate * mean / (tf.sqrt(square) + epsilon))

    def apply_to_rows(self, gradient: tf.IndexedSlices, table: tf.Variable) -> None:
        """One step of an optimiser of one table alone, whose gradient has no row twice.

        What `apply_gradients` does, less its search for repeated rows.
        """
        self.update_step(gradient, table)
        self.iterations.assign_add(1)

    def get_config(self) -> dict:
        """The settings, as Keras asks for."""
        settings = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon, "l2": self.l2}
        return {"learning_rate": float(self.learning_rate.numpy()), **settings}


class RowAdagrad(keras.optimizers.Optimizer):
    """Adagrad (Duchi et al. 2011) per weight, for a table in the rows of the batch only."""

    def __init__(self, learning_rate: float, *, initial: float = 0.1, epsilon: float = 1e-7, l2: float = 0.0) -> None:
        super().__init__(name="row_adagrad", weight_decay=None, jit_compile=False)  # as above
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.initial, self.epsilon, self.l2 = initial, epsilon, l2

    def build(self, var_list) -> None:
        """Make every variable's sum of squared gradients."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._sums = [
            self.add_variable_from_reference(
                variable, "sum", initial_value=tf.fill(variable.shape, tf.cast(self.initial, variable.dtype))
            )
            for variable in var_list
        ]
        self._built = True

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """One update of one variable; a sparse gradient has each row once (Keras has summed repeats)."""
        sums = self._sums[self._index_dict[self._var_key(variable)]]
        rate = tf.cast(self.learning_rate, variable.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            rows = gradient.indices
            weights = tf.gather(variable, rows)
            slope = gradient.values + (2.0 * self.l2 * weights if self.l2 else 0.0)
            total = tf.gather(sums, rows) + tf.square(slope)
            sums.scatter_update(tf.IndexedSlices(total, rows))
            # Not scatter_sub, nor the fused op for all this: of rows in random order both are half as fast.
            moved = weights - rate * slope / (tf.sqrt(total) + self.epsilon)
            variable.scatter_update(tf.IndexedSlices(moved, rows))
        else:
            slope = gradient + (2.0 * self.l2 * variable if self.l2 else 0.0)
            sums.assign_add(tf.square(slope))
            variable.assign_sub(rate * slope / (tf.sqrt(sums) + self.epsilon))

    def get_config(self) -> dict:
        """The settings, as Keras asks for."""
        settings = {"initial": self.initial, "epsilon": self.epsilon, "l2": self.l2}
        return {"learning_rate": float(self.learning_rate.numpy()), **settings}


def make_optimiser(config: OptimiserConfig) -> keras.optimizers.Optimizer:
    """The configured optimiser; its `learning_rate` is a variable that the job sets each step."""
    if config.kind == "adagrad":
        return RowAdagrad(config.learning_rate, l2=config.l2)
    return LazyAdam(config.learning_rate, l2=config.l2)
