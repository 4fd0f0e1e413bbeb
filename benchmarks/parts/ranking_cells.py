"""One cell of the grid of rankers: a backbone, a seed, its OptFS searches and its control, on one data set."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.artifacts import fingerprint
from recsys.config.gates import GatesConfig
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.ranking.calibration import fit_platt, sigmoid
from recsys.ranking.examples import Examples, split_examples
from recsys.ranking.live import LiveRanker
from recsys.ranking.measure import Shown, measure_shown
from recsys.ranking.selection import as_logits, most_frequent
from recsys.ranking.truth import against_truth, true_probabilities
from recsys.ranking.workbench import Outcome, Workbench
from recsys.retrieval.checkpoints import CheckpointFolder

TARGET_RATIO = 0.5


@dataclass(frozen=True, eq=False)
class Cell:
    """What is trained: settings, seed, and the penalties that are tried (kappa = penalty x training rows).

    `simulation` is the folder of the simulator's logs, None for real data.
    """

    dataset: DatasetFolder
    config: RankingConfig
    seed: int
    kappas: tuple[float, ...]
    folder: Path
    simulation: Path | None = None


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and measure it all, going on where an earlier run was stopped; JSON-able.

    `plain`, `optfs`, `frequency`: figures on the test part. `sets`: every set of values tried, with its validation AUC.
    Of the searches the one of best validation AUC that keeps at most half of the values is taken (the one that keeps
    least where none does); `frequency` keeps as many values, the most frequent, and is trained from the same weights.
    """
    started = time.perf_counter()
    config = cell.config
    name = fingerprint([cell.dataset.artifact.artifact_id, config.model_dump(mode="json"), cell.seed])
    bench = Workbench(cell.dataset, config, cell.seed, CheckpointFolder(cell.folder, name))
    plain = bench.train("backbone")
    found: dict[str, Any] = {
        "backbone": config.model.backbone,
        "seed": cell.seed,
        "plain": figures(bench, plain, None),
        "epochs": len(plain.epochs),
        "values": int(bench.values.sum()),
        "sets": [{"name": "backbone", "kept_ratio": 1.0, "auc": plain.best_auc}],
    }
    best, gates = plain, None
    if config.gates is not None:
        best, gates, cut = _searched(cell, bench, found["sets"])
        found |= cut
    if cell.simulation is not None:
        truth = true_probabilities(cell.dataset, "test", cell.simulation)["probability"]
        for name, outcome, settings in (("plain", plain, None), ("optfs", best, gates)):
            if name in found:
                told = against_truth(predictions(bench, outcome, settings), _examples(bench, "test").labels, truth)
                found[name]["truth"] = told
    return found | {"seconds": time.perf_counter() - started}


def _searched(cell: Cell, bench: Workbench, sets: list[dict[str, Any]]) -> tuple[Outcome, GatesConfig, dict[str, Any]]:
    assert cell.config.gates is not None
    tried: dict[float, tuple[Outcome, Outcome, float]] = {}
    for kappa in cell.kappas:
        gates = cell.config.gates.model_copy(update={"kappa": kappa})
        search = bench.search(f"search-{kappa:g}", gates)
        trained = bench.train(f"optfs-{kappa:g}", gates, search.gates, search.rewind)
        assert search.gates is not None
        ratio = bench.kept_ratio(search.gates, gates)
        tried[kappa] = (search, trained, ratio)
        sets.append({"name": "search", "kappa": kappa, "kept_ratio": ratio, "auc": trained.best_auc})
    small = [kappa for kappa, one in tried.items() if one[2] <= TARGET_RATIO]
    chosen = (
        max(small, key=lambda kappa: tried[kappa][1].best_auc)
        if small
        else min(tried, key=lambda kappa: tried[kappa][2])
    )
    search, trained, ratio = tried[chosen]
    assert search.gates is not None
    gates = cell.config.gates.model_copy(update={"kappa": chosen})
    kept = bench.kept_rows(search.gates, gates) & bench.values
    frequent = most_frequent(bench.counts, bench.values & bench.gated(gates), int(kept.sum()))
    control = bench.train(f"frequency-{chosen:g}", gates, as_logits(frequent), search.rewind)
    sets.append({"name": "frequency", "kept_ratio": ratio, "auc": control.best_auc})
    for one in sets:
        one["chosen"] = one.get("kappa") == chosen
    return (
        trained,
        gates,
        {
            "kappa": chosen,
            "kept_ratio": ratio,
            "optfs": figures(bench, trained, gates),
            "frequency": figures(bench, control, gates),
            "fields": kept_by_field(bench, kept),
        },
    )


def kept_by_field(bench: Workbench, kept: np.ndarray) -> dict[str, dict[str, int]]:
    """Of each part of the table, how many values occur in training and how many of them are kept."""
    found = {}
    for table in bench.spec.tables:
        part = bench.spec.part(table.name)
        found[table.name] = {"values": int(bench.values[part].sum()), "kept": int(kept[part].sum())}
    return found


def figures(bench: Workbench, outcome: Outcome, gates: GatesConfig | None) -> dict[str, Any]:
    """Figures on the test part: AUC, AUC within users and log loss as trained, and log loss and calibration error after
    Platt's calibration on the validation part."""
    ranker = LiveRanker(bench.ranker(outcome, gates))
    test = _examples(bench, "test")
    logits = ranker(test.features)
    raw = _measured(test, sigmoid(logits))
    found = {"auc": raw["auc"], "gauc": raw.get("gauc", float("nan")), "log_loss": raw["log_loss"]}
    if bench.validation is not None:
        platt = fit_platt(ranker(bench.validation.features), bench.validation.labels)
        calibrated = _measured(test, platt.probabilities(logits))
        found |= {
            "calibrated_log_loss": calibrated["log_loss"],
            "calibrated_ece": calibrated["calibration_error"],
            "ece": raw["calibration_error"],
        }
    return found


def predictions(bench: Workbench, outcome: Outcome, gates: GatesConfig | None) -> np.ndarray:
    """Calibrated probabilities of the test part, `[n] float64`."""
    ranker = LiveRanker(bench.ranker(outcome, gates))
    assert bench.validation is not None
    platt = fit_platt(ranker(bench.validation.features), bench.validation.labels)
    return platt.probabilities(ranker(_examples(bench, "test").features))


def _examples(bench: Workbench, split: str) -> Examples:
    return split_examples(bench.maker, split, bench.seed)


def _measured(examples: Examples, probabilities: np.ndarray) -> dict[str, float]:
    shown = Shown(examples.labels, examples.users.astype(np.int64), probabilities)
    return {name: one["value"] for name, one in measure_shown(shown).items() if isinstance(one, Mapping)}


def kept_ratio_of(results: Sequence[Mapping[str, Any]], fields: Collection[str]) -> float | None:
    """Mean over cells of the share of some fields' values that stay; None where no cell searched such a field."""
    found = []
    for one in results:
        parts = [part for name, part in one.get("fields", {}).items() if name in fields]
        if parts:
            found.append(sum(part["kept"] for part in parts) / sum(part["values"] for part in parts))
    return float(np.mean(found)) if found else None
