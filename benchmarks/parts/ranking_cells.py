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
from recsys.ranking.selection import Candidate, as_logits, choose, most_frequent
from recsys.ranking.truth import against_truth, true_probabilities
from recsys.ranking.workbench import Outcome, Workbench
from recsys.retrieval.checkpoints import CheckpointFolder

TARGET_RATIO = 0.5
TEST_SEED = 0
"""Draws the test part's negatives, where the data has none: the same ones for every arm, backbone and seed."""


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
    `knee` has the same figures of the smallest set whose validation AUC is within the configured tolerance of the best.
    """
    started = time.perf_counter()
    config = cell.config
    # Apart from the searches, so that other gates do not train the same backbone again.
    plain = _bench(cell, config.model_copy(update={"gates": None}), "plain").train("backbone")
    bench = _bench(cell, config, "gated")
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
                told = against_truth(predictions(bench, outcome, settings), _test(bench).labels, truth)
                found[name]["truth"] = told
    return found | {"seconds": time.perf_counter() - started}


def _bench(cell: Cell, config: RankingConfig, name: str) -> Workbench:
    key = fingerprint([cell.dataset.artifact.artifact_id, config.model_dump(mode="json"), cell.seed])
    return Workbench(cell.dataset, config, cell.seed, CheckpointFolder(cell.folder / name, key))


@dataclass(frozen=True, eq=False)
class _Tried:
    """A search with one kappa, and training on what it kept."""

    gates: GatesConfig
    search: Outcome
    trained: Outcome
    ratio: float


def _searched(cell: Cell, bench: Workbench, sets: list[dict[str, Any]]) -> tuple[Outcome, GatesConfig, dict[str, Any]]:
    """Every kappa; then the small set, and the knee of the curve where that is another; each with its control."""
    assert cell.config.gates is not None
    tried = [_try(bench, cell.config.gates.model_copy(update={"kappa": kappa})) for kappa in cell.kappas]
    for one in tried:
        sets.append({"name": "search", "kappa": one.gates.kappa, "kept_ratio": one.ratio, "auc": one.trained.best_auc})
        sets[-1]["test_auc"] = figures(bench, one.trained, one.gates)["auc"]
    small = [one for one in tried if one.ratio <= TARGET_RATIO]
    chosen = max(small, key=lambda one: one.trained.best_auc) if small else min(tried, key=lambda one: one.ratio)
    candidates = [Candidate(one.gates.kappa or 0.0, one.ratio, one.trained.best_auc) for one in tried]
    knee = tried[choose(candidates, cell.config.tolerance)]
    found = _controlled(bench, chosen, sets)
    found["knee"] = found.copy() if knee is chosen else _controlled(bench, knee, sets)
    for one in sets:
        one["chosen"] = one.get("kappa") == chosen.gates.kappa
    return chosen.trained, chosen.gates, found


def _try(bench: Workbench, gates: GatesConfig) -> _Tried:
    search = bench.search(f"search-{gates.kappa:g}", gates)
    trained = bench.train(f"optfs-{gates.kappa:g}", gates, search.gates, search.rewind)
    assert search.gates is not None
    return _Tried(gates, search, trained, bench.kept_ratio(search.gates, gates))


def _controlled(bench: Workbench, one: _Tried, sets: list[dict[str, Any]]) -> dict[str, Any]:
    """Test figures of a set and of as many of the most frequent values, trained from the same weights."""
    assert one.search.gates is not None
    kept = bench.kept_rows(one.search.gates, one.gates) & bench.values
    allowed = bench.values & bench.gated(one.gates)
    frequent = most_frequent(bench.counts, allowed, int((kept & allowed).sum()))
    control = bench.train(f"frequency-{one.gates.kappa:g}", one.gates, as_logits(frequent), one.search.rewind)
    sets.append({"name": "frequency", "kept_ratio": one.ratio, "auc": control.best_auc})
    return {
        "kappa": one.gates.kappa,
        "kept_ratio": one.ratio,
        "optfs": figures(bench, one.trained, one.gates),
        "frequency": figures(bench, control, one.gates),
        "fields": kept_by_field(bench, kept),
    }


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
    test = _test(bench)
    logits = _logits(ranker, test)
    raw = _measured(test, sigmoid(logits))
    found = {"auc": raw["auc"], "gauc": raw.get("gauc", float("nan")), "log_loss": raw["log_loss"]}
    if bench.validation is not None:
        platt = fit_platt(_logits(ranker, bench.validation), bench.validation.labels)
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
    platt = fit_platt(_logits(ranker, bench.validation), bench.validation.labels)
    return platt.probabilities(_logits(ranker, _test(bench)))


def _test(bench: Workbench) -> Examples:
    return split_examples(bench.maker, "test", TEST_SEED)


def _logits(ranker: LiveRanker, examples: Examples) -> np.ndarray:
    """Logits less their offsets, as in training: among drawn negatives these are what was drawn."""
    return ranker(examples.features) - examples.offsets


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
