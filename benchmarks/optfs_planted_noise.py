"""OptFS on planted noise: the acceptance tests of the specification's section 10, for every backbone.

    python benchmarks/optfs_planted_noise.py [--seeds 3] [--backbones fm ...] [--quick] [--json FILE] [--evidence]

90,000 rows whose labels come from 130 of 240 values of six fields; three noise fields of 1,500 values and two of 20
mean nothing. For each backbone and seed: all values; OptFS (search, rewind, hard gates, retraining); as many of the
most frequent values; exactly the live values (oracle). FM also goes on without rewinding and from scratch, and is
searched over a range of penalties. Cells are kept under runs/ and skipped when they are there with equal settings.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.planted_noise import NAMES, TOTAL, Truth, write_planted_noise  # noqa: E402
from recsys.artifacts import fingerprint, write_atomic  # noqa: E402
from recsys.config.ranking import RankingConfig  # noqa: E402
from recsys.dataset_folder import DatasetFolder  # noqa: E402
from recsys.features.gates import kept  # noqa: E402
from recsys.ranking.examples import Examples, split_examples  # noqa: E402
from recsys.ranking.live import LiveRanker  # noqa: E402
from recsys.ranking.metrics import auc  # noqa: E402
from recsys.ranking.pruning import prune  # noqa: E402
from recsys.ranking.selection import as_logits, most_frequent  # noqa: E402
from recsys.ranking.workbench import Outcome, Workbench  # noqa: E402
from recsys.retrieval.checkpoints import CheckpointFolder  # noqa: E402

BACKBONES = ("fm", "deepfm", "dcn", "dcn_v2", "ipnn")
RUNS = Path("runs") / "optfs-planted-noise"
EVIDENCE = ROOT / "docs" / "evidence" / "optfs-planted-noise"
KINDS = ("live", "dead", "high", "low")
PENALTIES = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 1e-1)
SPECIFICATION = {
    "fm": {"backbone": 0.773, "optfs": 0.821, "frequency": 0.700, "kept": 0.026},
    "deepfm": {"backbone": 0.704, "optfs": 0.785},
    "dcn": {"backbone": 0.671, "optfs": 0.702},
    "ipnn": {"backbone": 0.743, "optfs": 0.801},
}
"""Section 10: FM's means over three seeds, the others' single seed at their best penalty."""


def settings(backbone: str, *, quick: bool) -> RankingConfig:
    """Section 10's: FM with linear terms; the deep ones with the specification's learning rate and network."""
    fm = backbone == "fm"
    return RankingConfig.model_validate(
        {
            "model": {"backbone": backbone, "embedding_dim": 8, "hidden": [64, 32], "features": NAMES},
            "train": {
                "batch_size": 512,
                "learning_rate": 3e-3 if fm else 1e-3,
                "epochs": 2 if quick else 20,
                "patience": 1,
            },
            "gates": {
                "mode": "value-dense",
                "penalty": 3e-4 if fm else DEEP_PENALTY,
                "final_temperature": 200,
                "search_epochs": 6,
                "rewind_epoch": 1,
                "learning_rate": 3e-2 if quick else 3e-3,
            },
        }
    )


DEEP_PENALTY = 1e-4


class Cell:
    """One backbone on one seed's data."""

    def __init__(self, folder: Path, data: Path, backbone: str, seed: int, config: RankingConfig) -> None:
        self.config, self.gates = config, config.gates
        key = fingerprint([backbone, seed, config.model_dump(mode="json")])
        self.bench = Workbench(DatasetFolder.open(data), config, seed, CheckpointFolder(folder, key))
        self.test: Examples = split_examples(self.bench.maker, "test", seed)

    def auc(self, outcome: Outcome) -> float:
        """Test AUC of a trained set of values."""
        model = self.bench.ranker(outcome, self.gates)
        return auc(LiveRanker(model)(self.test.features), self.test.labels)

    def rows(self, truth: Truth, kind: str) -> np.ndarray:
        """`[rows] bool`: table rows of the values of one kind."""
        mask = np.zeros(self.bench.spec.rows, bool)
        for name, kinds in truth.kind.items():
            part = self.bench.spec.part(name)
            mask[part.start + 3 : part.stop] = kinds == kind
        return mask

    def run(self, truth: Truth, *, full: bool) -> dict[str, Any]:
        """All arms; `full` adds training without rewinding and from scratch."""
        bench, gates = self.bench, self.gates
        assert gates is not None
        plain = bench.train("plain")
        searched = bench.search("search", gates)
        assert searched.gates is not None
        optfs = bench.train("optfs", gates, searched.gates, searched.rewind)
        stays = kept(searched.gates) & bench.values
        frequent = most_frequent(bench.counts, bench.values, int(stays.sum()))
        live = self.rows(truth, "live")
        arms = {
            "backbone": plain,
            "optfs": optfs,
            "frequency": bench.train("frequency", gates, as_logits(frequent), searched.rewind),
            "oracle": bench.train("oracle", gates, as_logits(live), searched.rewind),
        }
        if full:
            arms["continue"] = bench.train("continue", gates, searched.gates, searched.weights)
            arms["scratch"] = bench.train("scratch", gates, searched.gates)
        shares = {kind: float(stays[self.rows(truth, kind)].mean()) for kind in KINDS}
        noise = self.rows(truth, "high") | self.rows(truth, "low")
        model = bench.ranker(optfs, gates)
        exported = prune(model)
        rows = {name: values[:4096] for name, values in self.test.features.items()}
        return {
            "auc": {name: self.auc(outcome) for name, outcome in arms.items()},
            "bayes": auc(truth.bayes, self.test.labels),
            "kept": int(stays.sum()),
            "kept_ratio": float(stays.sum() / TOTAL),
            "kept_by_kind": shares,
            "frequency_by_kind": {kind: float(frequent[self.rows(truth, kind)].mean()) for kind in KINDS},
            "noise_kept_ratio": float(stays[noise].mean()),
            "embedding_weights": [int(np.prod(one.table.table.shape)) for one in (model, exported)],
            "export_difference": float(np.abs(LiveRanker(model)(rows) - LiveRanker(exported)(rows)).max()),
            "gates_unchanged": bool(optfs.gates is not None and (optfs.gates == searched.gates).all()),
        }


