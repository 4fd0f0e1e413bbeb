"""How much a tower's fields tell about each other: what correlated masking goes by, and what training reports of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.information import mutual_information
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, PADDING_ID, Schema, Side


@dataclass(frozen=True, eq=False)
class FieldInformation:
    """Mutual information between the fields that a tower's views can hide, as training.json reports it."""

    fields: tuple[str, ...]
    matrix: np.ndarray
    identity: int | None

    def to_json(self, sets: np.ndarray | None = None) -> dict[str, object]:
        """Fields, matrix and, where given, what is hidden with each field (`sets` `[fields, fields] bool`)."""
        report: dict[str, object] = {"fields": list(self.fields), "mutual_information": self.matrix.tolist()}
        if sets is not None:
            report["hidden_together"] = {
                field: [other for other, hidden in zip(self.fields, row, strict=True) if hidden]
                for field, row in zip(self.fields, sets, strict=True)
            }
        return report


def field_information(
    dataset: DatasetFolder, fields: tuple[str, ...], side: Side, kept: Mapping[str, np.ndarray], seed: int
) -> FieldInformation:
    """Mutual information `[fields, fields]` in nats from the data set's statistics.

    The id's with a field is all of that field, with itself log of the number of ids. Where gates closed values of a
    field, `kept[field]` `[ids] bool` says which are left, and all is measured anew on what the model still sees: closed
    values are one value, and none in a list beside others. `seed` is that of the measurement's shuffle. Raises
    UserError where the data set was made without statistics.
    """
    if any(not np.all(stays) for stays in kept.values()):
        found = _anew(dataset, fields, side, kept, seed)
    else:
        found = dataset.statistics.get("mutual_information", {}).get(side.value)
    if found is None:
        raise UserError(
            f"{dataset.path / 'statistics.json'}: mutual_information.{side.value} is missing, as this data set is of "
            "an earlier version; make it again."
        )
    place = {name: number for number, name in enumerate(found["fields"])}
    matrix = np.zeros((len(fields), len(fields)))
    for row, one in enumerate(fields):
        for column, other in enumerate(fields):
            if one in place and other in place:
                matrix[row, column] = found["matrix"][place[one]][place[other]]
            elif one in place or other in place:
                matrix[row, column] = found["id"][place[one if one in place else other]]
    identity = fields.index(side.value) if side.value in fields else None
    if identity is not None:  # its entropy: each thing has an id of its own
        matrix[identity, identity] = np.log(len(dataset.items if side is Side.ITEM else dataset.users))
    return FieldInformation(fields, matrix, identity)


def _anew(
    dataset: DatasetFolder, fields: tuple[str, ...], side: Side, kept: Mapping[str, np.ndarray], seed: int
) -> dict[str, Any]:
    """As statistics.json has it, with closed values as one."""
    entities = dataset.items if side is Side.ITEM else dataset.users
    chosen = tuple(field for field in dataset.schema.of(side) if field.name in fields)
    static = dataset.features(side)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in chosen:
        if field.name in kept:
            columns[field.name] = _without_closed(static[field.name][FIRST_VALUE_ID:], kept[field.name])
        else:
            columns[field.name] = entities[field.name]
    return mutual_information(pa.table(columns), Schema(fields=chosen), side, seed)


def _without_closed(ids: np.ndarray, kept: np.ndarray) -> pa.Array:
    """Ids `[rows]` or lists `[rows, width]`; closed ones become one id, which in a list stands alone or not at all."""
    closed = len(kept)
    if ids.ndim == 1:
        return pa.array(np.where(kept[ids], ids, closed).astype(np.int32))
    opened = np.where(kept[ids], ids, PADDING_ID)
    opened[:, 0] = np.where(opened.any(axis=1), opened[:, 0], closed)
    there = opened != PADDING_ID
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, opened[there].astype(np.int32))
