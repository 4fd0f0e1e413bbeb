"""Tasks beside the click: where their labels stand, which rows count, what is exported of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.ranking import RankingConfig, TaskConfig
from recsys.dataset_folder import DatasetFolder, read_parquet
from recsys.errors import UserError
from recsys.event_weights import check_weights
from recsys.ranking.calibration import Calibration
from recsys.schema import LABEL, SPLITS, Kind, Side

CLICK = "click"
"""The task that every ranker has."""


@dataclass(frozen=True)
class CalibratedTask:
    """A trained task as it is exported; `of_clicks`: its logit is given the click."""

    of_clicks: bool
    calibration: Calibration


def outcome(task: TaskConfig, table: pa.Table, labels: np.ndarray) -> np.ndarray:
    """A task's labels in the rows of an event table with click `labels` `[n]`: `[n] float32`, NaN: does not count."""
    values = table[task.label_field].to_numpy().astype(np.float32)
    return np.where(labels > 0, values, np.float32(np.nan)) if task.of == "clicks" else values


def check_labels(dataset: DatasetFolder, config: RankingConfig) -> None:
    """Raise UserError where the training rows are all clicks, or none is, and no negatives are drawn.

    A ranker of such rows learns that all is clicked. Reads one column, file by file, until both labels were met.
    """
    if config.train.negatives is not None:
        return
    found = labels_of(dataset, SPLITS[0])
    if len(found) < 2:
        only = "clicks (label 1)" if found == {1.0} else "rows without a click (label 0)"
        raise UserError(
            f"ranking.train.negatives: the training part of {dataset.path} has {only} only, so there is nothing to "
            "tell apart. Let negatives be drawn ('negatives: {per_positive: 4}'), or make impressions the events."
        )


def labels_of(dataset: DatasetFolder, split: str) -> set[float]:
    """Which labels a part has, read until both were met."""
    found = set[float]()
    for file in dataset.event_files(split):
        found |= {float(label) for label in pc.unique(read_parquet(file, [LABEL])[LABEL]).to_pylist()}
        if len(found) > 1:
            break
    return found


def check_tasks(dataset: DatasetFolder, config: RankingConfig) -> None:
    """Raise UserError where a task's labels are missing, are not 0 and 1, or cannot teach what is asked for.

    So too where the field of the rows' weights is missing or holds what is no weight. Reads these columns once, file by
    file.
    """
    if config.train.weight_field is not None:
        check_weights(
            dataset,
            config.train.weight_field,
            "ranking.train.weight_field",
            positives_only=config.train.negatives is not None,
        )
    outcomes = [field.name for field in dataset.schema.of(Side.CONTEXT, Kind.OUTCOME)]
    for name, task in config.tasks.items():
        where = f"ranking.tasks.{name}.label_field"
        if task.label_field not in outcomes:
            raise UserError(
                f"{where}: '{task.label_field}' is no outcome of the data set; it has {outcomes or 'none'}. Declare "
                "the column under data.fields with 'side: context, kind: outcome', so that no model reads it."
            )
        found, unclicked = set[float](), 0
        for split in SPLITS[:2]:
            for file in dataset.event_files(split):
                table = read_parquet(file, [LABEL, task.label_field])
                labels, values = table[LABEL].to_numpy(), table[task.label_field].to_numpy()
                wrong = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
                if len(wrong):
                    raise UserError(
                        f"{where}: {file}, row {wrong[0]}: '{task.label_field}' is {values[wrong[0]]:g}; expected 1, 0 "
                        "or nothing."
                    )
                if split == SPLITS[0]:
                    counted = outcome(task, table, labels)
                    found |= set(np.unique(counted[~np.isnan(counted)]).tolist())
                    unclicked += int((~np.isnan(values) & (labels == 0)).sum())
        if len(found) < 2:
            what = "clicked rows" if task.of == "clicks" else "rows"
            raise UserError(
                f"{where}: the training {what} hold {sorted(found) or 'nothing'} in '{task.label_field}'; "
                "a task needs 0 and 1."
            )
        if task.of == "impressions" and not unclicked:
            raise UserError(
                f"ranking.tasks.{name}.of: '{task.label_field}' is known for clicked rows alone, so nothing tells what "
                "becomes of impressions; use 'clicks', or give 0 where there was no click."
            )
