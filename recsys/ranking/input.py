"""Training batches for TensorFlow, ahead of the step that uses them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.ranking.examples import ExampleMaker, Examples
from recsys.ranking.model import signature
from recsys.retrieval.ahead import Ahead
from recsys.retrieval.shards import EventReader

Batch = dict[str, Any]
"""`features` by column name, `labels`, `weights` and `offsets`, all batch first; with tasks `outcomes` by name."""


def training_batches(maker: ExampleMaker, reader: EventReader, prefetch: int, *, epoch: int, step: int) -> Ahead[Batch]:
    """Endless batches from (epoch, step) on, epoch after epoch; a thread makes up to `prefetch` of them ahead."""
    vector = tf.TensorSpec([None], tf.float32)
    form = {"features": signature(maker.spec), "labels": vector, "weights": vector, "offsets": vector}
    if maker.spec.tasks:
        form["outcomes"] = dict.fromkeys(maker.spec.tasks, vector)

    def read() -> Iterator[Batch]:
        now, first = epoch, step
        while True:
            for place, table in enumerate(reader.batches(now, first), start=first):
                made = as_batch(maker.make(table, np.random.default_rng([reader.seed, now, place])))
                with tf.device("/CPU:0"):
                    batch = tf.nest.map_structure(lambda spec, array: tf.constant(array, spec.dtype), form, made)
                yield batch
            now, first = now + 1, 0

    return Ahead(read(), prefetch)


def as_batch(examples: Examples) -> Batch:
    """What a training step takes."""
    batch: Batch = {
        "features": examples.features,
        "labels": examples.labels,
        "weights": examples.weights,
        "offsets": examples.offsets,
    }
    return batch | {"outcomes": examples.outcomes} if examples.outcomes else batch
