"""Training batches for TensorFlow: whole batches from Parquet, joined with user and item features by gathers on ids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys._tensorflow import tf
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder, pad_lists
from recsys.features.spec import InputSpec
from recsys.retrieval.shards import EventReader, PositiveEvents
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.schema import Side

Batch = dict[str, dict[str, tf.Tensor]]
"""`{"query": {column: tensor}, "item": {column: tensor}}`, batch first."""


@dataclass(frozen=True)
class Columns:
    """Where each input of a tower comes from: the event's row, or the table of its user or item."""

    event: tuple[InputSpec, ...]
    joined: dict[str, np.ndarray]


def tower_columns(dataset: DatasetFolder, tower: TowerSpec, side: Side) -> Columns:
    """Split a tower's inputs into event columns and static features `[ids, …]` of the side's entity."""
    static = dataset.features(side)
    joined = {spec.name: static[spec.name] for spec in tower.inputs if spec.name in static}
    return Columns(tuple(spec for spec in tower.inputs if spec.name not in static), joined)


def decode(table: pa.Table, ids: str, specs: tuple[InputSpec, ...]) -> dict[str, np.ndarray]:
    """Event columns as arrays: ids `[rows] int32`, lists `[rows, width] int32` padded with 0, numbers float32.

    The width is that of the longest row of the table, so a batch is no wider than it needs to be.
    """
    arrays = {ids: table[ids].to_numpy()}
    for spec in specs:
        if spec.is_list:
            arrays[spec.name] = pad_lists(table[spec.name], None)
        else:
            arrays[spec.name] = table[spec.name].to_numpy().astype(np.int32 if spec.is_integer else np.float32)
    return arrays


def join(arrays: Mapping[str, tf.Tensor], ids: str, joined: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Add the entity's static features to event arrays by gathering rows on its id."""
    return {**arrays, **{name: tf.gather(values, arrays[ids]) for name, values in joined.items()}}


def event_reader(
    dataset: DatasetFolder, spec: TwoTowerSpec, events: PositiveEvents, config: TrainConfig, seed: int
) -> EventReader:
    """The reader of the event columns that the model needs."""
    names = [spec.query.id_column, spec.item.id_column]
    for tower, side in ((spec.query, Side.USER), (spec.item, Side.ITEM)):
        names += [column.name for column in tower_columns(dataset, tower, side).event]
    return EventReader(
        events,
        tuple(dict.fromkeys(names)),
        config.batch_size,
        config.input.buffer_rows,
        config.input.order == "time",
        seed,
    )


def training_batches(
    dataset: DatasetFolder, spec: TwoTowerSpec, reader: EventReader, prefetch: int, *, epoch: int, step: int
) -> tf.data.Dataset:
    """Endless batches from (epoch, step) on, epoch after epoch: `{"query": {...}, "item": {...}}`.

    Python works on whole batches; the joins run in TensorFlow's threads, ahead of the training step.
    """
    towers = {"query": (spec.query, Side.USER), "item": (spec.item, Side.ITEM)}
    columns = {name: tower_columns(dataset, tower, side) for name, (tower, side) in towers.items()}
    static = {name: {key: tf.constant(array) for key, array in columns[name].joined.items()} for name in towers}

    def read() -> Iterator[dict[str, dict[str, np.ndarray]]]:
        now, first = epoch, step
        while True:
            for table in reader.batches(now, first):
                yield {name: decode(table, tower.id_column, columns[name].event) for name, (tower, _) in towers.items()}
            now, first = now + 1, 0

    def joined(batch: Batch) -> Batch:
        return {name: join(batch[name], tower.id_column, static[name]) for name, (tower, _) in towers.items()}

    signature = {
        name: {tower.id_column: tf.TensorSpec([None], tf.int32), **_signature(columns[name].event)}
        for name, (tower, _) in towers.items()
    }
    batches = tf.data.Dataset.from_generator(read, output_signature=signature)
    return batches.map(joined).prefetch(prefetch)


def _signature(specs: tuple[InputSpec, ...]) -> dict[str, tf.TensorSpec]:
    return {
        spec.name: tf.TensorSpec([None, None] if spec.is_list else [None], tf.int32 if spec.is_integer else tf.float32)
        for spec in specs
    }
