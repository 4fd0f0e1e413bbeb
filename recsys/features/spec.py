"""What a model reads and in which form: plain data, made from a data set once and stored with the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Statistic


class Form(StrEnum):
    """How an input becomes a vector."""

    ID = "id"  # one table row
    IDS = "ids"  # mean of the table rows of an unordered set
    HISTORY = "history"  # pooled table rows of a sequence, oldest first
    NUMBER = "number"  # one standardised number (and a flag where values can be missing)


@dataclass(frozen=True)
class InputSpec:
    """One input column of a tower.

    `table` names the embedding table of an id form (the vocabulary's name, so fields of one vocabulary share one).
    `length` is a history's longest. A number x becomes (g(x) - mean) / std with g = log1p where `log`, else identity.
    The input's vector is multiplied by `scale`: 1, or in an exported model the value of the field's open gate.
    """

    name: str
    form: Form
    table: str = ""
    length: int = 0
    mean: float = 0.0
    std: float = 1.0
    log: bool = False
    scale: float = 1.0

    @property
    def is_integer(self) -> bool:
        """Whether the column holds int32 ids (else float32 numbers)."""
        return self.form is not Form.NUMBER

    @property
    def is_list(self) -> bool:
        """Whether a row holds several ids, `[batch, width]` padded at the end with 0."""
        return self.form in (Form.IDS, Form.HISTORY)


@dataclass(frozen=True)
class TableSpec:
    """One embedding table: `row_of[id]` `[ids] int64` is the row of a data-set id.

    Rows 0, 1 and 2 are those of padding, missing and unseen; ids that have no row of their own, and any beyond
    `row_of`, use the unseen row. `closed_row` is the row of zeros for ids that OptFS closed, missing and unseen ones
    perhaps among them; None in a table without.
    """

    name: str
    row_of: np.ndarray
    closed_row: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return max(int(self.row_of.max(initial=FIRST_VALUE_ID - 1)), self.closed_row or 0) + 1


def identity_table(name: str, counts: np.ndarray, min_count: int) -> TableSpec:
    """A table with a row for each id whose count `[ids]` reaches `min_count`; the special ids always have theirs."""
    kept = np.asarray(counts) >= min_count
    kept[:FIRST_VALUE_ID] = True
    row_of = np.where(kept, np.cumsum(kept) - 1, FIRST_VALUE_ID - 1).astype(np.int64)
    return TableSpec(name, row_of)


def full_table(name: str, size: int) -> TableSpec:
    """A table with a row for each of `size` ids."""
    return TableSpec(name, np.arange(size, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class AudienceSpec:
    """The users of each item: `users[splits[i]:splits[i + 1]]` are the data-set ids of those of item id i.

    `users` `[pairs] int32`, `splits` `[item ids + 1] int64`; a user stands there once for each of its positives.
    """

    users: np.ndarray
    splits: np.ndarray


def audience_spec(users: np.ndarray, items: np.ndarray, size: int) -> AudienceSpec:
    """From positives, `[pairs]` ids each, in any order; `size` is the number of item ids."""
    order = np.lexsort((users, items))
    splits = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(items, minlength=size), dtype=np.int64)])
    return AudienceSpec(users[order].astype(np.int32), splits)


def input_spec(field: Field, statistics: Mapping[str, Any]) -> InputSpec:
    """The input that a schema field gives."""
    if field.kind is Kind.SEQUENCE:
        return InputSpec(field.name, Form.HISTORY, field.vocabulary_name, length=field.length or 0)
    if field.kind is Kind.MULTI_VALUED:
        return InputSpec(field.name, Form.IDS, field.vocabulary_name)
    if field.kind is Kind.CATEGORICAL or field.statistic is Statistic.CLUSTER:
        return InputSpec(field.name, Form.ID, field.vocabulary_name)
    log = field.kind is Kind.POINT_IN_TIME
    mean, std = _moments(field.name, statistics, log)
    return InputSpec(field.name, Form.NUMBER, mean=mean, std=std, log=log)


def table_spec(field: Field, dataset: DatasetFolder) -> TableSpec:
    """The full table of an id field's vocabulary (a cluster field's ids are its numbers)."""
    name = field.vocabulary_name
    if name in dataset.schema.vocabularies:
        return full_table(name, dataset.vocabulary(name).size)
    clusters = dataset.schema.field(name).clusters
    return full_table(name, (clusters or 0) + FIRST_VALUE_ID)


def _moments(name: str, statistics: Mapping[str, Any], log: bool) -> tuple[float, float]:
    """Mean and standard deviation of a numeric field, of log1p of it where `log`."""
    entry = statistics.get("numeric", {}).get(name)
    if entry is not None and log:
        entry = entry.get("log1p")
    if not isinstance(entry, Mapping) or "mean" not in entry or "std" not in entry:
        what = "log1p mean and std" if log else "mean and std"
        raise UserError(f"statistics.json: numeric.{name} has no {what}; make the data set again.")
    std = float(entry["std"])
    return float(entry["mean"]), std if std > 0 else 1.0
