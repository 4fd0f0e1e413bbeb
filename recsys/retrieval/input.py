"""Training batches for TensorFlow: whole batches from Parquet, joined with user and item features by gathers on ids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys._tensorflow import tf
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.features.spec import Form, InputSpec
from recsys.retrieval.ahead import Ahead
from recsys.retrieval.shards import EventReader, PositiveEvents
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.schema import FIRST_VALUE_ID, SPLITS, Side

Batch = dict[str, dict[str, tf.Tensor | tf.RaggedTensor]]
"""`{"query": {column: tensor}, "item": {column: tensor}}`, batch first; lists that events carry are ragged."""


Lists = tuple[np.ndarray, np.ndarray]
"""A column of lists: all values one row after the other `[values] int32`, and the rows' lengths `[rows] int32`."""


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


def drawable_ids(dataset: DatasetFolder, side: Side, splits: tuple[str, ...]) -> np.ndarray:
    """Ids `[n] int32` of the users or items that there were by the end of these splits; all where times do not tell.

    What is drawn from a catalogue in training must not be what only came later.
    """
    entities = dataset.items if side is Side.ITEM else dataset.users
    ids = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + len(entities), dtype=np.int32)
    times = dataset.manifest.get("split", {}).get("times")
    if not times or "available_from" not in entities.column_names:
        return ids
    following = next(one for one in SPLITS if one not in splits)
    return ids[entities["available_from"].to_numpy() < times[following]]


def decode(table: pa.Table, ids: str, specs: tuple[InputSpec, ...]) -> dict[str, np.ndarray | Lists]:
    """Event columns as arrays: ids `[rows] int32`, lists as `Lists`, numbers float32."""
    arrays: dict[str, np.ndarray | Lists] = {ids: table[ids].to_numpy()}
    for spec in specs:
        if spec.is_list:
            arrays[spec.name] = _lists(table[spec.name])
        else:
            arrays[spec.name] = table[spec.name].to_numpy().astype(np.int32 if spec.is_integer else np.float32)
    return arrays


def _lists(column: pa.ChunkedArray) -> Lists:
    lists = column.combine_chunks()
    lists = lists.fill_null([]) if lists.null_count else lists
    sizes = np.diff(lists.offsets.to_numpy()).astype(np.int32)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False), sizes


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
    if config.loss.weight_field is not None:
        names.append(config.loss.weight_field)
    return EventReader(
        events,
        tuple(dict.fromkeys(names)),
        config.batch_size,
        config.input.buffer_rows,
        config.input.order == "time",
        seed,
    )


def training_batches(
    dataset: DatasetFolder,
    spec: TwoTowerSpec,
    reader: EventReader,
    prefetch: int,
    *,
    epoch: int,
    step: int,
    weight: str | None = None,
) -> Ahead[Batch]:
    """Endless batches from (epoch, step) on, epoch after epoch: `{"query": {...}, "item": {...}}`.

    The column `weight`, where it is named, stands beside the query's inputs, `[batch] float32`.
    They are made in a thread, up to `prefetch` of them ahead of the training step, on the CPU.
    """
    towers = {"query": (spec.query, Side.USER), "item": (spec.item, Side.ITEM)}
    columns = {name: tower_columns(dataset, tower, side) for name, (tower, side) in towers.items()}
    decoded = {name: columns[name].event for name in towers}
    if weight is not None and all(one.name != weight for one in decoded["query"]):
        decoded["query"] = (*decoded["query"], InputSpec(weight, Form.NUMBER))

    with tf.device("/CPU:0"):
        static = {name: {key: tf.constant(array) for key, array in columns[name].joined.items()} for name in towers}

    def joined(table: pa.Table) -> Batch:
        with tf.device("/CPU:0"):
            events = {
                name: _tensors(decode(table, tower.id_column, decoded[name])) for name, (tower, _) in towers.items()
            }
            return {name: join(events[name], tower.id_column, static[name]) for name, (tower, _) in towers.items()}

    def read() -> Iterator[Batch]:
        now, first = epoch, step
        while True:
            yield from map(joined, reader.batches(now, first))
            now, first = now + 1, 0

    return Ahead(read(), prefetch)


def _tensors(columns: Mapping[str, np.ndarray | Lists]) -> dict[str, Any]:
    """Lists as ragged tensors `[batch, None] int32`, other columns as they are."""
    return {
        name: tf.RaggedTensor.from_row_lengths(*column, validate=False)
        if isinstance(column, tuple)
        else tf.constant(column)
        for name, column in columns.items()
    }
