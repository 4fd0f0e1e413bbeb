"""Which parts of a two-tower model are gated, and how open they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.errors import UserError
from recsys.features.gates import Gates, kept, open_share
from recsys.features.spec import Form, TableSpec
from recsys.retrieval.spec import HISTORY_TABLE, TwoTowerSpec
from recsys.schema import ITEM, PADDING_ID, USER

IDENTITIES = (USER, ITEM)


@dataclass(frozen=True)
class GateSpec:
    """The gated parts: `tables` have one gate a row, `fields` of each tower one gate each."""

    start: float
    tables: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class TowerGates:
    """The gates of a model: by table, and by tower a vector in the order of `spec.fields[tower]`.

    They share `temperature`, which the search raises; None for hard gates.
    """

    spec: GateSpec
    temperature: tf.Variable | None
    tables: dict[str, Gates]
    fields: dict[str, Gates]

    @property
    def all(self) -> list[Gates]:
        """Every vector of gates, in a fixed order."""
        return [*self.tables.values(), *self.fields.values()]


def gate_spec(spec: TwoTowerSpec, config: GatesConfig) -> GateSpec:
    """What the configuration gates of a model.

    In the modes by value, a number has one gate for its field, and histories of ids have none unless they are named and
    have a table of their own. A table that several fields read has one set of gates. Raises UserError for a field that
    no tower reads or that cannot be gated.
    """
    towers = (spec.query, spec.item)
    readable = {inputs.name for tower in towers for inputs in tower.inputs}
    for name in config.fields or ():
        if name not in readable:
            hint = "ids are never gated" if name in IDENTITIES else "no tower reads it"
            raise UserError(f"train.gates.fields: '{name}': {hint}; the towers' fields are {sorted(readable)}.")
    tables: dict[str, None] = {}
    fields: dict[str, list[str]] = {tower.name: [] for tower in towers}
    for tower in towers:
        for inputs in tower.inputs:
            if config.fields is not None and inputs.name not in config.fields:
                continue
            if config.mode == "field" or inputs.form is Form.NUMBER:
                fields[tower.name].append(inputs.name)
            elif inputs.table in IDENTITIES and config.fields is not None:
                raise UserError(
                    f"train.gates.fields: '{inputs.name}' reads the table of {inputs.table} ids, and ids are never "
                    "gated: new ones must live by the rest. Leave it out, use mode 'field', or give histories a table "
                    "of their own (model.history.share_item_table: false)."
                )
            elif inputs.table not in (*IDENTITIES, HISTORY_TABLE) or config.fields is not None:
                tables[inputs.table] = None
    if not tables and not any(fields.values()):
        raise UserError(
            f"train.gates: mode '{config.mode}' finds nothing to gate: the towers read only ids and histories of them. "
            "Give them fields, or leave train.gates out."
        )
    return GateSpec(config.start, tuple(tables), {name: tuple(gated) for name, gated in fields.items() if gated})


def make_gates(gated: GateSpec, tables: tuple[TableSpec, ...], *, hard: bool) -> TowerGates:
    """The gates of a model with these tables, all open: soft ones to search with, or hard ones to train and serve."""
    temperature = None if hard else tf.Variable(1.0, trainable=False, name="gate_temperature")
    rows = {table.name: table.rows for table in tables}
    return TowerGates(
        gated,
        temperature,
        {name: Gates(name, rows[name], start=gated.start, temperature=temperature) for name in gated.tables},
        {
            tower: Gates(f"{tower}_fields", len(names), start=gated.start, temperature=temperature)
            for tower, names in gated.fields.items()
        },
    )


def open_shares(gates: TowerGates, spec: TwoTowerSpec) -> dict[str, float]:
    """The share of open gates by field, of all rows of its table but padding where values are gated."""
    shares: dict[str, float] = {}
    for tower in (spec.query, spec.item):
        names = gates.spec.fields.get(tower.name, ())
        for inputs in tower.inputs:
            if inputs.name in names:
                shares[inputs.name] = open_share(gates.fields[tower.name], [names.index(inputs.name)])
            elif inputs.table in gates.tables:
                table = gates.tables[inputs.table]
                shares[inputs.name] = open_share(table, range(PADDING_ID + 1, table.size))
    return shares


def closed_fields(gates: TowerGates, spec: TwoTowerSpec) -> frozenset[str]:
    """The fields of which hard gates left nothing open; none while gates are soft."""
    if gates.temperature is not None:
        return frozenset()
    return frozenset(field for field, share in open_shares(gates, spec).items() if share == 0.0)


def kept_ids(gates: TowerGates, spec: TwoTowerSpec) -> dict[str, np.ndarray]:
    """Which data-set ids of each field are open, `[ids] bool` by field, where hard gates are its values'."""
    if gates.temperature is not None:
        return {}
    row_of = {table.name: table.row_of for table in spec.tables}
    return {
        inputs.name: kept(gates.tables[inputs.table].logits.numpy())[row_of[inputs.table]]
        for tower in (spec.query, spec.item)
        for inputs in tower.inputs
        if inputs.table in gates.tables
    }
