"""What a ranking job leaves to be read: `ranking.json`, and a table of values for each part of the table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config.gates import GatesConfig
from recsys.features.gates import kept
from recsys.ranking.examples import split_examples
from recsys.ranking.model import Ranker
from recsys.ranking.occurrences import live_interactions
from recsys.ranking.spec import Reading
from recsys.ranking.workbench import Outcome, Workbench
from recsys.schema import PADDING_ID, SPLITS

SPECIAL = ("(missing)", "(unseen)")
BYTES = 4
"""Of one float32 weight."""


@dataclass(frozen=True)
class ValueSet:
    """One set of values that was trained on: a search's (with its kappa), all of them (`backbone`), or a control.

    `validation_auc` is None where there are no validation rows of both labels. `task_auc` are the other tasks' AUC on
    validation rows at the best epoch, by name.
    """

    name: str
    kappa: float | None
    kept_ratio: float
    validation_auc: float | None
    chosen: bool
    task_auc: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the report holds it, without `task_auc` where the click is the only task."""
        return {name: value for name, value in asdict(self).items() if name != "task_auc" or value}


def written_report(
    bench: Workbench,
    sets: Sequence[ValueSet],
    outcome: Outcome,
    gates: GatesConfig | None,
    search_epochs: Sequence[dict[str, float]],
    model: Ranker,
    exported: Ranker,
) -> dict[str, Any]:
    """`ranking.json`: sets tried, epochs, values by field, and rows, bytes and live interactions before and after."""
    stays = np.ones(bench.spec.rows, bool) if gates is None else bench.kept_rows(outcome.gates, gates)
    stay_fields = np.ones(len(bench.spec.fields), bool)
    if gates is not None and outcome.gates is not None and gates.mode == "field":
        stay_fields = kept(outcome.gates) | ~bench.gated_fields(gates)
    seen = bench.values
    fields, closed = {}, []
    for one, stay in zip(bench.spec.fields, stay_fields, strict=True):
        part = bench.spec.part(one.table)
        there, counts = seen[part], bench.counts[part]
        open_here = there & stays[part] & stay
        if not (stay and (stays & ~bench.spec.padding)[part].any()):
            closed.append(one.name)
        fields[one.name] = {
            "values": int(there.sum()),
            "kept": int(open_here.sum()),
            "kept_share_of_rows": float(counts[open_here].sum() / max(counts.sum(), 1)),
        }
    sample = bench.validation or split_examples(bench.maker, SPLITS[0], bench.seed)
    before = live_interactions(model, sample, seen)
    after = live_interactions(model, sample, seen & stays, stay_fields)
    return {
        "backbone": bench.spec.config.backbone,
        "retrieval_score": bench.score_report,
        "sets": [one.to_json() for one in sets],
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "search_epochs": list(search_epochs),
        "fields": fields,
        "closed_fields": sorted(closed),
        "exported_fields": [one.name for one in exported.spec.fields],
        "values": {"seen": int(seen.sum()), "kept": int((seen & stays).sum())},
        "rows": {"before": bench.spec.rows, "after": exported.spec.rows},
        "bytes": {"before": _bytes(model), "after": _bytes(exported)},
        "live": {"before": asdict(before), "after": asdict(after)},
    }


def write_value_tables(
    folder: Path, bench: Workbench, gates: np.ndarray, config: GatesConfig, exported: Ranker
) -> None:
    """A Parquet file for each part of the table: value, old id, new id (row of the exported part), logit, count, kept.

    The new id is null where the whole part was dropped, the logit where the value has no gate; of gates of fields it is
    the field's (`Workbench.row_logits`).
    """
    folder.mkdir()
    logits, stays = bench.row_logits(gates, config), bench.kept_rows(gates, config)
    small = {table.name: table for table in exported.spec.tables}
    for table in bench.spec.tables:
        part = bench.spec.part(table.name)
        ids = np.arange(PADDING_ID + 1, len(table.row_of))
        rows = table.row_of[ids]
        pruned = small.get(table.name)
        new = pa.nulls(len(ids), pa.int64()) if pruned is None else pa.array(pruned.row_of[ids], pa.int64())
        columns = {
            "value": _values(bench, table.name, len(ids) - len(SPECIAL)),
            "old_id": pa.array(ids, pa.int32()),
            "new_id": new,
            "logit": pa.array(logits[part][rows], pa.float32(), from_pandas=True),
            "count": pa.array(bench.counts[part][rows], pa.int64()),
            "kept": stays[part][rows],
        }
        pq.write_table(pa.table(columns), folder / f"{table.name}.parquet")


def _values(bench: Workbench, name: str, size: int) -> pa.Array:
    """The names of a part's values behind those of the special ids: raw values, buckets of numbers, cluster numbers."""
    field = next(one for one in bench.spec.fields if one.table == name)
    if name in bench.dataset.schema.vocabularies:
        names = bench.dataset.vocabulary(name).table["value"].combine_chunks().cast(pa.string())
    elif field.reading is Reading.VALUE:
        names = pa.array(["(any number)"])
    elif field.reading is Reading.QUANTILE:
        edges = ["-inf", *(f"{edge:.6g}" for edge in field.edges), "inf"]
        names = pa.array([f"{low} <= x < {high}" for low, high in pairwise(edges)])
    else:
        names = pa.array(np.arange(size) + field.lowest).cast(pa.string())
    return pa.concat_arrays([pa.array(SPECIAL, pa.string()), names])


def _bytes(model: Ranker) -> int:
    return int(np.prod(model.table.table.shape)) * BYTES
