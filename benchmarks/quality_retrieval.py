"""How well the two-tower model retrieves on real data, beside the baselines: mean and spread over seeds.

Runs the whole road (ingest, train, index, evaluate) with configs/<data>.yaml for each seed under runs/quality/. What is
already made is skipped, so a run that was stopped goes on where it was.

    python benchmarks/quality_retrieval.py --data ml-100k --seeds 3
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.code_state import CODE, TOWERS, code_state, trained_by  # noqa: E402
from benchmarks.parts.evidence import command, surroundings_line  # noqa: E402
from recsys.artifacts import write_atomic  # noqa: E402
from recsys.config import Config, load_config  # noqa: E402
from recsys.evaluation.table import label  # noqa: E402
from recsys.pipeline import Made, Pipeline  # noqa: E402

DATA = ("ml-100k", "globo-news", "gowalla")
CUT_OFF = {"gowalla": 20}
DEFAULT_CUT_OFF = 50
SLICES = {"overall": "", "new_users": ", new users"}

PUBLISHED = {
    "gowalla": {
        "ItemCF": (0.1570, 0.1214),
        "MF-BPR": (0.1627, 0.1378),
        "YoutubeDNN": (0.1754, 0.1473),
        "EASE^R": (0.1765, 0.1467),
        "LightGCN": (0.1824, 0.1547),
        "SimpleX": (0.1872, 0.1557),
    }
}
"""recall@20 and NDCG@20 of the BARS leaderboard on the same split, embedding 64 (openbenchmark.github.io/BARS)."""

BASELINES_APART = {
    "gowalla": (
        "ingest.split.validation=0.1",
        "evaluate.fit_on=training_and_validation",
        "evaluate.baselines=[popularity, item_knn, als]",
        "model.embedding_dim=8",
        "model.output_dim=8",
        "model.item_audience=false",
        "train.epochs=1",
    )
}
"""Where the shipped configuration trains on all that is given, nothing is left to tune the baselines on: they are tuned
on a tenth of the training pairs in a run of their own, then fitted on all pairs. That run's model is not shown."""

QUICK = (
    "train.epochs=1",
    "evaluate.max_queries=1000",
    "evaluate.tuning_queries=500",
    "evaluate.bootstrap=100",
    "evaluate.baselines=[popularity, item_knn]",
)


def main() -> None:
    """Parse the command line, run the seeds, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, few queries: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/retrieval-<data>/")
    arguments = parser.parse_args()
    console = Console(record=True)
    seeds = [1] if arguments.quick else list(range(1, arguments.seeds + 1))
    results = [run_seed(arguments.data, seed, console, quick=arguments.quick) for seed in seeds]
    if arguments.data in BASELINES_APART and not arguments.quick:
        apart = run_seed(arguments.data, seeds[0], console, quick=False, apart=True)
        results[0]["metrics"]["models"] |= without_ours(apart)
    table, figures = summarise(arguments.data, results)
    console.print(table)
    context = {
        "data": arguments.data,
        "seeds": seeds,
        "quick": arguments.quick,
        "dataset_inputs": results[0]["inputs"],
        "protocol": results[0]["metrics"]["protocol"],
    }
    if arguments.json:
        write_atomic(arguments.json, json.dumps({"figures": figures, "context": context}, indent=1).encode())
    if arguments.evidence:
        write_evidence(arguments.data, results, figures, context, console)


def seed_config(data: str, seed: int, *, quick: bool, apart: bool = False) -> Config:
    """The shipped configuration in a workdir of the seed's own. Baselines run with the first seed only, or `apart`."""
    folder = Path("runs") / ("quality-quick" if quick else "quality") / data
    workdir = folder / ("baselines" if apart else f"seed-{seed}")
    overrides = [f"seed={seed}", f"workdir={workdir}"]
    if quick:
        overrides += QUICK
    if apart:
        overrides += BASELINES_APART[data]
    elif seed != 1 or (data in BASELINES_APART and not quick):
        overrides.append("evaluate.baselines=[]")
    return load_config(ROOT / "configs" / f"{data}.yaml", tuple(overrides))


