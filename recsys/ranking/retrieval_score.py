"""The retrieval score as a field of the ranker: what the trained towers give each row's query and item.

A score of training rows is over-optimistic, as the towers were trained on these very rows: `score_report` measures by
how much, beside validation rows, which they have not seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.artifacts import Artifact, open_artifact
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation.inputs import query_columns, query_inputs
from recsys.ranking.metrics import auc
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.schema import FIRST_VALUE_ID, ITEM, Kind, Side
from recsys.scoring.retrieval_score import pair_scores
from recsys.scoring.towers import Tower, load_tower

BLOCK_ROWS = 65_536
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class RowScores:
    """Scores of rows of event tables that have `columns`, by the towers of one model folder.

    The query is the row's: features of its user, context and histories as of the event. The item's vector is the
    model's; where the item tower reads point-in-time fields (`moving`), it is made of those of the row.
    """

    dataset: DatasetFolder
    model: Artifact
    query_tower: Tower
    item_tower: Tower
    vectors: np.ndarray
    users: Mapping[str, np.ndarray]
    items: Mapping[str, np.ndarray]
    moving: tuple[str, ...]

    @classmethod
    def open(cls, dataset: DatasetFolder, folder: Path) -> "RowScores":
        """Load a model folder (docs/contracts.md); raises UserError where it is damaged or of another data set."""
        model = open_artifact(folder, MODEL_KIND, MODEL_FORMAT)
        found, expected = model.manifest.get("dataset"), dataset.artifact.artifact_id
        if found != expected:
            raise UserError(
                f"{folder}: this retrieval model was trained on data set {found}, but {dataset.path} is {expected}, "
                "whose ids mean something else; train it again with 'recsys train'."
            )
        query_tower, item_tower = load_tower(folder / "query_tower"), load_tower(folder / "item_tower")
        users, items = dataset.features(Side.USER), dataset.features(Side.ITEM)
        point_in_time = [field.name for field in dataset.schema.of(Side.ITEM, Kind.POINT_IN_TIME)]
        return cls(
            dataset,
            model,
            query_tower,
            item_tower,
            np.load(folder / "vectors.npy", mmap_mode="r"),
            {name: values for name, values in users.items() if name in query_tower.inputs},
            {name: values for name, values in items.items() if name in item_tower.inputs},
            tuple(name for name in point_in_time if name in item_tower.inputs),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns that are needed."""
        return (*query_columns(self.dataset, self.query_tower.inputs), ITEM, *self.moving)

    def of_rows(self, table: pa.Table) -> np.ndarray:
        """The score of each row's own item, `[rows] float32`."""
        return self.of_items(table, {name: table[name].to_numpy() for name in (ITEM, *self.moving)})

    def of_items(self, table: pa.Table, items: Mapping[str, np.ndarray]) -> np.ndarray:
        """The rows' queries with other items: `[copies * rows] float32`, the table's rows over and over.

        `items` holds the item ids and the `moving` columns, `[copies * rows]` each.
        """
        rows = len(table)
        columns = {name: items[name].reshape(-1, rows) for name in (ITEM, *self.moving)}
        scores = np.empty(columns[ITEM].shape, np.float32)
        for start in range(0, rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            part = table.slice(start, BLOCK_ROWS)
            queries = self.query_tower(query_inputs(self.dataset, part, self.query_tower.inputs, self.users))
            for copy in range(len(scores)):
                asked = {name: column[copy, block] for name, column in columns.items()}
                scores[copy, block] = pair_scores(queries, self._vectors(asked))
        return scores.ravel()

    def _vectors(self, items: Mapping[str, np.ndarray]) -> np.ndarray:
        if not self.moving:
            return self.vectors[items[ITEM] - FIRST_VALUE_ID]
        return self.item_tower({**items, **{name: values[items[ITEM]] for name, values in self.items.items()}})


def open_scores(dataset: DatasetFolder, folder: Path | None) -> RowScores:
    """The scores for a ranker to learn from. Raises UserError where there is no model, or one that knows too much."""
    if folder is None or not folder.is_dir():
        raise UserError(
            f"ranking.retrieval_score: the ranker is to read the score of a retrieval model, but there is none at "
            f"{folder or 'any given place'}; train the towers first with 'recsys train CONFIG', or set it to false."
        )
    scores = RowScores.open(dataset, folder)
    if scores.model.manifest.get("train", {}).get("refit_on_validation"):
        raise UserError(
            "ranking.retrieval_score: the towers were trained on validation rows too (train.refit_on_validation), so "
            "that their scores of these rows say nothing of new ones, and the ranker is stopped and calibrated on "
            "these rows; set one of the two to false."
        )
    return scores


def score_report(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Of some rows, `[n]` each: how the scores are distributed and how well they alone tell positives (`auc`).

    On training rows an AUC well above that of validation rows is what the towers learned by heart: what the ranker
    sees there is better than what it will see.
    """
    positive = labels > 0
    means = {
        name: float(scores[rows].mean())
        for name, rows in (("positives", positive), ("others", ~positive))
        if rows.any()
    }
    return {
        "rows": len(scores),
        "mean": float(scores.mean()),
        "std": float(scores.std()),
        "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)},
        "mean_of": means,
        "auc": auc(scores, labels) if len(means) == 2 else None,
    }
