"""What the gates decided, beside the model: `gates.json` and a table of every value, `gates/<table>.parquet`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.dataset_folder import DatasetFolder
from recsys.features.gates import kept
from recsys.features.spec import TableSpec
from recsys.retrieval.export import write_json
from recsys.retrieval.gates import TowerGates, open_shares
from recsys.retrieval.pruning import plan_pruning
from recsys.retrieval.spec import TwoTowerSpec
from recsys.retrieval.towers import TwoTower
from recsys.schema import FIRST_VALUE_ID, PADDING_ID

SPECIAL = (None, "(missing)", "(unseen)")
"""What stands for the special ids in the tables of values; padding has no row there."""

BYTES = 4
"""Of one float32 weight."""


def write_gate_report(folder: Path, dataset: DatasetFolder, model: TwoTower, settings: Mapping[str, Any]) -> None:
    """Write `gates.json` and `gates/*.parquet` of a model with hard gates into its folder.

    A table has a row for each id but padding: value (string), id, count (the vocabulary's: training positives, of a
    context field training events; null where not known), row (in the exported table; null where the whole table was
    dropped), logit, kept.
    """
    gates, spec = model.gates, model.spec
    if gates is None:
        raise ValueError("the model has no gates to report")
    plan = plan_pruning(spec, gates)
    small = {table.name: table for table in plan.spec.tables}
    write_json(folder / "gates.json", _summary(spec, gates, small, settings))
    for table in spec.tables:
        if table.name in gates.tables:
            (folder / "gates").mkdir(exist_ok=True)
            values = _values(dataset, table, gates.tables[table.name].logits.numpy(), small.get(table.name))
            pq.write_table(values, folder / "gates" / f"{table.name}.parquet")


def _summary(
    spec: TwoTowerSpec, gates: TowerGates, small: Mapping[str, TableSpec], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings, fields and tables with rows before and after; bytes are those of the tables' weights."""
    tables = {
        table.name: {
            "gated": table.name in gates.tables,
            "rows": table.rows,
            "rows_exported": small[table.name].rows if table.name in small else 0,
        }
        for table in spec.tables
    }
    fields: dict[str, dict[str, Any]] = {}
    shares = open_shares(gates, spec)
    for tower in (spec.query, spec.item):
        names = gates.spec.fields.get(tower.name, ())
        for inputs in tower.inputs:
            if inputs.name in shares:
                entry: dict[str, Any] = {"tower": tower.name, "open": shares[inputs.name], "table": inputs.table}
                if inputs.name in names:
                    entry["logit"] = float(gates.fields[tower.name].logits.numpy()[names.index(inputs.name)])
                fields[inputs.name] = entry
    width = spec.config.embedding_dim * BYTES
    before, after = (sum(table[key] for table in tables.values()) for key in ("rows", "rows_exported"))
    return {
        "settings": dict(settings),
        "fields": fields,
        "closed_fields": sorted(name for name, entry in fields.items() if entry["open"] == 0.0),
        "tables": tables,
        "rows": {"before": before, "after": after},
        "bytes": {"before": before * width, "after": after * width},
    }


def _values(dataset: DatasetFolder, table: TableSpec, logits: np.ndarray, small: TableSpec | None) -> pa.Table:
    ids = np.arange(PADDING_ID + 1, len(table.row_of))
    rows = table.row_of[ids]
    known = dataset.vocabulary(table.name).table if table.name in dataset.schema.vocabularies else None
    names = known["value"].to_pylist() if known is not None else [str(one - FIRST_VALUE_ID) for one in ids[2:]]
    counts = known["count"].to_pylist() if known is not None else [None] * (len(ids) - 2)
    return pa.table(
        {
            "value": pa.array([*SPECIAL[1:], *names], pa.string()),
            "id": pa.array(ids, pa.int32()),
            "count": pa.array([None, None, *counts], pa.int64()),
            "row": pa.array(small.row_of[ids] if small is not None else [None] * len(ids), pa.int64()),
            "logit": pa.array(logits[rows], pa.float32()),
            "kept": kept(logits)[rows],
        }
    )
