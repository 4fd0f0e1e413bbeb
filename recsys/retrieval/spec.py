"""The two-tower model as plain data: what each tower reads, and which ids have rows of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from recsys.config.model import IdentityConfig, ModelConfig, TowerConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.spec import AudienceSpec, InputSpec, TableSpec, identity_table, input_spec, table_spec
from recsys.schema import ITEM, USER, Field, Kind, Side

HISTORY_TABLE = "item_in_history"
"""The table of histories' items where it is not the item tower's."""


@dataclass(frozen=True)
class TowerSpec:
    """One tower: the id column, whether and how it is used, and the other inputs in order."""

    name: str
    id_column: str
    identity: IdentityConfig
    inputs: tuple[InputSpec, ...]
    config: TowerConfig


@dataclass(frozen=True)
class TwoTowerSpec:
    """Everything that fixes the model's shape; with a seed, its initial weights too."""

    config: ModelConfig
    query: TowerSpec
    item: TowerSpec
    tables: tuple[TableSpec, ...]
    audience: AudienceSpec | None = None
    item_counts: np.ndarray | None = None
    """Training positives by item id, `[ids] int64`, where the model has a popularity prior."""


def two_tower_spec(dataset: DatasetFolder, config: ModelConfig, counts: Mapping[str, np.ndarray]) -> TwoTowerSpec:
    """Derive the model from a data set. `counts` holds the positives of each user and item id that are trained on.

    Raises UserError where the configuration names a field that the tower cannot read.
    """
    schema = dataset.schema
    query_fields = (*schema.of(Side.USER), *(field for field in schema.of(Side.CONTEXT) if field.is_input))
    query = _tower("query", USER, config.user_id, query_fields, config.query, dataset)
    if not config.history.share_item_table:
        query = replace(query, inputs=tuple(_own_table(inputs) for inputs in query.inputs))
    item = _tower("item", ITEM, config.item_id, schema.of(Side.ITEM), config.item, dataset)
    tables: dict[str, TableSpec] = {}
    for name, identity in ((USER, config.user_id), (ITEM, config.item_id)):
        if identity.use:
            tables[name] = identity_table(name, counts[name], identity.min_count)
    for field in schema.fields:
        used = [spec.table for spec in (*query.inputs, *item.inputs) if spec.name == field.name and spec.table]
        for table in used:
            if field.vocabulary_name == ITEM:  # a history: rows for the same items as the item tower's
                tables.setdefault(table, identity_table(table, counts[ITEM], config.item_id.min_count))
            else:
                tables.setdefault(table, table_spec(field, dataset))
    return TwoTowerSpec(
        config, query, item, tuple(tables.values()), item_counts=counts[ITEM] if config.popularity_prior else None
    )


def _own_table(inputs: InputSpec) -> InputSpec:
    """A history of items that reads a table of its own, which all such histories share."""
    return replace(inputs, table=HISTORY_TABLE) if inputs.table == ITEM else inputs


def _tower(
    name: str,
    id_column: str,
    identity: IdentityConfig,
    fields: tuple[Field, ...],
    config: TowerConfig,
    dataset: DatasetFolder,
) -> TowerSpec:
    if config.features is not None:
        known = {field.name for field in fields}
        for feature in config.features:
            if feature not in known:
                raise UserError(
                    f"model.{name}.features: the {name} tower cannot read '{feature}'; "
                    f"the data set's fields of its side are {sorted(known)}."
                )
        fields = tuple(field for field in fields if field.name in config.features)
    if not identity.use and not fields:
        raise UserError(f"model.{name}: the tower reads nothing; use {id_column}_id or at least one feature.")
    numeric = any(field.kind in (Kind.NUMERIC, Kind.POINT_IN_TIME) for field in fields)
    statistics = dataset.statistics if numeric else {}
    return TowerSpec(name, id_column, identity, tuple(input_spec(field, statistics) for field in fields), config)
