"""How often each row of the table occurs, and what is left of a row of data when gates are closed."""

from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.ranking.examples import ExampleMaker, Examples, example_blocks
from recsys.ranking.model import Ranker


def row_counts(maker: ExampleMaker, split: str = "train") -> np.ndarray:
    """Occurrences of each table row in the events of a split, `[rows] int64`; padding has none."""
    model = Ranker(maker.spec, seed=0)
    counts = np.zeros(maker.spec.rows, np.int64)
    for block in example_blocks(maker, split):
        features = {name: tf.constant(values) for name, values in block.features.items()}
        rows = [model.layer.single_rows(features).numpy().ravel()] if maker.spec.singles else []
        rows += [model.layer.list_rows(features[one.name], one)[1].numpy() for one in maker.spec.lists]
        counts += np.bincount(np.concatenate(rows), minlength=len(counts))
    counts[maker.spec.padding] = 0
    return counts


@dataclass(frozen=True)
class Live:
    """Means over rows of data: open fields (those with an open value) and pairs of open fields."""

    fields: float
    interactions: float


def live_interactions(model: Ranker, examples: Examples, kept: np.ndarray) -> Live:
    """What is left of the examples where only `kept` `[rows] bool` are open: n fields and n (n - 1) / 2 pairs each."""
    features = {name: tf.constant(values) for name, values in examples.features.items()}
    count = np.zeros(len(examples), np.int64)
    if model.spec.singles:
        count += kept[model.layer.single_rows(features).numpy()].sum(axis=1)
    for one in model.spec.lists:
        values, rows = model.layer.list_rows(features[one.name], one)
        opened = np.bincount(values.row.numpy(), kept[rows.numpy()], minlength=len(examples)) > 0
        count += opened
    return Live(float(count.mean()), float((count * (count - 1) / 2).mean()))
