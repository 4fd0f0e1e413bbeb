"""A ranker against the simulator's own click probabilities: how far from the best possible, and where it is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.metrics import DEFAULT_BINS, auc, calibration_bins, log_loss, row_log_losses
from recsys.schema import ITEM, TIME, USER


def true_probabilities(dataset: DatasetFolder, split: str, simulation: Path) -> dict[str, np.ndarray]:
    """What the simulator knows of each event of a split, `[n] float64` in the order of its rows.

    `probability` = `examination` (by position) * `relevance`; of a shop with conversions also `conversion`, the chance
    that a click is followed by one. `simulation` is the folder that the simulator wrote (`raw` in the workdir).
    Raises UserError where an event of the data set is not one of its impressions.
    """
    files = sorted((simulation / "impressions").glob("*.parquet"))
    if not files:
        raise UserError(f"{simulation}: no impressions here; expected the folder that the simulator wrote.")
    parts, names = [], list[str]()
    for file in files:
        shown = pq.read_table(file, columns=[USER, ITEM, TIME])
        truth = pq.read_table(simulation / "truth" / file.name)
        names = truth.column_names
        parts.append(pa.table([*shown.columns, *truth.columns], names=[USER, ITEM, TIME, *names]))
    told = pa.concat_tables(parts)
    for name in (USER, ITEM):
        ids = dataset.vocabulary(name).encode(pc.cast(told[name].combine_chunks(), pa.string()))
        told = told.set_column(told.column_names.index(name), name, pa.array(ids, pa.int32()))
    # An impression that stands there twice (the same millisecond) was ingested once, the first of them.
    told = told.group_by([USER, ITEM, TIME], use_threads=False).aggregate([(name, "first") for name in names])
    events = dataset.events(split, (USER, ITEM, TIME))
    events = events.append_column("row", pa.array(np.arange(len(events))))
    joined = events.join(told, [USER, ITEM, TIME]).sort_by("row")
    found = {name: joined[f"{name}_first"] for name in names}
    if found[names[0]].null_count:
        row = int(np.flatnonzero(found[names[0]].is_null().to_numpy())[0])
        raise UserError(
            f"{dataset.path}: row {row} of the {split} events is none of the impressions in {simulation}; expected a "
            "data set of data.events: impressions, made from these logs."
        )
    return {name: column.to_numpy().astype(np.float64) for name, column in found.items()}


def against_truth(probabilities: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """How a ranker's `probabilities` compare with the true ones, all `[n]`; JSON-able.

    `auc` and `bayes_auc` (of the truth itself, the best that any ranker can reach but for luck), `log_loss` and
    `bayes_log_loss`; `mean_absolute_gap` and `root_mean_square_gap` between predicted and true probability;
    `calibration`: bins of equal rows with mean `predicted` and mean `true` probability, free of the noise of labels.
    """
    gap = probabilities - truth
    numbers = calibration_bins(probabilities, DEFAULT_BINS)
    rows = np.bincount(numbers, minlength=DEFAULT_BINS)
    there = np.flatnonzero(rows)
    predicted = np.bincount(numbers, probabilities, DEFAULT_BINS)[there] / rows[there]
    true = np.bincount(numbers, truth, DEFAULT_BINS)[there] / rows[there]
    return {
        "auc": auc(probabilities, labels),
        "bayes_auc": auc(truth, labels),
        "log_loss": log_loss(probabilities, labels),
        "bayes_log_loss": log_loss(truth, labels),
        "mean_absolute_gap": float(np.abs(gap).mean()),
        "root_mean_square_gap": float(np.sqrt((gap**2).mean())),
        "excess_log_loss": _divergence(probabilities, truth),
        "calibration": [
            {"rows": int(n), "predicted": float(p), "true": float(t)}
            for n, p, t in zip(rows[there], predicted, true, strict=True)
        ],
    }


def _divergence(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the predicted from the true probabilities in nats."""
    ones, zeros = np.ones(len(truth)), np.zeros(len(truth))
    cross = truth * row_log_losses(probabilities, ones) + (1 - truth) * row_log_losses(probabilities, zeros)
    own = truth * row_log_losses(truth, ones) + (1 - truth) * row_log_losses(truth, zeros)
    return float((cross - own).mean())