def without_ours(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of the baselines of a run."""
    metrics = result["metrics"]
    return {name: figures for name, figures in metrics["models"].items() if name != metrics["ours"]}


def run_seed(data: str, seed: int, console: Console, *, quick: bool, apart: bool = False) -> dict[str, Any]:
    """All stages of one seed; returns its metrics, resolved configuration, inputs' checksums and minutes."""
    config = seed_config(data, seed, quick=quick, apart=apart)
    pipeline = Pipeline(config)
    spent_file = config.workdir / "seconds.json"
    code_file, state = config.workdir / "code.json", code_state(*TOWERS)
    spent = json.loads(spent_file.read_text()) if spent_file.is_file() else {}

    def tell(made: Made) -> None:
        if made.seconds is not None:
            spent[made.stage] = made.seconds
            if made.stage == "train":
                write_atomic(code_file, json.dumps(state).encode())
            write_atomic(spent_file, json.dumps(spent).encode())
        run = "baselines" if apart else f"seed {seed}"
        console.print(f"[dim]{data} {run}: {made.stage} {spent.get(made.stage, 0.0):.0f} s[/dim]", highlight=False)

    pipeline.run(tell)
    dataset = json.loads((pipeline.dataset_path / "manifest.json").read_text())
    return {
        "seed": seed,
        "metrics": pipeline.metrics(),
        "config": config.model_dump(mode="json"),
        "inputs": dataset["inputs"],
        **({CODE: json.loads(code_file.read_text())} if code_file.is_file() else {}),
        "minutes": sum(spent.values()) / 60,
    }


def values(results: Sequence[dict[str, Any]], model: str, slice_name: str, metric: str) -> np.ndarray:
    """One figure of every seed that measured the model, `[seeds]`; empty where the slice has no queries."""
    found = []
    for result in results:
        figures = result["metrics"]["models"].get(model, {}).get("slices", {}).get(slice_name, {})
        if metric in figures:
            found.append(figures[metric]["value"])
    return np.array(found)


def tuned(data: str) -> str:
    """How the baselines got their settings."""
    return "tuned on a tenth of the training pairs, fitted on all" if data in BASELINES_APART else "tuned on validation"


def summarise(data: str, results: Sequence[dict[str, Any]]) -> tuple[Table, dict[str, float]]:
    """The table of all models and the figures of the run."""
    first = results[0]["metrics"]
    k, ours = CUT_OFF.get(data, DEFAULT_CUT_OFF), first["ours"]
    metrics = {f"recall@{k}": "recall", f"ndcg@{k}": "ndcg"}
    shown = [name for name in SLICES if len(values(results, ours, name, f"recall@{k}"))]
    table = Table(
        title=f"{data}: {first['data']['queries']:,} queries over {first['data']['items']:,} items",
        caption=f"ours: mean ± standard deviation of {len(results)} seed(s); baselines: {tuned(data)}",
    )
    table.add_column("model")
    for name in shown:
        for metric in metrics:
            table.add_column(f"{metric.replace('ndcg', 'NDCG')}{SLICES[name]}", justify="right")
    for model in first["models"]:
        cells = []
        for name in shown:
            for metric in metrics:
                found = values(results, model, name, metric)
                spread = f" ± {found.std(ddof=1):.4f}" if len(found) > 1 else ""
                cells.append(f"{found.mean():.4f}{spread}" if len(found) else "–")
        table.add_row(label(model), *cells, style="bold cyan" if model == ours else None)
    for name, published in PUBLISHED.get(data, {}).items():
        table.add_row(f"{name} (published)", *(f"{value:.4f}" for value in published), style="dim")
    return table, _figures(results, k, ours, metrics, shown)


def _figures(
    results: Sequence[dict[str, Any]], k: int, ours: str, metrics: dict[str, str], shown: Sequence[str]
) -> dict[str, float]:
    baselines = [model for model in results[0]["metrics"]["models"] if model != ours]
    figures: dict[str, float] = {"minutes": sum(result["minutes"] for result in results)}
    for name in shown:
        suffix = "" if name == "overall" else f"_{name}"
        for metric, short in metrics.items():
            mine = values(results, ours, name, metric)
            figures[f"{short}_at_{k}{suffix}"] = float(mine.mean())
            if len(mine) > 1:
                figures[f"{short}_at_{k}{suffix}_std"] = float(mine.std(ddof=1))
            others = [float(found.mean()) for one in baselines if len(found := values(results, one, name, metric))]
            if others:
                figures[f"best_baseline_{short}_at_{k}{suffix}"] = max(others)
    return figures


def write_evidence(
    data: str, results: Sequence[dict[str, Any]], figures: dict[str, float], context: dict[str, Any], console: Console
) -> None:
    """Command, resolved configuration, checksums, a table by seed and the log, under docs/evidence/."""
    folder = ROOT / "docs" / "evidence" / f"retrieval-{data}"
    k = CUT_OFF.get(data, DEFAULT_CUT_OFF)
    ours = results[0]["metrics"]["ours"]
    lines = [
        f"# Retrieval quality on {data}",
        "",
        f"    {command()}",
        "",
        "Checksums of the raw files and the figures are in figures.json, the resolved configuration of seed 1 in "
        "config.yaml (the other seeds differ in `seed`, `workdir` and in leaving the baselines out). How the "
        "recipe was found, and how far to trust the result: NOTES.md.",
        "",
        surroundings_line(),
        trained_by(results),
        *(
            ["", f"Baselines: a run of their own with `{' '.join(BASELINES_APART[data])}`."]
            if data in BASELINES_APART
            else []
        ),
        "",
        f"| seed | recall@{k} | NDCG@{k} | recall@{k}, new users | minutes |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        cells = [
            f"{found[0]:.4f}" if len(found := values([result], ours, name, metric)) else "–"
            for name, metric in (("overall", f"recall@{k}"), ("overall", f"ndcg@{k}"), ("new_users", f"recall@{k}"))
        ]
        lines.append(f"| {result['seed']} | {' | '.join(cells)} | {result['minutes']:.1f} |")
    lines += ["", "What was printed:", "", "```", console.export_text().rstrip(), "```", ""]
    write_atomic(folder / "README.md", "\n".join(lines).encode())
    write_atomic(folder / "figures.json", json.dumps({"figures": figures, "context": context}, indent=1).encode())
    write_atomic(folder / "config.yaml", yaml.safe_dump(results[0]["config"], sort_keys=False).encode())


if __name__ == "__main__":
    main()
