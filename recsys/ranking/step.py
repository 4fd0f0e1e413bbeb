"""One training step of the ranker: weighted cross-entropy, updates of the batch's rows, and of gates in a search."""

from collections.abc import Mapping
from contextlib import nullcontext

from recsys._tensorflow import tf
from recsys.config.ranking import RankingTrainConfig
from recsys.features.gate_optimiser import GateOptimiser, Occurrences
from recsys.ranking.input import Batch
from recsys.ranking.model import Ranker
from recsys.retrieval.optimiser import LazyAdam


class Trainer(tf.Module):
    """Model and optimisers, and the compiled step over them. With `gates` the step searches."""

    def __init__(
        self,
        model: Ranker,
        config: RankingTrainConfig,
        seed: int,
        gates: GateOptimiser | None = None,
        tasks: Mapping[str, float] | None = None,
    ) -> None:
        """`tasks`: the weight of each other task's loss, by name."""
        super().__init__(name="trainer")
        self.model, self.seed, self.gates = model, seed, gates
        self.tasks = dict(tasks or {})
        rate, epsilon = config.learning_rate, config.epsilon
        self.rate = rate
        self.table_optimiser = LazyAdam(rate, epsilon=epsilon, l2=config.l2_embeddings)
        self.network_optimiser = LazyAdam(rate, epsilon=epsilon, l2=config.l2_network)
        self.table_optimiser.build([model.table.table])
        self.network_optimiser.build(model.network_variables)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def loss(self, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """Mean over the batch of weight x cross-entropy of the logit less its offset; `seed` as for the model.

        Each other task adds its weight times the cross-entropy of the rows where its outcome is known (not NaN), over
        the weight of all rows of the batch. Its gradient reaches the shared table, and so gates get that of the sum
        (OptFS, section 11).
        """
        scored = self.model(batch["features"], seed)
        logits = scored.logits - batch["offsets"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=batch["labels"], logits=logits)
        rows_weigh = tf.reduce_sum(batch["weights"])
        # Rows may weigh 0, and a small batch may hold no others: it teaches nothing.
        loss = tf.math.divide_no_nan(tf.reduce_sum(batch["weights"] * losses), rows_weigh)
        for name, weight in self.tasks.items():
            unknown = tf.math.is_nan(batch["outcomes"][name])
            labels = tf.where(unknown, 0.0, batch["outcomes"][name])
            rows = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=scored.tasks[name])
            weights = tf.where(unknown, 0.0, batch["weights"])
            loss += weight * tf.math.divide_no_nan(tf.reduce_sum(weights * rows), rows_weigh)
        return loss

    @tf.function(reduce_retracing=True)
    def train_step(self, batch: Batch, rest: bool = False) -> tf.Tensor:
        """Update on one batch and return its loss without the gates' penalty, a float32 scalar.

        Gates stay where they are if they `rest`.
        """
        seed = tf.random.fold_in(tf.constant([self.seed % (1 << 31), 0x2A4E], tf.int32), self.step)
        moved = None if rest else self.gates
        searched = [gates.logits for gates in moved.gates] if moved is not None else []
        with tf.GradientTape() as tape, moved.reading() if moved is not None else nullcontext():
            tape.watch(searched)
            loss = self.loss(batch, seed)
        network = self.model.network_variables
        table, others, gates = tape.gradient(loss, ([self.model.table.table], network, searched))
        # The table is looked up once, each row once (FeatureTable.look_up): so it is in the gradients.
        self.table_optimiser.apply_to_rows(table[0], self.model.table.table)
        if network:
            self.network_optimiser.apply_gradients(zip(others, network, strict=True))
        if moved is not None:
            rows = self.model.layer.every_row(batch["features"])
            moved.apply(gates, [Occurrences(rows, tf.size(batch["labels"]))], distinct=True)
        self.step.assign_add(1)
        return loss

    def slow_down(self, factor: float) -> None:
        """Set the weights' learning rate to the configured one times `factor`."""
        for optimiser in (self.table_optimiser, self.network_optimiser):
            optimiser.learning_rate.assign(self.rate * factor)

    def release(self) -> None:
        """Give back the memory of all variables, after which this trainer is of no use.

        TensorFlow registers the gradient of a traced `tf.custom_gradient` for good, and with it the step's graph and
        the variables that it reads: they are not freed with their last user, so they are emptied.
        """
        for variable in [*self.model.variables, *(one for group in self.state.values() for one in group)]:
            # The operation itself: `assign` would insist on the shape.
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.zeros([0], variable.dtype))

    @property
    def state(self) -> dict[str, list[tf.Variable]]:
        """Everything that a resumed run needs, by group."""
        return {
            "model": self.model.learned,
            "gates": [] if self.model.gates is None else [self.model.gates.logits],
            "temperature": [] if self.gates is None else [self.gates.gates[0].temperature],
            "table_optimiser": list(self.table_optimiser.variables),
            "network_optimiser": list(self.network_optimiser.variables),
            "gate_optimiser": [] if self.gates is None else self.gates.kept_state,
            "trainer": [self.step],
        }
