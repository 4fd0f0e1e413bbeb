"""The ranker as plain data: which fields it reads in which form, and which row of its one table each value has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from recsys.config.ranking import NumericConfig, RankerConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.spec import TableSpec, identity_table, input_spec, table_spec
from recsys.ranking.buckets import LARGEST_BUCKET, quantile_edges, squared_log_bucket
from recsys.schema import FIRST_VALUE_ID, ITEM, PADDING_ID, RETRIEVAL_SCORE, USER, Field, Kind, Side, Statistic


class Reading(StrEnum):
    """How a field becomes one vector."""

    ID = "id"  # one row
    LOG_SQUARED = "log_squared"  # one row, of the number's bucket
    QUANTILE = "quantile"  # one row, of the number's bucket
    VALUE = "value"  # the field's row times the standardised number
    MEAN = "mean"  # mean of several rows
    ATTENTION = "attention"  # mean of several rows, weighted by what the candidate makes of them


SINGLE = (Reading.ID, Reading.LOG_SQUARED, Reading.QUANTILE, Reading.VALUE)
NUMERIC = (Reading.LOG_SQUARED, Reading.QUANTILE, Reading.VALUE)


@dataclass(frozen=True)
class FieldSpec:
    """One field of the ranker. `table` names the part of the table that its values have.

    `edges` are the quantile buckets' inner edges; `lowest` is the bucket of the smallest training value under
    `log_squared`; a number read as `value` becomes (g(x) - mean) / std, g = log1p where `log`.
    """

    name: str
    side: Side
    reading: Reading
    table: str
    length: int = 0
    edges: tuple[float, ...] = ()
    lowest: int = 0
    mean: float = 0.0
    std: float = 1.0
    log: bool = False

    @property
    def is_list(self) -> bool:
        """Whether a row holds several ids, `[batch, width] int32` padded at the end with 0."""
        return self.reading not in SINGLE

    @property
    def is_number(self) -> bool:
        """Whether the column holds float32 numbers (NaN where missing), else int32 ids."""
        return self.reading in NUMERIC


@dataclass(frozen=True, eq=False)
class RankerSpec:
    """Everything that fixes the ranker's shape: single-valued fields first, lists after; parts of the table in order.

    `candidate` is the place of the item id among the fields, -1 where it is not read. `tasks` are predicted beside the
    click.
    """

    config: RankerConfig
    fields: tuple[FieldSpec, ...]
    tables: tuple[TableSpec, ...]
    tasks: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Width of an embedding, 0 for logistic regression."""
        return 0 if self.config.backbone == "lr" else self.config.embedding_dim

    @property
    def linear(self) -> bool:
        """Whether values have first-order weights, the last columns of the table: the click's, then each task's."""
        return self.config.backbone == "lr" or (self.config.linear and self.config.backbone in ("fm", "deepfm"))

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The first row of each part of the table."""
        starts = np.cumsum([0, *(table.rows for table in self.tables)])
        return {table.name: int(start) for table, start in zip(self.tables, starts, strict=False)}

    @property
    def rows(self) -> int:
        """Rows of the whole table: the specification's N and each part's special rows."""
        return sum(table.rows for table in self.tables)

    @property
    def singles(self) -> tuple[FieldSpec, ...]:
        """The single-valued fields."""
        return tuple(field for field in self.fields if not field.is_list)

    @property
    def lists(self) -> tuple[FieldSpec, ...]:
        """The fields of several values."""
        return tuple(field for field in self.fields if field.is_list)

    @property
    def candidate(self) -> int:
        """The place of the item id among the fields."""
        return next((place for place, field in enumerate(self.fields) if field.name == ITEM), -1)

    def part(self, name: str) -> slice:
        """Rows of a part of the table."""
        table = next(table for table in self.tables if table.name == name)
        return slice(self.offsets[name], self.offsets[name] + table.rows)

    @cached_property
    def padding(self) -> np.ndarray:
        """`[rows] bool`: the padding rows, which are no values."""
        mask = np.zeros(self.rows, bool)
        mask[[start + PADDING_ID for start in self.offsets.values()]] = True
        return mask


def ranker_spec(
    dataset: DatasetFolder,
    config: RankerConfig,
    counts: Mapping[str, np.ndarray],
    retrieval_scores: np.ndarray | None = None,
) -> RankerSpec:
    """Derive the ranker from a data set. `counts` holds the training events of each user and item id.

    `retrieval_scores` `[rows] float32` are those of training rows, where the ranker reads this score.
    Raises UserError where the configuration names a field that the data set lacks.
    """
    schema = dataset.schema
    known = {USER: None, ITEM: None} | {field.name: field for field in schema.fields if field.is_input}
    names = config.features if config.features is not None else tuple(known)
    for name in (*names, *config.numeric.fields):
        where = "features" if name in names else "numeric.fields"
        if any(field.name == name and not field.is_input for field in schema.fields):
            raise UserError(
                f"ranking.model.{where}: '{name}' is an outcome, known only after the event: a model that reads it "
                "would be told the answer. Leave it out; it can be the label of a task or a weight."
            )
        if name not in known and (name != RETRIEVAL_SCORE or name in names or retrieval_scores is None):
            raise UserError(
                f"ranking.model.{where}: the data set has no field '{name}'; it has {sorted(known)} ('user' and 'item' "
                "are the ids)."
            )
    for name in config.numeric.fields:
        field = known.get(name)
        if name != RETRIEVAL_SCORE and (field is None or not _is_numeric(field)):
            numbers = sorted(one.name for one in schema.fields if one.is_input and _is_numeric(one))
            raise UserError(f"ranking.model.numeric.fields: '{name}' is no number; numbers are {numbers}.")
    fields, tables = [], dict[str, TableSpec]()
    for name in names:
        field = known[name]
        if field is None:
            spec = FieldSpec(name, Side(name), Reading.ID, name)
            table = identity_table(name, counts[name], config.min_count)
        else:
            spec, table = _field(field, dataset, config)
            if table.name in (USER, ITEM):
                table = identity_table(table.name, counts[table.name], config.min_count)
        fields.append(spec)
        tables.setdefault(table.name, table)
    if retrieval_scores is not None:
        spec, tables[RETRIEVAL_SCORE] = _retrieval_score(retrieval_scores, config.numeric)
        fields.append(spec)
    ordered = [one for one in fields if not one.is_list] + [one for one in fields if one.is_list]
    if any(one.reading is Reading.ATTENTION for one in ordered) and ITEM not in names:
        raise UserError("ranking.model.history: 'attention' compares with the candidate; add 'item' to features.")
    if not ordered:
        raise UserError("ranking.model.features: the ranker reads nothing; name at least one field.")
    of_item = {one.side is Side.ITEM for one in ordered}
    if config.backbone == "two_tower" and len(of_item) < 2:
        lacking = "the query (user or context)" if of_item == {True} else "the item"
        raise UserError(f"ranking.model.features: 'two_tower' has a tower for each side; name a field of {lacking}.")
    return RankerSpec(config, tuple(ordered), tuple(tables.values()))


def _is_numeric(field: Field) -> bool:
    """Whether it is read as a number."""
    return field.kind is Kind.NUMERIC or (field.kind is Kind.POINT_IN_TIME and field.statistic is not Statistic.CLUSTER)


def _field(field: Field, dataset: DatasetFolder, config: RankerConfig) -> tuple[FieldSpec, TableSpec]:
    if not _is_numeric(field):
        table = table_spec(field, dataset)
        reading = Reading.ID
        if field.kind is Kind.MULTI_VALUED:
            reading = Reading.MEAN
        if field.kind is Kind.SEQUENCE:
            attends = config.history == "attention" and field.vocabulary_name == ITEM
            reading = Reading.ATTENTION if attends else Reading.MEAN
        return FieldSpec(field.name, field.side, reading, table.name, length=field.length or 0), table
    spec = FieldSpec(field.name, field.side, Reading(config.numeric.fields.get(field.name, config.numeric.default)), "")
    spec = replace(spec, table=field.name)
    if spec.reading is Reading.VALUE:
        inputs = input_spec(field, dataset.statistics)
        spec = replace(spec, mean=inputs.mean, std=inputs.std, log=inputs.log)
        return spec, _rows(field.name, 1)
    statistics = _range(field.name, dataset.statistics)
    if spec.reading is Reading.LOG_SQUARED:
        low, high = (int(squared_log_bucket(np.array([value]))[0]) for value in statistics)
        lowest = max(low, -LARGEST_BUCKET)
        return replace(spec, lowest=lowest), _rows(field.name, min(high, LARGEST_BUCKET) - lowest + 1)
    edges = quantile_edges(training_numbers(dataset, field), config.numeric.quantiles)
    return replace(spec, edges=tuple(edges.tolist())), _rows(field.name, len(edges) + 1)


def _retrieval_score(numbers: np.ndarray, config: NumericConfig) -> tuple[FieldSpec, TableSpec]:
    """The retrieval score as a number, of which no statistics stand in the data set."""
    reading = Reading(config.fields.get(RETRIEVAL_SCORE, config.default))
    spec = FieldSpec(RETRIEVAL_SCORE, Side.CONTEXT, reading, RETRIEVAL_SCORE)
    if reading is Reading.VALUE:
        spec = replace(spec, mean=float(numbers.mean()), std=float(numbers.std()) or 1.0)
        return spec, _rows(RETRIEVAL_SCORE, 1)
    if reading is Reading.LOG_SQUARED:
        low, high = squared_log_bucket(np.array([numbers.min(), numbers.max()])).tolist()
        return replace(spec, lowest=int(low)), _rows(RETRIEVAL_SCORE, int(high - low) + 1)
    edges = quantile_edges(numbers, config.quantiles)
    return replace(spec, edges=tuple(edges.tolist())), _rows(RETRIEVAL_SCORE, len(edges) + 1)


def training_numbers(dataset: DatasetFolder, field: Field) -> np.ndarray:
    """A numeric field's values on the training rows, `[rows] float32`, NaN where missing."""
    if field.side is Side.CONTEXT or field.kind is Kind.POINT_IN_TIME:
        return dataset.events("train", (field.name,))[field.name].to_numpy()
    ids = dataset.events("train", (str(field.side),))[str(field.side)].to_numpy()
    return dataset.features(field.side)[field.name][ids]


def _rows(name: str, values: int) -> TableSpec:
    return TableSpec(name, np.arange(FIRST_VALUE_ID + values, dtype=np.int64))


def _range(name: str, statistics: Mapping[str, Any]) -> tuple[float, float]:
    entry = statistics.get("numeric", {}).get(name, {})
    if "min" not in entry or "max" not in entry:
        raise UserError(f"statistics.json: numeric.{name} has no min and max; make the data set again.")
    return float(entry["min"]), float(entry["max"])
