"""Self-supervision on data with events: baseline, feature dropout, spread-out, RFM and CFM, each with and without logQ.

Every arm is trained by the training job with early stopping on validation and measured on test, overall and by the
popularity of the targets. The strength of each method was chosen on validation (`--tune` does it again); so is the best
arm. Cells are kept under runs/ssl-ablation/, so a run that was stopped goes on.

    python benchmarks/ssl_ablation.py --data simulator|ml-100k [--seeds N] [--tune] [--quick] [--json F] [--evidence]
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.retrieval_cells import CUT_OFFS, SLICES, Cell, CellBench, mean, spread, values  # noqa: E402
from recsys.artifacts import write_atomic  # noqa: E402
from recsys.config import Config, load_config  # noqa: E402
from recsys.dataset_folder import DatasetFolder  # noqa: E402
from recsys.pipeline import Pipeline  # noqa: E402

CONFIGS = {"ml-100k": "ml-100k", "simulator": "simulated-tail"}
OVERRIDES: dict[str, tuple[str, ...]] = {
    "ml-100k": (
        "model.item.features=[genres, title_words, year]",
        "train.refit_on_validation=false",
    ),
    "simulator": (),
}
HEAD_LOSS = 0.01
"""What the best arm may lose on head recall@50, relative to no self-supervision."""

BASE = "none"
METHODS = {"FD": "feature dropout", "SO": "spread_out", "RFM": "rfm", "CFM": "cfm"}
SELF_SUPERVISED = ("RFM", "CFM")
GRID = {"FD": (0.1, 0.3, 0.5), "SO": (0.1, 0.3), "RFM": (0.1, 0.3, 1.0, 3.0), "CFM": (0.1, 0.3, 1.0, 3.0)}
STRENGTH: dict[str, dict[str, float]] = {
    "ml-100k": {"FD": 0.1, "SO": 0.1, "RFM": 0.3, "CFM": 0.3},
    "simulator": {"FD": 0.1, "SO": 0.1, "RFM": 0.3, "CFM": 0.3},
}
"""Of each method: the share of dropped fields for FD, else the weight of the second loss. Chosen by `--tune`."""


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    method: str
    log_q: bool
    strength: float = 0.0

    @property
    def name(self) -> str:
        """As the tables show it."""
        shown = self.method if self.method == BASE else f"{self.method} {self.strength:g}"
        return f"{'logQ' if self.log_q else 'plain'}, {shown}"

    def overrides(self) -> tuple[str, ...]:
        """The settings that make the arm."""
        frequencies = f"train.loss.frequencies={'exact' if self.log_q else 'none'}"
        if self.method == BASE:
            return (frequencies,)
        if self.method == "FD":
            return frequencies, f"model.item.feature_dropout={self.strength}"
        return frequencies, f"train.ssl={{method: {METHODS[self.method]}, weight: {self.strength}}}"


def main() -> None:
    """Run the missing cells, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(CONFIGS), default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--tune", action="store_true", help="show every strength on validation and stop")
    parser.add_argument("--quick", action="store_true", help="two arms, one seed, one epoch: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/ssl-<data>/")
    arguments = parser.parse_args()
    os.environ.setdefault("RECSYS_DATA", str(ROOT.parent / "shared" / "data"))
    console = Console(record=True, width=150)
    bench = Bench(arguments.data, arguments.quick, console)
    if arguments.tune:
        console.print(tuning_table(bench, range(1, arguments.seeds + 1)))
        return
    methods = (BASE, "CFM") if arguments.quick else (BASE, *METHODS)
    sides = (True,) if arguments.quick else (True, False)
    arms = [Arm(method, log_q, STRENGTH[arguments.data].get(method, 0.0)) for log_q in sides for method in methods]
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    results = {arm: [bench.cell(arm, seed) for seed in seeds] for arm in arms}
    best = best_arm(results)
    figures = figures_of(results, best)
    console.print(table(arguments.data, results))
    console.print(f"best by validation: {best.name if best else 'none that keeps the head'}", highlight=False)
    context = {
        "data": arguments.data,
        "seeds": seeds,
        "quick": arguments.quick,
        "best_arm": best.name if best else None,
        "dataset": bench.dataset.artifact.artifact_id,
        "inputs": bench.dataset.manifest["inputs"],
    }
    document = json.dumps(
        {"figures": figures, "context": context, "cells": {arm.name: cells for arm, cells in results.items()}}, indent=1
    )
    if arguments.json:
        write_atomic(arguments.json, document.encode())
    if arguments.evidence:
        write_evidence(bench, results, document, console)


