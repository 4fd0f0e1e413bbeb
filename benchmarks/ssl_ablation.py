"""Self-supervision on data with events: baseline, feature dropout, spread-out, RFM and CFM, with and without logQ.

Every arm is trained by the training job with early stopping on validation and measured on test, overall and by the
popularity of the targets. The strength of each method was chosen on validation (`--tune` does it again; CFM with the id
last has that of CFM); so is the best arm. Cells are kept under runs/ssl-ablation/, so a run that was stopped goes on.

    python benchmarks/ssl_ablation.py --data simulator|ml-100k [--seeds N] [--tune] [--quick] [--json F] [--evidence]
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.retrieval_arms import CONFIGS, Bench, table, write_evidence  # noqa: E402
from benchmarks.parts.retrieval_cells import SLICES, Cell, mean  # noqa: E402
from recsys.artifacts import write_atomic  # noqa: E402

HEAD_LOSS = 0.01
"""What the best arm may lose on head recall@50, relative to no self-supervision."""

BASE = "none"
METHODS = {
    "SO": "method: spread_out",
    "RFM": "method: rfm",
    "CFM": "method: cfm",
    "CFM, id last": "method: cfm, id_rank: last",
}
"""The settings of each second loss. The last is CFM where the id ranks behind all fields that tell about another, so
that it is not hidden together with every field."""
SELF_SUPERVISED = ("RFM", "CFM", "CFM, id last")
GRID = {"FD": (0.1, 0.3, 0.5), "SO": (0.1, 0.3), **dict.fromkeys(SELF_SUPERVISED, (0.1, 0.3, 1.0, 3.0))}
STRENGTH: dict[str, dict[str, float]] = {
    "ml-100k": {"FD": 0.1, "SO": 0.1, "RFM": 0.1, "CFM": 0.1, "CFM, id last": 0.1},
    "simulator": {"FD": 0.5, "SO": 0.1, "RFM": 3.0, "CFM": 1.0, "CFM, id last": 1.0},
}
"""Of each method: the share of dropped fields for FD, else the weight of the second loss. Chosen by `--tune`: the most
tail and unseen recall on validation that keeps the head (HEAD_LOSS), the most of all where none does. With the id last
it is CFM's, not tuned again."""


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

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that make the arm."""
        frequencies = f"train.loss.frequencies={'exact' if self.log_q else 'none'}"
        if self.method == BASE:
            return (frequencies,)
        if self.method == "FD":
            return frequencies, f"model.item.feature_dropout={self.strength}"
        return frequencies, f"train.ssl={{{METHODS[self.method]}, weight: {self.strength}}}"


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
    bench = Bench(Path("runs") / "ssl-ablation" / arguments.data, arguments.data, arguments.quick, console)
    if arguments.tune:
        console.print(tuning_table(bench, range(1, arguments.seeds + 1)))
        return
    methods = (BASE, "CFM") if arguments.quick else (BASE, *GRID)
    sides = (True,) if arguments.quick else (True, False)
    arms = [Arm(method, log_q, STRENGTH[arguments.data].get(method, 0.0)) for log_q in sides for method in methods]
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    results = {arm: [bench.cell(arm.name, arm.overrides, seed) for seed in seeds] for arm in arms}
    best = best_arm(results)
    figures = figures_of(results, best)
    named = {arm.name: cells for arm, cells in results.items()}
    console.print(table(arguments.data, named))
    console.print(f"best by validation: {best.name if best else 'none that keeps the head'}", highlight=False)
    context = {
        "data": arguments.data,
        "seeds": seeds,
        "quick": arguments.quick,
        "best_arm": best.name if best else None,
        "dataset": bench.dataset.artifact.artifact_id,
        "inputs": bench.dataset.manifest["inputs"],
    }
    document = json.dumps({"figures": figures, "context": context, "cells": named}, indent=1)
    if arguments.json:
        write_atomic(arguments.json, document.encode())
    if arguments.evidence:
        write_evidence(
            ROOT / "docs" / "evidence" / f"ssl-{bench.data}",
            f"Self-supervision on {bench.data}",
            "Resolved configuration without self-supervision",
            bench.config(Arm(BASE, True).overrides),
            named,
            document,
            console,
        )


def best_arm(results: Mapping[Arm, Sequence[Cell]]) -> Arm | None:
    """What somebody would ship, chosen on validation: first the loss, then self-supervision with it.

    The loss (with logQ or without) is that of more recall@50 overall; the arm is the self-supervised one with the most
    tail and unseen recall@50 among those with this loss that keep the head.
    """
    base = {arm: mean(cells, "validation", "all") for arm, cells in results.items() if arm.method == BASE}
    plain = max(base, key=base.__getitem__)
    least = (1 - HEAD_LOSS) * mean(results[plain], "validation", "head")
    kept = {
        arm: mean(cells, "validation", "tail") + mean(cells, "validation", "unseen")
        for arm, cells in results.items()
        if arm.method in SELF_SUPERVISED and arm.log_q == plain.log_q and mean(cells, "validation", "head") >= least
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


def tuning_table(bench: Bench, seeds: Sequence[int]) -> Table:
    """Validation recall@50 of every strength with logQ, mean over seeds; the last column is what is chosen by."""
    shown = Table(title=f"{bench.data}: validation recall@50 with logQ, mean over {len(seeds)} seeds")
    for name in ("arm", *SLICES.values(), "tail + unseen"):
        shown.add_column(name)
    arms = [Arm(BASE, True), *(Arm(method, True, strength) for method, grid in GRID.items() for strength in grid)]
    for arm in arms:
        cells = [bench.cell(arm.name, arm.overrides, seed) for seed in seeds]
        found = {part: mean(cells, "validation", part) for part in SLICES.values()}
        shown.add_row(arm.name, *(f"{value:.4f}" for value in (*found.values(), found["tail"] + found["unseen"])))
    return shown


if __name__ == "__main__":
    main()