def penalties(folder: Path, data: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """FM searched with each penalty (section 10, item 4): the ratio kept, and the AUC with none."""
    found = {}
    for penalty in PENALTIES[::2] if quick else PENALTIES:
        config = settings("fm", quick=quick)
        gates = config.gates.model_copy(update={"penalty": penalty})  # type: ignore[union-attr]
        config = config.model_copy(update={"gates": gates})
        cell = Cell(folder / f"penalty-{penalty}", data, "fm", 0, config)
        searched = cell.bench.search("search", gates)
        entry = {"kept_ratio": cell.bench.kept_ratio(searched.gates, gates)}
        if penalty == 0.0:
            entry["auc"] = cell.auc(cell.bench.train("optfs", gates, searched.gates, searched.rewind))
        found[f"{penalty:g}"] = entry
    return found


def main() -> None:
    """Run or read every cell, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="data and training seeds 0 to N - 1 (default 3)")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--quick", action="store_true", help="one seed, FM, a fifth of the rows: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}/")
    options = parser.parse_args()
    quick = options.quick
    backbones, seeds, rows = (["fm"], 1, 18_000) if quick else (options.backbones, options.seeds, 90_000)
    home = RUNS / ("quick" if quick else "full")
    console = Console(record=True, width=140)
    results: dict[str, list[dict[str, Any]]] = {backbone: [] for backbone in backbones}
    for seed in range(seeds):
        data = home / f"data-{seed}"
        truth = write_planted_noise(data, rows, seed)
        for backbone in backbones:
            results[backbone].append(_cell(home, data, truth, backbone, seed, quick=quick))
            console.print(f"[dim]{backbone} seed {seed}: {results[backbone][-1]['seconds']:.0f} s[/dim]")
    scan = penalties(home, home / "data-0", quick=quick)
    figures = _figures(results)
    _print(console, results, scan)
    document = {"figures": figures, "context": {"quick": quick, "seeds": seeds, "cells": results, "penalties": scan}}
    if options.json:
        write_atomic(options.json, (json.dumps(document, indent=1) + "\n").encode())
    if options.evidence:
        EVIDENCE.mkdir(parents=True, exist_ok=True)
        (EVIDENCE / "figures.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (EVIDENCE / "log.txt").write_text(console.export_text(), encoding="utf-8")


def _cell(home: Path, data: Path, truth: Truth, backbone: str, seed: int, *, quick: bool) -> dict[str, Any]:
    config = settings(backbone, quick=quick)
    folder = home / backbone / f"seed-{seed}"
    path = folder / "result.json"
    key = fingerprint([backbone, seed, config.model_dump(mode="json"), DatasetFolder.open(data).artifact.artifact_id])
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    started = time.perf_counter()
    result = Cell(folder, data, backbone, seed, config).run(truth, full=backbone == "fm" and not quick)
    result |= {"key": key, "seconds": time.perf_counter() - started}
    write_atomic(path, json.dumps(result, indent=1).encode())
    return result


def _figures(results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    figures = {}
    for backbone, cells in results.items():
        means = {
            "auc_backbone": [one["auc"]["backbone"] for one in cells],
            "auc_optfs": [one["auc"]["optfs"] for one in cells],
            "auc_frequency_control": [one["auc"]["frequency"] for one in cells],
            "kept_ratio": [one["kept_ratio"] for one in cells],
            "noise_kept_ratio": [one["noise_kept_ratio"] for one in cells],
        }
        figures |= {f"{backbone}_{name}": statistics.mean(values) for name, values in means.items()}
    return figures


def _print(console: Console, results: dict[str, list[dict[str, Any]]], scan: dict[str, dict[str, float]]) -> None:
    table = Table(title="Test AUC on planted noise (in brackets: the specification's)", caption="one row a seed")
    for heading in ("model", "all values", "OptFS", "most frequent", "oracle", "Bayes", "kept", *KINDS, "weights"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for backbone, cells in results.items():
        for one in cells:
            shown = [f"{one['auc'][arm]:.4f}" for arm in ("backbone", "optfs", "frequency", "oracle")]
            shares = [f"{one['kept_by_kind'][kind]:.3f}" for kind in KINDS]
            weights = " → ".join(f"{count:,}" for count in one["embedding_weights"])
            table.add_row(backbone, *shown, f"{one['bayes']:.4f}", str(one["kept"]), *shares, weights)
        told = SPECIFICATION.get(backbone, {})
        cells_told = [f"({told[arm]:.3f})" if arm in told else "" for arm in ("backbone", "optfs", "frequency")]
        table.add_row("", *cells_told, *[""] * 8, end_section=True)
    console.print(table)
    for backbone, cells in results.items():
        for seed, one in enumerate(cells):
            met = "  ".join(f"{name} {'met' if holds else 'NOT MET'}" for name, holds in verdicts(one).items())
            console.print(f"{backbone} seed {seed}: {met}", highlight=False)
    for seed, one in enumerate(results.get("fm", [])):
        if "continue" in one["auc"]:
            aucs = ", ".join(f"{name} {one['auc'][name]:.4f}" for name in ("optfs", "continue", "scratch"))
            console.print(f"FM seed {seed}, weights rewound / kept / from scratch: {aucs}", highlight=False)
    shown = ", ".join(f"{penalty}: {entry['kept_ratio']:.3f}" for penalty, entry in scan.items())
    console.print(f"FM seed 0, share of values kept by penalty: {shown}; AUC at 0: {scan['0']['auc']:.4f}")


def verdicts(one: dict[str, Any]) -> dict[str, bool]:
    """Items 1, 2, 3 and 7 of section 10 for a cell."""
    kinds, aucs = one["kept_by_kind"], one["auc"]
    return {
        "1 (values)": kinds["high"] <= 0.02
        and kinds["low"] <= 0.10
        and kinds["live"] >= 0.85
        and kinds["dead"] <= 0.15,
        "2 (AUC)": aucs["optfs"] >= max(aucs["backbone"] + 0.03, aucs["oracle"] - 0.01)
        and aucs["frequency"] < aucs["optfs"] - 0.05,
        "3 (rows)": one["kept_ratio"] <= 0.05,
        "7 (export)": one["export_difference"] < 1e-4 and one["gates_unchanged"],
    }


if __name__ == "__main__":
    main()
