"""The ranker without what its gates closed: fewer rows, fewer fields, the same logits (OptFS, section 8)."""

from dataclasses import dataclass, replace

import numpy as np

from recsys._tensorflow import keras
from recsys.features.gates import kept
from recsys.features.pruning import prune_table, pruned_rows
from recsys.features.spec import TableSpec
from recsys.ranking.model import Ranker
from recsys.ranking.spec import FieldSpec, RankerSpec
from recsys.schema import Side


@dataclass(frozen=True)
class _Part:
    """A part of the pruned table: its map, the old row of each of its rows (-1: zeros), and the factor on them."""

    table: TableSpec
    old_rows: np.ndarray
    scale: float


def prune(model: Ranker) -> Ranker:
    """A ranker without gates that gives the same logits as this one with its hard gates, of values or of fields.

    Kept rows hold c times their weights, closed values lead to a row of zeros. A field without any kept value is
    dropped with its inputs of every layer; DCN keeps it, as its biases reach the coordinates of such fields.
    """
    spec = model.spec
    fields, parts = _open_values(model) if model.layer.field_gates is None else _open_fields(model)
    used = {one.table for one in fields}
    parts = [one for one in parts if one.table.name in used]
    pruned = Ranker(replace(spec, fields=fields, tables=tuple(one.table for one in parts)), seed=0)
    old = model.table.table.numpy()
    pruned.table.table.assign(np.concatenate([pruned_rows(old, one.old_rows, one.scale) for one in parts]))
    names = [one.name for one in fields]
    backbones = [pruned.backbone, *pruned.heads.values()]
    for one, whole in zip(backbones, [model.backbone, *model.heads.values()], strict=True):
        for variable, values in zip(one.variables, _backbone_weights(spec, whole, names), strict=True):
            variable.assign(values)
    for name, attention in pruned.layer.attentions.items():
        for variable, value in zip(attention.variables, model.layer.attentions[name].variables, strict=True):
            variable.assign(value)
    return pruned


def _open_values(model: Ranker) -> tuple[tuple[FieldSpec, ...], list[_Part]]:
    """What gates of values leave: the fields with an open one, and each part without its closed rows."""
    spec, gates, gated = model.spec, model.table.gates, model.table.gated
    if gates is None:
        raise ValueError("the model has no gates to prune by")
    in_force = np.ones(spec.rows, bool) if gated is None else gated.numpy()
    stays = kept(gates.logits.numpy()) | ~in_force
    parts = []
    for table in spec.tables:
        part = spec.part(table.name)
        small, rows = prune_table(table, stays[part])
        absolute = np.where(rows >= 0, rows + part.start, rows)
        parts.append(_Part(small, absolute, gates.scale if in_force[part].any() else 1.0))
    return live_fields(spec, stays), parts


def _open_fields(model: Ranker) -> tuple[tuple[FieldSpec, ...], list[_Part]]:
    """What gates of fields leave: whole parts of the open ones; a closed field that has to stay reads zeros alone."""
    spec, gates, gated = model.spec, model.layer.field_gates, model.layer.gated
    assert gates is not None
    stays = kept(gates.logits.numpy()) | ~gated
    opened = {one.name for one, stay in zip(spec.fields, stays, strict=True) if stay}
    scaled = {one.table for one, has in zip(spec.fields, gated, strict=True) if has}
    parts = []
    for table in spec.tables:
        part = spec.part(table.name)
        rows = np.arange(part.start, part.stop)
        parts.append(_Part(table, rows, gates.scale if table.name in scaled else 1.0))
    fields = []
    for one in _with_needed(spec, opened):
        if one.name not in opened:
            table = next(table for table in spec.tables if table.name == one.table)
            empty, rows = prune_table(table, np.zeros(table.rows, bool))
            empty = replace(empty, name=f"{one.name} (closed)")
            parts.append(_Part(empty, np.full(len(rows), -1, np.int64), 1.0))
            one = replace(one, table=empty.name)
        fields.append(one)
    return tuple(fields), parts


def live_fields(spec: RankerSpec, stays: np.ndarray) -> tuple[FieldSpec, ...]:
    """The fields with an open value, given `stays` `[rows] bool`, and those that cannot go (`_with_needed`)."""
    values = stays & ~spec.padding
    return _with_needed(spec, {one.name for one in spec.fields if values[spec.part(one.table)].any()})


def _with_needed(spec: RankerSpec, opened: set[str]) -> tuple[FieldSpec, ...]:
    """The `opened` fields and those that have to stay though they are closed: all of them where the backbone is DCN.

    The first field stays in any case (there is no model of none), as do the candidate's id, if it is attended with, and
    a field for each tower.
    """
    if spec.config.backbone == "dcn":
        return spec.fields
    live = set(opened)
    if any(one.reading == "attention" and one.name in live for one in spec.fields):
        live.add(spec.fields[spec.candidate].name)
    sides = (True, False) if spec.config.backbone == "two_tower" else (None,)
    for side in sides:
        mine = [one.name for one in spec.fields if side is None or (one.side is Side.ITEM) == side]
        if mine and not live & set(mine):
            live.add(mine[0])
    return tuple(one for one in spec.fields if one.name in live)


def _backbone_weights(spec: RankerSpec, backbone: keras.layers.Layer, names: list[str]) -> list[np.ndarray]:
    """The backbone's variables less the inputs of dropped fields, in the order of its variables."""
    dim = spec.dim
    places = [place for place, one in enumerate(spec.fields) if one.name in names]
    flat = np.concatenate([np.arange(place * dim, (place + 1) * dim) for place in places])
    width = len(spec.fields) * dim
    inputs = _network_inputs(spec, backbone, places, flat)
    found = []
    for variable in backbone.variables:
        values, name = variable.numpy(), variable.name
        if id(variable) in inputs:
            values = values[inputs[id(variable)]]
        elif spec.config.backbone == "dcn_v2" and "cross_" in name:
            values = values[flat] if values.ndim == 1 else values[np.ix_(flat, flat)]
        elif spec.config.backbone == "dcn_v2" and variable is backbone.output_layer.kernel:
            values = np.concatenate([values[flat], values[width:]])
        found.append(values)
    return found


def _network_inputs(
    spec: RankerSpec, backbone: keras.layers.Layer, places: list[int], flat: np.ndarray
) -> dict[int, np.ndarray]:
    """By id of a network's first kernel: the rows of it that stay."""
    dim = spec.dim
    if spec.config.backbone == "two_tower":
        found = {}
        for name, side in backbone.sides.items():
            order = side.numpy().tolist()
            kept_here = [order.index(place) for place in places if place in order]
            rows = np.concatenate([np.arange(place * dim, (place + 1) * dim) for place in kept_here])
            layers = [*backbone.networks[name].dense, backbone.ends[name]]
            found[id(layers[0].kernel)] = rows
        return found
    if spec.config.backbone == "ipnn":
        count = len(spec.fields)
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        stay = [count * dim + n for n, (i, j) in enumerate(pairs) if i in places and j in places]
        flat = np.concatenate([flat, np.array(stay, np.int64)])
    network = getattr(backbone, "network", None)
    if network is None:
        return {}
    layers = [*network.dense, backbone.output_layer]
    if spec.config.backbone in ("dcn", "dcn_v2") and not network.dense:
        return {}
    return {id(layers[0].kernel): flat}
