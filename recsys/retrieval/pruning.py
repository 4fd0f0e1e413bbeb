"""A gated model without what its gates closed: the same vectors from fewer rows and fewer inputs.

OptFS specification, section 8. Kept rows of a table carry the open gate's c, closed values lead to one row of zeros,
and a field of which nothing is left is no longer read: its columns of the first layer go too, which is exact as they
only ever met zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from recsys._tensorflow import keras
from recsys.errors import UserError
from recsys.features.gates import kept
from recsys.features.pruning import prune_table, pruned_rows
from recsys.features.spec import Form, InputSpec, TableSpec
from recsys.retrieval.gates import TowerGates
from recsys.retrieval.live import build
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.retrieval.towers import NUMBER_WIDTH, Tower, TwoTower
from recsys.schema import PADDING_ID, USER


@dataclass(frozen=True)
class Pruning:
    """What is left of a model: its specification, and the old row of each row of a pruned table (-1: zeros)."""

    spec: TwoTowerSpec
    old_rows: Mapping[str, np.ndarray]


def plan_pruning(spec: TwoTowerSpec, gates: TowerGates) -> Pruning:
    """Which inputs, tables and rows stay. Raises UserError where a tower would be left with nothing to read."""
    stays = {name: kept(table.logits.numpy()) for name, table in gates.tables.items()}
    pruned = {table.name: prune_table(table, stays[table.name]) for table in spec.tables if table.name in stays}

    def without_closed(tower: TowerSpec) -> TowerSpec:
        names = gates.spec.fields.get(tower.name, ())
        own = gates.fields.get(tower.name)
        opened = dict(zip(names, kept(own.logits.numpy()), strict=True)) if own is not None else {}
        inputs: list[InputSpec] = []
        for one in tower.inputs:
            if opened.get(one.name, True) and stays.get(one.table, np.ones(PADDING_ID + 2))[PADDING_ID + 1 :].any():
                inputs.append(replace(one, scale=own.scale) if own is not None and one.name in opened else one)
        if not inputs and not tower.identity.use:
            raise UserError(
                f"train.gates: the search closed every field of the {tower.name} tower, which reads no id, so nothing "
                "is left to tell one vector from another; lower train.gates.penalty (or kappa)."
            )
        return replace(tower, inputs=tuple(inputs))

    query, item = without_closed(spec.query), without_closed(spec.item)
    read = {inputs.table for tower in (query, item) for inputs in tower.inputs}
    read |= {tower.id_column for tower in (query, item) if tower.identity.use}
    if spec.audience is not None:
        read.add(USER)
    tables: list[TableSpec] = [
        pruned[table.name][0] if table.name in pruned else table for table in spec.tables if table.name in read
    ]
    old_rows = {name: rows for name, (_, rows) in pruned.items() if name in read}
    return Pruning(replace(spec, query=query, item=item, tables=tuple(tables)), old_rows)


def prune(model: TwoTower) -> TwoTower:
    """The model without closed rows and fields, and without gates; a model without gates as it is.

    Its vectors differ from those of `model` by rounding only, given hard gates.
    """
    if model.gates is None:
        return model
    plan = plan_pruning(model.spec, model.gates)
    small = TwoTower(plan.spec, seed=0)
    build(small)
    for name, table in small.embedding_tables.items():
        weights = model.embedding_tables[name].table.numpy()
        rows = plan.old_rows.get(name)
        table.table.assign(weights if rows is None else pruned_rows(weights, rows, model.gates.tables[name].scale))
    for target, source in ((small.query_tower, model.query_tower), (small.item_tower, model.item_tower)):
        _copy_tower(target, source)
    small.log_inverse_temperature.assign(model.log_inverse_temperature)
    return small


def _copy_tower(target: Tower, source: Tower) -> None:
    """Copy all weights but the tables'; the layer that all fields meet loses the rows of those no longer read."""
    for field, pools in target.pools.items():
        for part, pooling in pools.items():
            _copy(pooling, source.pools[field][part])
            if part in target.mixers:
                _copy(target.mixers[part], source.mixers[part])
    for field, default in target.defaults.items():
        default.assign(source.defaults[field])
    layers, others = _dense(source), _dense(target)
    if source.bias is not None and target.bias is not None:
        target.bias.assign(source.bias)
        if source.numbers is not None and target.numbers is not None:
            target.numbers.kernel.assign(source.numbers.kernel.numpy()[_still_read(source, target, numbers=True)])
    else:
        first, other = layers.pop(0), others.pop(0)
        other.kernel.assign(first.kernel.numpy()[_still_read(source, target, numbers=False)])
        other.bias.assign(first.bias)
    for layer, other in zip(layers, others, strict=True):
        _copy(other, layer)


def _dense(tower: Tower) -> list[keras.layers.Dense]:
    return [*tower.hidden, *([tower.output_layer] if tower.output_layer is not None else [])]


def _copy(target: keras.layers.Layer, source: keras.layers.Layer) -> None:
    for variable, value in zip(target.variables, source.variables, strict=True):
        variable.assign(value)


def _still_read(source: Tower, target: Tower, *, numbers: bool) -> np.ndarray:
    """Which columns of the source's concatenated fields the target has too; of its numbers alone where asked."""
    stays = []
    if source.spec.identity.use and not numbers:
        stays += [True] * source.model.embedding_dim
    for inputs in source.spec.inputs:
        number = inputs.form is Form.NUMBER
        if number or not numbers:
            parts = len(source.pools.get(inputs.name, (inputs.name,)))
            stays += [inputs.name in target.fields] * (NUMBER_WIDTH if number else parts * source.model.embedding_dim)
    if source.audience is not None and not numbers:
        stays += [True] * source.model.embedding_dim
    return np.array(stays, bool)
