"""How often each row of the table occurs, and what is left of a row of data when gates are closed."""

from dataclasses import dataclass, replace

import numpy as np

from recsys._tensorflow import tf
from recsys.ranking.examples import ExampleMaker, Examples, example_blocks
from recsys.ranking.layer import FeatureLayer
from recsys.ranking.model import Ranker
from recsys.ranking.table import FeatureTable


def row_counts(maker: ExampleMaker, split: str = "train") -> np.ndarray:
    """Occurrences of each table row in the events of a split, `[rows] int64`; padding has none."""
    # Only ids are looked up: a table of one column will do.
    narrow = replace(maker.spec, config=maker.spec.config.model_copy(update={"embedding_dim": 1}))
    layer = FeatureLayer(narrow, FeatureTable(narrow, seed=0), seed=0)
    counts = np.zeros(maker.spec.rows, np.int64)
    for block in example_blocks(maker, split):
        features = {name: tf.constant(values) for name, values in block.features.items()}
        np.add.at(counts, layer.every_row(features).numpy(), 1)  # at the cost of the block, not of the table
    counts[maker.spec.padding] = 0
    return counts


@dataclass(frozen=True)
class Live:
    """Means over rows of data: open fields (those with an open value) and pairs of open fields."""

    fields: float
    interactions: float


def live_interactions(model: Ranker, examples: Examples, kept: np.ndarray, fields: np.ndarray | None = None) -> Live:
    """What is left of the examples where only `kept` `[rows] bool` are open: n fields and n (n - 1) / 2 pairs each.

    Of gates of fields `fields` `[fields] bool` are the open ones: a closed one may share its rows with another.
    """
    fields = np.ones(len(model.spec.fields), bool) if fields is None else fields
    singles = len(model.spec.singles)
    features = {name: tf.constant(values) for name, values in examples.features.items()}
    count = np.zeros(len(examples), np.int64)
    if model.spec.singles:
        count += (kept[model.layer.single_rows(features).numpy()] & fields[:singles]).sum(axis=1)
    for one, stays in zip(model.spec.lists, fields[singles:], strict=True):
        values, rows = model.layer.list_rows(features[one.name], one)
        opened = np.bincount(values.row.numpy(), kept[rows.numpy()], minlength=len(examples)) > 0
        count += opened & stays
    return Live(float(count.mean()), float((count * (count - 1) / 2).mean()))
