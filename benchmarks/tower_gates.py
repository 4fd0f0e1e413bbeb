"""Gates in the towers: noise closed, rows left, and recall of all and of the tail before and after.

`ml-100k`: fields that mean nothing are planted beside genres, title words and year (parts/planted_fields.py). A mode's
penalty is the one with the most validation recall@50 that loses no tail recall there; so is the best mode. `synthetic`:
the measurement of the OptFS specification, section 11, beside its figures. Cells are kept under runs/tower-gates/, so a
run that was stopped goes on.

    python benchmarks/tower_gates.py [--data ml-100k|synthetic] [--seeds 3] [--quick] [--json FILE] [--evidence]
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts import gates_planted as planted  # noqa: E402
from benchmarks.parts import gates_synthetic_grid as synthetic  # noqa: E402
from benchmarks.parts.code_state import trained_by  # noqa: E402
from benchmarks.parts.evidence import surroundings_line  # noqa: E402
from benchmarks.parts.gates_planted import FREQUENT, IDS, KAPPAS, NONE, NONE_SSL, ORACLE, TUNING_SEED, Arm  # noqa: E402
from benchmarks.parts.planted_fields import PLANTED  # noqa: E402
from benchmarks.parts.retrieval_cells import CUT_OFFS, SLICES, Cell  # noqa: E402
from recsys.artifacts import write_atomic  # noqa: E402

RUNS = Path("runs") / "tower-gates"
DATA = ("ml-100k", "synthetic")


def main() -> None:
    """Run the missing cells, print the tables, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default=DATA[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--quick", action="store_true", help="two arms, one seed, one epoch: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/tower-gates/")
    arguments = parser.parse_args()
    os.environ.setdefault("RECSYS_DATA", str(ROOT.parent / "shared" / "data"))
    console = Console(record=True, width=200)
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    run = on_synthetic if arguments.data == "synthetic" else on_planted
    document, by_seed, config = run(seeds, arguments.quick, console)
    by_seed += ["", surroundings_line(), trained_by(cell for cells in document["cells"].values() for cell in cells)]
    text = json.dumps(document, indent=1)
    if arguments.json:
        write_atomic(arguments.json, text.encode())
    if arguments.evidence:
        write_evidence(arguments.data, text, by_seed, config, console)


def on_synthetic(seeds: list[int], quick: bool, console: Console) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """The specification's arms beside its figures, and the checks of what it says of them."""
    results = synthetic.run_grid(seeds, RUNS / "synthetic" / "cells", console, quick=quick)
    console.print(synthetic.table(results, quick=quick))
    checks = [] if quick else synthetic.checks(results)
    for text, holds in checks:
        console.print(f"{'[green]holds[/green]' if holds else '[red]DOES NOT HOLD[/red]'}  {text}", highlight=False)
    after = synthetic.LAZY
    figures = {
        "tail_recall_at_50_before": synthetic.mean(results, synthetic.NONE, "tail@50"),
        "tail_recall_at_50_after": synthetic.mean(results, after, "tail@50"),
        "recall_at_50_before": synthetic.mean(results, synthetic.NONE, "all@50"),
        "recall_at_50_after": synthetic.mean(results, after, "all@50"),
        "rows_kept_ratio": synthetic.rows_ratio(results, after),
        "noise_rows_kept_ratio": synthetic.rows_ratio(results, after, noise=True),
    }
    context = {"data": "synthetic", "arm_after": after, "seeds": seeds, "quick": quick}
    context["checks"] = {text: bool(holds) for text, holds in checks}
    names = synthetic.keys()
    lines = [f"| arm | seed | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for name, cells in results.items():
        for seed, cell in zip(seeds, cells, strict=True):
            lines.append(f"| {name} | {seed} | {' | '.join(f'{cell.get(key, 1.0):.3f}' for key in names)} |")
    return {"figures": figures, "context": context, "cells": results}, lines, synthetic.settings()


def on_planted(seeds: list[int], quick: bool, console: Console) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Each mode at the penalty that validation chose, with and without self-supervision, and the controls."""
    bench = planted.Bench(RUNS / "ml-100k", console, quick=quick)
    base = bench.cell(Arm(), TUNING_SEED)
    grid = {"field": KAPPAS["field"][:1]} if quick else KAPPAS
    tried = {
        mode: {Arm(mode, kappa): bench.cell(Arm(mode, kappa), TUNING_SEED) for kappa in grid[mode]} for mode in grid
    }
    console.print(planted.tuning_table(tried, base))
    chosen = [planted.choose(cells, base) for cells in tried.values()]
    arms = {arm.name: arm for arm in chosen}
    dense = next((arm for arm in chosen if arm.mode == "value-dense"), None)
    arms = {NONE: Arm(), **arms}
    if dense is not None:
        with_ssl = replace(dense, ssl=True)
        ids = Arm(planted=False, useful=False)
        arms |= {ORACLE: Arm(planted=False), IDS: ids, NONE_SSL: Arm(ssl=True), with_ssl.name: with_ssl}
    results: dict[str, list[Cell]] = {name: [bench.cell(arm, seed) for seed in seeds] for name, arm in arms.items()}
    best = planted.best_mode({arm.name: results[arm.name] for arm in chosen}, results[NONE])
    if dense is not None:
        control = [bench.most_frequent(cell, seed) for cell, seed in zip(results[dense.name], seeds, strict=True)]
        results[f"{FREQUENT} as {dense.name}"] = control
    console.print(planted.table(results))
    console.print(f"best mode by validation: {best}", highlight=False)
    context = {
        "data": "ml-100k",
        "planted": list(PLANTED),
        "best": best,
        "seeds": seeds,
        "quick": quick,
        "dataset": bench.source.artifact.artifact_id,
        "planted_dataset": bench.dataset.artifact.artifact_id,
        "inputs": bench.source.manifest["inputs"],
    }
    document = {
        "figures": planted.figures_of(results[NONE], results[best]),
        "context": context,
        "cells": results,
        "tuning": {arm.name: cell for cells in tried.values() for arm, cell in cells.items()},
    }
    keys = [(part, k) for k in CUT_OFFS for part in SLICES.values()]
    lines = [f"| arm | seed | {' | '.join(f'{part}@{k}' for part, k in keys)} | rows | of planted fields |"]
    lines.append("|---" * (len(keys) + 4) + "|")
    for name, cells in results.items():
        for seed, cell in zip(seeds, cells, strict=True):
            row = " | ".join(f"{cell['test'][part][f'recall@{k}']:.4f}" for part, k in keys)
            rows = [planted.rows_ratio([cell], fields)[0] for fields in ((*planted.USEFUL, *PLANTED), PLANTED)]
            lines.append(f"| {name} | {seed} | {row} | {rows[0]:.3f} | {rows[1]:.3f} |")
    return document, lines, bench.config(arms[best].overrides()).model_dump(mode="json")


def write_evidence(data: str, document: str, by_seed: list[str], config: dict[str, Any], console: Console) -> None:
    """Command, resolved configuration, checksums, a table by seed and the log, under docs/evidence/tower-gates/."""
    folder = ROOT / "docs" / "evidence" / "tower-gates"
    lines = [
        f"# Gates in the towers: {data}",
        "",
        f"    python benchmarks/tower_gates.py {' '.join(sys.argv[1:])}",
        "",
        f"Settings: {data}.yaml. All figures, those of validation and the checksums too: {data}.json. What the figures "
        "say: NOTES.md.",
        "",
        *by_seed,
        "",
        "What was printed:",
        "",
        "```",
        console.export_text().rstrip(),
        "```",
        "",
    ]
    write_atomic(folder / f"{data}.md", "\n".join(lines).encode())
    there = [name for name in DATA if (folder / f"{name}.md").is_file()]
    index = ["# Gates in the towers", "", *(f"- [{name}]({name}.md)" for name in there), "- [notes](NOTES.md)", ""]
    write_atomic(folder / "README.md", "\n".join(index).encode())
    write_atomic(folder / f"{data}.json", document.encode())
    # The folder of data as a variable: where it lies on one machine says nothing to another.
    resolved = yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False)
    resolved = resolved.replace(os.environ["RECSYS_DATA"], "${RECSYS_DATA}")
    write_atomic(folder / f"{data}.yaml", resolved.encode())


if __name__ == "__main__":
    main()
