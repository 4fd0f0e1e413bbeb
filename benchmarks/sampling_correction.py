"""What each part of the sampling correction is worth on head and tail: one table, beside no correction at all.

In-batch softmax without logQ, with exact and with streaming frequencies, with half of logQ, and with exact logQ and
more negatives: drawn uniformly, kept from earlier batches, or both. Every arm is trained by the training job with early
stopping on validation and measured on test, overall and by the popularity of the targets. Sizes and rates are chosen by
validation recall@50 over all queries with the first seed, never by test. Cells are kept under
runs/sampling-correction/, so a run that was stopped goes on.

    python benchmarks/sampling_correction.py --data simulator|ml-100k [--seeds N] [--quick] [--json F] [--evidence]
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
from benchmarks.parts.retrieval_cells import CUT_OFFS, SLICES, Cell, mean  # noqa: E402
from recsys.artifacts import write_atomic  # noqa: E402

BUCKETS_PER_ITEM = 5
"""Of the streaming estimator, over all hashes together: the ratio of the specification's simulation (section 2.1)."""

ALPHAS = (0.01, 0.1)
UNIFORM = (512, 2048)
QUEUE = (1024, 4096)
"""What is chosen among on validation; a batch has 1,024 rows."""

EXACT = "train.loss.frequencies=exact"


@dataclass(frozen=True)
class Arm:
    """One way of training: its name in tables, its name in figures, and its settings under `train.loss`."""

    name: str
    figure: str
    overrides: tuple[str, ...]


def none() -> Arm:
    """No correction."""
    return Arm("no logQ", "none", ("train.loss.frequencies=none",))


def exact() -> Arm:
    """Training counts, all of logQ."""
    return Arm("exact logQ", "exact", (EXACT,))


def half() -> Arm:
    """Training counts, half of logQ."""
    return Arm("exact logQ, strength 0.5", "half", (EXACT, "train.loss.log_q_strength=0.5"))


def streaming(items: int, hashes: int, alpha: float) -> Arm:
    """The streaming estimator over a catalogue of `items`."""
    buckets = BUCKETS_PER_ITEM * items // hashes
    settings = f"train.loss.streaming={{hashes: {hashes}, buckets: {buckets}, alpha: {alpha}}}"
    name = f"streaming logQ, m {hashes}, alpha {alpha:g}"
    return Arm(name, f"streaming_m{hashes}", ("train.loss.frequencies=streaming", settings))


def more(uniform: int, stored: int, *, positives: bool = False) -> Arm:
    """Exact logQ and more negatives; `positives`: the uniform ones are of items with training positives only."""
    parts = {"mixed": uniform, "cross-batch": stored}
    shown = " + ".join(f"{size:,} {kind}" for kind, size in parts.items() if size)
    figure = "_".join(kind.replace("-", "_") for kind, size in parts.items() if size)
    settings = (f"train.loss.uniform_negatives={uniform}", f"train.loss.cross_batch_negatives={stored}")
    if positives:
        shown, figure = f"{shown}, clicked items", f"{figure}_of_positives"
        settings = (*settings, "train.loss.uniform_negatives_from=positives")
    return Arm(f"exact logQ + {shown}", figure, (EXACT, *settings))


class Comparison:
    """The cells of all arms: what sizes are chosen among with the first seed, what the table shows with all."""

    def __init__(self, bench: Bench, seeds: Sequence[int]) -> None:
        self.bench, self.seeds = bench, seeds
        self.tried: dict[Arm, Cell] = {}
        self.results: dict[Arm, list[Cell]] = {}

    def run(self, arm: Arm) -> None:
        """A row of the table."""
        self.results[arm] = [self.bench.cell(arm.name, arm.overrides, seed) for seed in self.seeds]
        self.tried[arm] = self.results[arm][0]

    def best(self, arms: Mapping[Arm, float]) -> float:
        """The size or rate whose arm has the highest validation recall@50 over all queries."""
        for arm in arms:
            self.tried[arm] = self.bench.cell(arm.name, arm.overrides, self.seeds[0])
        return arms[max(arms, key=lambda arm: self.tried[arm]["validation"]["all"]["recall@50"])]


def compare(comparison: Comparison, items: int, quick: bool) -> None:
    """Run everything: sizes and rates chosen, then the rows of the table."""
    alphas, uniform, queue = (sizes[:1] if quick else sizes for sizes in (ALPHAS, UNIFORM, QUEUE))
    if not quick:
        comparison.run(none())
    comparison.run(exact())
    alpha = comparison.best({streaming(items, 2, alpha): alpha for alpha in alphas})
    mixed = int(comparison.best({more(size, 0): size for size in uniform}))
    stored = int(comparison.best({more(0, size): size for size in queue}))
    if not quick:
        uniforms = more(mixed, 0), more(mixed, 0, positives=True)
        for arm in (half(), streaming(items, 1, alpha), streaming(items, 2, alpha), *uniforms, more(0, stored)):
            comparison.run(arm)
    comparison.run(more(mixed, stored))
    if not quick:
        comparison.run(more(mixed, stored, positives=True))


def figures_of(results: Mapping[Arm, Sequence[Cell]]) -> dict[str, float]:
    """Test recall of every row by slice and cut-off."""
    return {
        f"{arm.figure}_{part}_recall_at_{k}": mean(cells, "test", part, k)
        for arm, cells in results.items()
        for part in SLICES.values()
        for k in CUT_OFFS
    }


def selection_table(comparison: Comparison) -> Table:
    """What was chosen among, by its validation recall@50."""
    shown = Table(title=f"{comparison.bench.data}: validation recall@50, seed {comparison.seeds[0]}; chosen by 'all'")
    for name in ("arm", *SLICES.values(), "in the table"):
        shown.add_column(name)
    for arm, cell in comparison.tried.items():
        found = (f"{cell['validation'][part]['recall@50']:.4f}" for part in SLICES.values())
        shown.add_row(arm.name, *found, "yes" if arm in comparison.results else "")
    return shown


def main() -> None:
    """Run the missing cells, print the tables, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(CONFIGS), default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--quick", action="store_true", help="five arms, one seed, one epoch: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/sampling-<data>/")
    arguments = parser.parse_args()
    os.environ.setdefault("RECSYS_DATA", str(ROOT.parent / "shared" / "data"))
    console = Console(record=True, width=200)
    bench = Bench(Path("runs") / "sampling-correction" / arguments.data, arguments.data, arguments.quick, console)
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    comparison = Comparison(bench, seeds)
    compare(comparison, len(bench.dataset.items), arguments.quick)
    shown = {arm.name: cells for arm, cells in comparison.results.items()}
    console.print(selection_table(comparison))
    console.print(table(arguments.data, shown))
    context = {
        "data": arguments.data,
        "seeds": seeds,
        "quick": arguments.quick,
        "rows": {arm.figure: arm.name for arm in comparison.results},
        "chosen_among": {arm.name: cell["validation"] for arm, cell in comparison.tried.items()},
        "dataset": bench.dataset.artifact.artifact_id,
        "inputs": bench.dataset.manifest["inputs"],
    }
    document = json.dumps({"figures": figures_of(comparison.results), "context": context, "cells": shown}, indent=1)
    if arguments.json:
        write_atomic(arguments.json, document.encode())
    if arguments.evidence:
        write_evidence(
            ROOT / "docs" / "evidence" / f"sampling-{bench.data}",
            f"Sampling correction on {bench.data}",
            "Resolved configuration of exact logQ",
            bench.config(exact().overrides),
            shown,
            document,
            console,
        )


if __name__ == "__main__":
    main()
