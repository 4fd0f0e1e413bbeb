"""One training step: towers, sampling-corrected loss, sparse updates."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.config.train import LossConfig
from recsys.errors import UserError
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.ragged import as_ragged
from recsys.retrieval.candidate_queue import CandidateQueue, Candidates
from recsys.retrieval.gate_search import occurrences
from recsys.retrieval.input import Batch, join
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.softmax import Distinct, sampled_softmax_loss
from recsys.retrieval.spec import HISTORY_TABLE, TwoTowerSpec
from recsys.retrieval.ssl import SelfSupervision
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, PADDING_ID, USER, Schema, Statistic

FILLED = 256
"""The number of candidates of a step that holds each item once is a multiple of this."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What uniform negatives are drawn from: the `ids` `[n] int32`, and the item tower's static features `[ids, …]`.

    `fixed`: whether all that the item tower reads of an item is the same in every event.
    """

    ids: np.ndarray
    features: Mapping[str, tf.Tensor]
    fixed: bool = False


class Trainer(tf.Module):
    """Model, optimiser and correction, and the compiled step over them."""

    def __init__(
        self,
        model: TwoTower,
        optimiser: keras.optimizers.Optimizer,
        config: LossConfig,
        log_q: LogQ,
        catalogue: Catalogue,
        seed: int,
        self_supervisions: tuple[SelfSupervision, ...] = (),
        gates: GateOptimiser | None = None,
    ) -> None:
        """`gates` moves the model's gates while they are searched for; `optimiser` moves all other weights."""
        super().__init__(name="trainer")
        self.model, self.optimiser, self.config, self.gates = model, optimiser, config, gates
        self.log_q, self.catalogue, self.seed = log_q, catalogue, seed
        self.self_supervisions = self_supervisions
        stored = config.cross_batch_negatives
        self.queue = CandidateQueue(stored, model.spec.config.output_dim) if stored else None
        self.histories = item_histories(model.spec) if config.mask_history else ()
        # A variable, not a constant: a large catalogue must not live inside the graph. int64 has GPU kernels.
        self.drawn_from = tf.Variable(catalogue.ids, trainable=False, dtype=tf.int64, name="drawn_from")
        # Stored candidates keep their own vectors, so a queue needs the repeats.
        self.distinct = catalogue.fixed and self.queue is None and not model.item_tower.varies_by_row
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def loss(self, batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        """The loss of one batch; all randomness comes from `seed` `[2] int32`."""
        return self._loss(batch, self._candidates(batch, seed), seed)

    def _candidates(self, batch: Batch, seed: tf.Tensor) -> Candidates:
        """The batch's items, then the uniformly drawn ones; each item once where its rows would not differ."""
        items, distinct = batch["item"], None
        if self.model.item_tower.audience is not None:
            items = {**items, USER: batch["query"][USER]}
        if self.config.uniform_negatives:
            items = self._with_uniform(items, tf.random.fold_in(seed, 2))
        if self.distinct:
            items, distinct = _without_repeats(items, tf.shape(batch["item"][ITEM])[0])
        vectors = self.model.item_tower(items, seed=tf.random.fold_in(seed, 1))
        return Candidates(vectors, items[ITEM], self.log_q(items[ITEM], batch["item"][ITEM], items), distinct)

    def _loss(self, batch: Batch, candidates: Candidates, seed: tf.Tensor) -> tf.Tensor:
        """The softmax of the batch's queries over the candidates and, where there is a queue, what is stored in it."""
        queries = self.model.query_tower(batch["query"], seed=tf.random.fold_in(seed, 0))
        ids, log_q, stored = candidates.ids, candidates.log_q, None
        if self.queue is not None:
            earlier = self.queue.stored()
            stored = earlier.vectors
            ids, log_q = tf.concat([ids, earlier.ids], axis=0), tf.concat([log_q, earlier.log_q], axis=0)
        return sampled_softmax_loss(
            queries,
            candidates.vectors,
            log_q,
            self.model.inverse_temperature,
            stored=stored,
            candidate_ids=ids if self.config.mask_accidental_hits else None,
            seen_ids=self._seen(batch),
            distinct=candidates.distinct,
            weights=None if self.config.weight_field is None else batch["query"][self.config.weight_field],
            block_rows=self.config.block_rows,
            products=tf.as_dtype(self.config.precision),
        )

    def _seen(self, batch: Batch) -> tf.RaggedTensor | None:
        """The items of each row's histories where `mask_history` asks for them."""
        histories = [as_ragged(batch["query"][name]) for name in self.histories]
        return tf.concat(histories, axis=1) if histories else None

    def _with_uniform(self, items: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """The batch's items followed by uniformly drawn ones with their static features."""
        places = tf.random.stateless_uniform(
            [self.config.uniform_negatives], seed, minval=0, maxval=len(self.catalogue.ids), dtype=tf.int32
        )
        drawn = tf.cast(tf.gather(self.drawn_from, places), tf.int32)
        extra = join({ITEM: drawn}, ITEM, self.catalogue.features)
        extra[USER] = tf.fill(tf.shape(drawn), PADDING_ID)
        return {name: tf.concat([values, extra[name]], axis=0) for name, values in items.items()}

    def due(self, step: int) -> tuple[bool, ...]:
        """Which of the self-supervisions step `step` of the phase (from 0) has."""
        return tuple(one.due(step) for one in self.self_supervisions)

    @tf.function(reduce_retracing=True)
    def train_step(
        self, batch: Batch, learning_rate: tf.Tensor, due: tuple[bool, ...] | None = None, rest: bool = False
    ) -> tf.Tensor:
        """Update on one batch and return its main loss, a float32 scalar. Gates stay where they are if they `rest`.

        `due` says which self-supervisions take part, all where left out. It is known on the host, and each answer has a
        graph of its own: of a branch in the graph the look-ups' gradients would be as large as the tables.
        """
        self.log_q.update(batch["item"][ITEM])
        seed = tf.random.fold_in(tf.constant([self.seed % (1 << 31), 0x57E9], tf.int32), self.step)
        moved = None if rest else self.gates
        logits = [gates.logits for gates in moved.gates] if moved is not None else []
        with tf.GradientTape() as tape, moved.reading() if moved is not None else nullcontext():
            tape.watch(logits)
            candidates = self._candidates(batch, seed)
            loss = total = self._loss(batch, candidates, seed)
            for one, wanted in zip(self.self_supervisions, due or [True] * len(self.self_supervisions), strict=True):
                if wanted:
                    factor = one.config.every * one.weight(self.step)
                    total += factor * one.loss(self.step, batch, self.model.inverse_temperature)
        variables = self.model.trainable_variables
        gradients = tape.gradient(total, [*variables, *logits])
        self.optimiser.learning_rate.assign(learning_rate)
        self.optimiser.apply_gradients(zip(gradients[: len(variables)], variables, strict=True))
        if moved is not None:
            moved.apply(gradients[len(variables) :], occurrences(self.model, batch))
        if self.queue is not None:
            self.queue.push(candidates, tf.random.fold_in(seed, 3))
        self.step.assign_add(1)
        return loss


def _without_repeats(items: Mapping[str, tf.Tensor], rows: tf.Tensor) -> tuple[dict[str, tf.Tensor], Distinct]:
    """Each item once, in order of appearance; its columns are those of its first row. `rows` of them are positives.

    A matrix product of a new shape has its kernel made first, which takes longer than the product. So the number of
    items is filled up to a multiple of `FILLED`, with the first item in no copies.
    """
    found = tf.unique_with_counts(items[ITEM])
    number = tf.size(found.y)
    first = tf.math.unsorted_segment_min(tf.range(tf.size(found.idx)), found.idx, number)
    filling = [[0, -number % FILLED]]
    distinct = Distinct(found.idx[:rows], tf.cast(tf.pad(found.count, filling), tf.float32))
    return {name: tf.gather(values, tf.pad(first, filling)) for name, values in items.items()}, distinct


def recent_problem(spec: TwoTowerSpec, schema: Schema, config: LossConfig) -> str | None:
    """Why `frequencies: recent` cannot be had from this model's inputs, or None where it can."""
    counts = {field.name for field in schema.fields if field.statistic is Statistic.CLICKS}
    usable = sorted(counts & {inputs.name for inputs in spec.item.inputs})
    if config.recent is None or config.recent.field in usable:
        return None
    return (
        f"train.loss.recent.field: '{config.recent.field}' is not a point-in-time field with statistic clicks that the "
        f"item tower reads; it could be one of {usable}."
    )


def item_histories(spec: TwoTowerSpec) -> tuple[str, ...]:
    """The histories of items that the query tower reads; raises UserError where there are none to mask."""
    names = tuple(inputs.name for inputs in spec.query.inputs if inputs.table in (ITEM, HISTORY_TABLE))
    if not names:
        raise UserError("train.loss.mask_history: the query tower reads no history of items; declare one or set false.")
    return names


def uniform_negatives_problem(spec: TwoTowerSpec, static: Mapping[str, np.ndarray]) -> str | None:
    """Why uniform negatives cannot be drawn for this model, or None where they can."""
    for inputs in spec.item.inputs:
        if inputs.name not in static:
            return (
                f"train.loss.uniform_negatives: the item tower reads '{inputs.name}', a value as of an event's time, "
                "which items drawn from the catalogue do not have; set it to 0 or leave the field out of "
                "model.item.features."
            )
    return None
