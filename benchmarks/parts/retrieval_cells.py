"""One cell of an experiment on the towers: train with the job, measure with the evaluation stage's functions, remember.

A cell is kept in a file named by its data set, settings and seed, so a run that was stopped goes on where it was; it
says by which code it was trained.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.parts.code_state import TOWERS, remember
from recsys.artifacts import fingerprint
from recsys.config.evaluate import EvaluateConfig
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.measure import Yardstick, measure
from recsys.evaluation.queries import lag_of, make_queries, protocol_of
from recsys.evaluation.recommend import Catalogue, recommend
from recsys.evaluation.slices import popularity_classes, slice_targets
from recsys.evaluation.two_tower import two_tower
from recsys.retrieval.job import train
from recsys.scoring.towers import load_tower

SLICES = {"overall": "all", "head": "head", "tail": "tail", "new_items": "unseen"}
"""The evaluation's slices of targets, and what the tables call them."""
CUT_OFFS = (10, 50)

Cell = dict[str, Any]
"""`cell[split][slice]["recall@50"]` for the splits validation and test, and what else a benchmark kept of the model."""


@dataclass(frozen=True)
class CellBench:
    """Cells of one data set, remembered under `folder`; each that is run is told on `console`."""

    dataset: DatasetFolder
    folder: Path
    console: Console

    def cell(
        self,
        name: str,
        model: ModelConfig,
        settings: TrainConfig,
        seed: int,
        also: Callable[[Path], Mapping[str, Any]] = lambda trained: {},
    ) -> Cell:
        """Recall by slice on validation and test of one training run, and what `also` reads off the model folder."""
        key = fingerprint(
            {
                "dataset": self.dataset.artifact.artifact_id,
                "model": model.model_dump(mode="json"),
                "train": settings.model_dump(mode="json"),
                "seed": seed,
            }
        )[:20]
        folder = self.folder / key

        def run() -> Cell:
            started = time.monotonic()
            trained = folder / "model"
            paths = {"checkpoints": folder / "checkpoints", "logs": folder / "logs"}
            train(self.dataset, model, settings, seed, trained, quiet=True, **paths)
            found: Cell = {split: recalls(self.dataset, trained, split) for split in ("validation", "test")}
            found |= also(trained)
            shutil.rmtree(folder)
            seconds = time.monotonic() - started
            value = found["validation"]["all"]["recall@50"]
            self.console.print(f"[dim]seed {seed}, {name}: {value:.4f}, {seconds:.0f} s[/dim]", highlight=False)
            return found

        return remember(self.folder / "cells" / f"{key}.json", TOWERS, run)


def recalls(dataset: DatasetFolder, trained: Path, split: str) -> dict[str, dict[str, float]]:
    """Recall by slice of a model folder, by the evaluation stage's own functions."""
    config = EvaluateConfig(split=split, ks=CUT_OFFS, main_k=max(CUT_OFFS))
    lag = lag_of(dataset)
    queries = make_queries(dataset, config, split, lag_ms=lag)
    counts = dataset.items["count"].to_numpy()
    everything = protocol_of(dataset, config)[2] == "all"
    available = None if everything else dataset.items["available_from"].to_numpy() + lag
    towers = [load_tower(trained / f"{name}_tower") for name in ("query", "item")]
    model = two_tower(dataset, *towers, queries, np.load(trained / "vectors.npy"))
    classes = popularity_classes(counts, config.head_share, config.tail_share)
    slices = slice_targets(queries, dataset.users["count"].to_numpy(), classes)
    yardstick = Yardstick(slices, counts, classes, CUT_OFFS, None, config.confidence)
    found = recommend(model, queries, Catalogue(counts, available), max(CUT_OFFS))
    figures = measure(found, yardstick).figures["slices"]
    return {
        shown: {
            "queries": figures[name]["queries"],
            **{f"recall@{k}": figures[name].get(f"recall@{k}", {"value": float("nan")})["value"] for k in CUT_OFFS},
        }
        for name, shown in SLICES.items()
    }


def values(cells: Sequence[Cell], split: str, part: str, k: int = 50) -> np.ndarray:
    """Recall by seed, `[seeds] float64`."""
    return np.array([cell[split][part][f"recall@{k}"] for cell in cells])


def mean(cells: Sequence[Cell], split: str, part: str, k: int = 50) -> float:
    """Mean over seeds."""
    return float(values(cells, split, part, k).mean())


def spread(numbers: np.ndarray, digits: int = 4) -> str:
    """Mean ± standard deviation as the tables show it, the mean alone where there is one seed."""
    deviation = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{deviation}"
