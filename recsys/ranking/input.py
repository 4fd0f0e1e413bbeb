"""Training batches for TensorFlow, ahead of the step that uses them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.ranking.examples import ExampleMaker, Examples
from recsys.ranking.model import signature
from recsys.retrieval.shards import EventReader

Batch = dict[str, Any]
"""`features` by column name, `labels`, `weights` and `offsets`, all batch first."""


def training_batches(
    maker: ExampleMaker, reader: EventReader, prefetch: int, *, epoch: int, step: int
) -> Iterator[Batch]:
    """Endless batches from (epoch, step) on, epoch after epoch; Python works on whole batches."""

    def read() -> Iterator[Batch]:
        now, first = epoch, step
        while True:
            for place, table in enumerate(reader.batches(now, first), start=first):
                yield as_batch(maker.make(table, np.random.default_rng([reader.seed, now, place])))
            now, first = now + 1, 0

    vector = tf.TensorSpec([None], tf.float32)
    form = {"features": signature(maker.spec), "labels": vector, "weights": vector, "offsets": vector}
    return iter(tf.data.Dataset.from_generator(read, output_signature=form).prefetch(prefetch))


def as_batch(examples: Examples) -> Batch:
    """What a training step takes."""
    return {
        "features": examples.features,
        "labels": examples.labels,
        "weights": examples.weights,
        "offsets": examples.offsets,
    }