class Bench:
    """The data set, and cells trained on it."""

    def __init__(self, data: str, quick: bool, console: Console) -> None:
        self.data, self.quick, self.console = data, quick, console
        self.folder = Path("runs") / "ssl-ablation" / data
        pipeline = Pipeline(self.config(()), quiet=True)
        pipeline.ingest()
        self.dataset = DatasetFolder.open(pipeline.dataset_path)

    def config(self, overrides: tuple[str, ...]) -> Config:
        """The shipped configuration with the data's and the arm's overrides."""
        short = ("train.epochs=1",) if self.quick else ()
        every = (f"workdir={self.folder}", *OVERRIDES[self.data], *short, *overrides)
        return load_config(ROOT / "configs" / f"{CONFIGS[self.data]}.yaml", every)

    def cell(self, arm: Arm, seed: int) -> Cell:
        """Figures of one arm with one seed on validation and test, from the file where it was run before."""
        config = self.config(arm.overrides())
        bench = CellBench(self.dataset, self.folder, self.console)
        return bench.cell(arm.name, config.model, config.train, seed)


def best_arm(results: Mapping[Arm, Sequence[Cell]]) -> Arm | None:
    """The self-supervised arm with the most tail and unseen recall@50 on validation among those that keep the head."""
    base = {arm.log_q: cells for arm, cells in results.items() if arm.method == BASE}
    kept = {
        arm: mean(cells, "validation", "tail") + mean(cells, "validation", "unseen")
        for arm, cells in results.items()
        if arm.method in SELF_SUPERVISED
        and mean(cells, "validation", "head") >= (1 - HEAD_LOSS) * mean(base[arm.log_q], "validation", "head")
    }
    return max(kept, key=kept.__getitem__) if kept else None


def figures_of(results: Mapping[Arm, Sequence[Cell]], best: Arm | None) -> dict[str, float]:
    """Test figures of the best arm, and of the same without self-supervision (with logQ where there is no best)."""
    off = next(arm for arm in results if arm.method == BASE and arm.log_q == (best is None or best.log_q))
    figures = {}
    for part in ("tail", "unseen", "head"):
        figures[f"{part}_recall_at_50_off"] = mean(results[off], "test", part)
        figures[f"{part}_recall_at_50_best"] = mean(results[best or off], "test", part)
    return figures


def table(data: str, results: Mapping[Arm, Sequence[Cell]]) -> Table:
    """Test recall by slice, mean ± standard deviation."""
    first = next(iter(results.values()))[0]["test"]
    queries = ", ".join(f"{part} {first[part]['queries']:,}" for part in SLICES.values())
    shown = Table(title=f"{data}: test recall, mean ± standard deviation over seeds (queries: {queries})")
    shown.add_column("arm")
    for k in CUT_OFFS:
        for part in SLICES.values():
            shown.add_column(f"{part}@{k}", justify="right")
    for arm, cells in results.items():
        row = []
        for k in CUT_OFFS:
            for part in SLICES.values():
                row.append(spread(values(cells, "test", part, k)))
        shown.add_row(arm.name, *row)
    return shown


def tuning_table(bench: Bench, seeds: Sequence[int]) -> Table:
    """Validation recall@50 of every strength with logQ, mean over seeds; the last column is what is chosen by."""
    shown = Table(title=f"{bench.data}: validation recall@50 with logQ, mean over {len(seeds)} seeds")
    for name in ("arm", *SLICES.values(), "tail + unseen"):
        shown.add_column(name)
    arms = [Arm(BASE, True), *(Arm(method, True, strength) for method in METHODS for strength in GRID[method])]
    for arm in arms:
        cells = [bench.cell(arm, seed) for seed in seeds]
        found = {part: mean(cells, "validation", part) for part in SLICES.values()}
        shown.add_row(arm.name, *(f"{value:.4f}" for value in (*found.values(), found["tail"] + found["unseen"])))
    return shown


def write_evidence(bench: Bench, results: Mapping[Arm, Sequence[Cell]], document: str, console: Console) -> None:
    """Command, resolved configuration, a table by seed and the log, under docs/evidence/ssl-<data>/."""
    folder = ROOT / "docs" / "evidence" / f"ssl-{bench.data}"
    keys = [(part, k) for k in CUT_OFFS for part in SLICES.values()]
    lines = [
        f"# Self-supervision on {bench.data}",
        "",
        f"    python benchmarks/ssl_ablation.py {' '.join(sys.argv[1:])}",
        "",
        "Resolved configuration without self-supervision: config.yaml. Checksums of the raw files and all figures, "
        "those of validation too: figures.json. What the figures say: NOTES.md.",
        "",
        f"| arm | seed | {' | '.join(f'{part}@{k}' for part, k in keys)} |",
        "|---" * (len(keys) + 2) + "|",
    ]
    for arm, cells in results.items():
        for seed, cell in enumerate(cells, start=1):
            row = " | ".join(f"{cell['test'][part][f'recall@{k}']:.4f}" for part, k in keys)
            lines.append(f"| {arm.name} | {seed} | {row} |")
    lines += ["", "What was printed:", "", "```", console.export_text().rstrip(), "```", ""]
    resolved: dict[str, Any] = bench.config(Arm(BASE, True).overrides()).model_dump(mode="json")
    write_atomic(folder / "README.md", "\n".join(lines).encode())
    write_atomic(folder / "figures.json", document.encode())
    write_atomic(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False).encode())


if __name__ == "__main__":
    main()
