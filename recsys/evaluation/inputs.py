"""What a tower reads, gathered from a data set folder: arrays by column name, batch first (docs/contracts.md)."""

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa

from recsys.dataset_folder import DatasetFolder, pad_lists
from recsys.schema import FIRST_VALUE_ID, ITEM, USER, Kind, Side

LISTS = (Kind.MULTI_VALUED, Kind.SEQUENCE)


def query_columns(dataset: DatasetFolder, wanted: Collection[str]) -> list[str]:
    """Event columns that a query tower with the inputs `wanted` reads, `user` always among them."""
    fields = [*dataset.schema.of(Side.CONTEXT), *dataset.schema.of(Side.USER, Kind.SEQUENCE)]
    return [USER, *(field.name for field in fields if field.name in wanted)]


def query_inputs(
    dataset: DatasetFolder,
    events: pa.Table,
    wanted: Collection[str],
    features: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The query tower's inputs for rows of an event table that has `query_columns`.

    Users' features are looked up by id; context and sequences come from the rows, as of their time. Who asks for many
    tables gives the users' `features` by id.
    """
    users = events[USER].to_numpy()
    arrays: dict[str, np.ndarray] = {USER: users}
    for name, column in (dataset.features(Side.USER) if features is None else features).items():
        if name in wanted:
            arrays[name] = column[users]
    for field in (*dataset.schema.of(Side.CONTEXT), *dataset.schema.of(Side.USER, Kind.SEQUENCE)):
        if field.name not in wanted:
            continue
        column = events[field.name]
        if field.kind in LISTS:
            sequence = field.kind is Kind.SEQUENCE
            arrays[field.name] = pad_lists(column, field.length if sequence else None, keep_last=sequence)
        else:
            arrays[field.name] = column.to_numpy()
    return arrays


def item_inputs(dataset: DatasetFolder, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The item tower's static inputs for the whole catalogue, row = id - 3; point-in-time fields are not among them."""
    arrays: dict[str, np.ndarray] = {ITEM: dataset.items[ITEM].to_numpy()}
    for name, column in dataset.features(Side.ITEM).items():
        if name in wanted:
            arrays[name] = column[FIRST_VALUE_ID:]
    return arrays
