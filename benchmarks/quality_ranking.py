"""How well the rankers predict on real data, without and with OptFS, beside a control: mean and spread over seeds.

Every cell (backbone, seed) is kept under runs/quality-ranking/ and skipped when it is there with equal settings; a cell
that was stopped goes on where it was. Settings were tuned on the validation part (docs/evidence/ranking-<data>).

    python benchmarks/quality_ranking.py --data frappe --seeds 3
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.code_state import CODE, RANKERS, code_state, trained_by
from benchmarks.parts.evidence import command, surroundings_line
from benchmarks.parts.planting import PLANTED, plant
from benchmarks.parts.ranking_cells import Cell, kept_ratio_of, run_cell
from benchmarks.parts.ranking_recipes import BACKBONES, PLANT_IN, RECIPES, Recipe
from recsys.artifacts import fingerprint, write_atomic
from recsys.config import load_config
from recsys.dataset_folder import DatasetFolder
from recsys.pipeline import Pipeline
from recsys.ranking.plots import ratio_against_auc

ROOT = Path(__file__).resolve().parent.parent
RUNS = Path("runs") / "quality-ranking"
QUICK = (
    "ranking.train.epochs=1",
    "ranking.gates.warmup_epochs=0",
    "ranking.gates.search_epochs=2",
    "ranking.gates.learning_rate=0.05",
)
RESULT_FORMAT = 2
NOTE = {
    "frappe": "train negatives resampled",
    "globo-news": "4 negatives a click, drawn from the articles clicked at about the same time",
}


def main() -> None:
    """Parse the command line, run the cells, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(RECIPES), default="frappe")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, two backbones: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/ranking-<data>/")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of TensorFlow (default: its own choice)")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        from recsys._tensorflow import tf

        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    console = Console(record=True, width=150)
    data, quick = arguments.data, arguments.quick
    backbones = ["lr", "fm"] if quick else arguments.backbones
    seeds = [1] if quick else list(range(1, arguments.seeds + 1))
    dataset = data_of(data, quick=quick)
    results = {}
    for seed in seeds:
        for backbone in backbones:
            first = [one for one in results.get(backbone, ()) if "kappa" in one][:1]
            chosen = sorted({kappa for one in first for kappa in (one["kappa"], one["knee"]["kappa"])})
            result = cell_of(data, dataset, backbone, seed, chosen, quick=quick)
            results.setdefault(backbone, []).append(result)
            console.print(f"[dim]{data} {backbone} seed {seed}: {result['seconds']:.0f} s[/dim]", highlight=False)
    noise = [name for name in dataset.manifest["notes"].get("noise_fields", "").split(", ") if name]
    table, figures = summarise(data, results, {"planted": [PLANTED], "noise": noise})
    for one in (table, kept_by_field(results), against_truth_table(results)):
        if one is not None:
            console.print(one)
    context = {
        "data": data,
        "note": NOTE.get(data, ""),
        "seeds": seeds,
        "quick": quick,
        "dataset": dataset.artifact.artifact_id,
        "dataset_inputs": dataset.manifest["inputs"],
        "published": RECIPES[data].published,
        "cells": results,
    }
    document = json.dumps({"figures": figures, "context": context}, indent=1).encode()
    if arguments.json:
        write_atomic(arguments.json, document)
    if arguments.evidence:
        write_evidence(data, results, document, console)


def data_of(data: str, *, quick: bool) -> DatasetFolder:
    """The data set of a recipe, made where it is not there; with the planted field where the recipe has one."""
    recipe = RECIPES[data]
    workdir = RUNS / ("quick" if quick else "full") / data
    overrides = (f"workdir={workdir}", *recipe.data, *(recipe.quick_data if quick else ()))
    pipeline = Pipeline(load_config(ROOT / "configs" / recipe.config, overrides), quiet=True)
    pipeline.ingest()
    dataset = DatasetFolder.open(pipeline.dataset_path)
    if data not in PLANT_IN:
        return dataset
    return plant(dataset, workdir / f"planted-{dataset.artifact.artifact_id[:12]}", seed=1)


def settings_of(recipe: Recipe, backbone: str, seed: int, *, quick: bool) -> Any:
    """The resolved configuration of a cell."""
    overrides = [f"seed={seed}", "ranking={}", *recipe.data, *recipe.ranking, f"ranking.model.backbone={backbone}"]
    overrides += recipe.backbones.get(backbone, ())
    if quick:
        overrides += QUICK
    if backbone == "lr":
        overrides.append("ranking.gates=null")
    return load_config(ROOT / "configs" / recipe.config, tuple(overrides))


def cell_of(
    data: str, dataset: DatasetFolder, backbone: str, seed: int, chosen: Sequence[float], *, quick: bool
) -> dict[str, Any]:
    """A cell's result; the first seed tries the recipe's kappas, later ones take what it `chosen`."""
    recipe = RECIPES[data]
    config = settings_of(recipe, backbone, seed, quick=quick).ranking
    kappas = tuple(chosen) or recipe.kappas.get(backbone, recipe.kappas.get("all", ()))
    kappas = kappas[:1] if quick else kappas
    folder = RUNS / ("quick" if quick else "full") / data / backbone / f"seed-{seed}"
    key = fingerprint([RESULT_FORMAT, dataset.artifact.artifact_id, config.model_dump(mode="json"), kappas])
    path = folder / "result.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    raw = RUNS / ("quick" if quick else "full") / data / "raw"  # where the simulator writes its logs
    cell = Cell(dataset, config, seed, kappas, folder / "checkpoints", raw if raw.is_dir() else None)
    result = {"key": key, CODE: code_state(*RANKERS, "benchmarks/parts/ranking_cells.py")} | run_cell(cell)
    write_atomic(path, json.dumps(result, indent=1).encode())
    return result


def summarise(
    data: str, results: dict[str, list[dict[str, Any]]], meaningless: Mapping[str, Sequence[str]]
) -> tuple[Table, dict[str, float]]:
    """The table of all backbones and the figures of the run; `meaningless` names fields that ought to be closed."""
    published = RECIPES[data].published
    note = f", {NOTE[data]}" if data in NOTE else ""
    table = Table(
        title=f"{data}: test AUC{note}",
        caption="mean ± standard deviation over seeds; kept: share of the values; frequent: as many of the most "
        "frequent ones; knee: smallest set of about the best validation AUC; log loss as trained / calibrated",
    )
    headings = ("model", "AUC", "published", "OptFS", "frequent", "kept", "gAUC", "OptFS", "log loss", "OptFS")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    figures: dict[str, float] = {}
    for backbone, cells in results.items():
        columns = {
            "auc": [one["plain"]["auc"] for one in cells],
            "gauc": [one["plain"]["gauc"] for one in cells],
            "log_loss": [one["plain"]["log_loss"] for one in cells],
            "calibrated_log_loss": [one["plain"].get("calibrated_log_loss", np.nan) for one in cells],
        }
        if "optfs" in cells[0]:
            columns |= {
                "optfs_auc": [one["optfs"]["auc"] for one in cells],
                "optfs_gauc": [one["optfs"]["gauc"] for one in cells],
                "optfs_log_loss": [one["optfs"]["log_loss"] for one in cells],
                "optfs_calibrated_log_loss": [one["optfs"].get("calibrated_log_loss", np.nan) for one in cells],
                "optfs_kept_ratio": [one["kept_ratio"] for one in cells],
                "frequency_control_auc": [one["frequency"]["auc"] for one in cells],
                "knee_optfs_auc": [one["knee"]["optfs"]["auc"] for one in cells],
                "knee_kept_ratio": [one["knee"]["kept_ratio"] for one in cells],
                "knee_frequency_control_auc": [one["knee"]["frequency"]["auc"] for one in cells],
            }
        for name in ("plain", "optfs"):
            told = [one[name]["truth"] for one in cells if "truth" in one.get(name, {})]
            for figure in ("auc", "bayes_auc", "mean_absolute_gap", "excess_log_loss"):
                if told:
                    figures[f"{backbone}_{name}_truth_{figure}"] = float(np.mean([one[figure] for one in told]))
        for name, values in columns.items():
            figures[f"{backbone}_{name}"] = float(np.mean(values))
            if len(values) > 1 and name.endswith("auc"):
                figures[f"{backbone}_{name}_std"] = float(np.std(values, ddof=1))
        for name, fields in meaningless.items():
            kept = kept_ratio_of(cells, fields)
            if kept is not None:
                figures[f"{backbone}_{name}_kept_ratio"] = kept
        table.add_row(
            backbone,
            _spread(columns["auc"]),
            f"{published[backbone]:.4f}" if backbone in published else "–",
            *(_spread(columns.get(name, [])) for name in ("optfs_auc", "frequency_control_auc")),
            _spread(columns.get("optfs_kept_ratio", []), 3),
            *(_spread(columns.get(name, [])) for name in ("gauc", "optfs_gauc")),
            *(
                f"{np.mean(columns[f'{arm}log_loss']):.4f} / {np.mean(columns[f'{arm}calibrated_log_loss']):.4f}"
                if f"{arm}log_loss" in columns
                else "–"
                for arm in ("", "optfs_")
            ),
        )
        if "knee_optfs_auc" in columns and columns["knee_kept_ratio"] != columns["optfs_kept_ratio"]:
            knee = (_spread(columns[name]) for name in ("knee_optfs_auc", "knee_frequency_control_auc"))
            table.add_row("  at the knee", "", "", *knee, _spread(columns["knee_kept_ratio"], 3), style="dim")
    return table, figures


def kept_by_field(results: dict[str, list[dict[str, Any]]]) -> Table | None:
    """Of each field, the share of its training values that each backbone keeps: mean over seeds."""
    found = {backbone: [one["fields"] for one in cells] for backbone, cells in results.items() if "fields" in cells[0]}
    if not found:
        return None
    table = Table(title="Share of each field's values that OptFS keeps", caption="mean over seeds")
    for heading in ("field", "values", *found):
        table.add_column(heading, justify="left" if heading == "field" else "right")
    for name, part in next(iter(found.values()))[0].items():
        shares = [
            np.mean([cell[name]["kept"] / max(cell[name]["values"], 1) for cell in cells]) for cells in found.values()
        ]
        table.add_row(name, f"{part['values']:,}", *(f"{share:.3f}" for share in shares))
    return table


def against_truth_table(results: dict[str, list[dict[str, Any]]]) -> Table | None:
    """Every backbone beside the true probabilities, where the data has them (the simulator)."""
    if "truth" not in next(iter(results.values()))[0]["plain"]:
        return None
    table = Table(
        title="Against the true probabilities (after Platt's calibration)",
        caption="gap: mean |predicted - true|; calibration: mean over 15 bins of |mean predicted - mean true|; "
        "divergence in nats; mean ± standard deviation over seeds",
    )
    for heading in ("model", "AUC", "Bayes limit", "gap", "calibration", "divergence"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for backbone, cells in results.items():
        for arm in ("plain", "optfs"):
            told = [one[arm]["truth"] for one in cells if arm in one]
            if not told:
                continue
            table.add_row(
                backbone if arm == "plain" else "  OptFS",
                *(_spread([one[name] for one in told]) for name in ("auc", "bayes_auc", "mean_absolute_gap")),
                _spread([true_calibration_error(one["calibration"]) for one in told]),
                _spread([one["excess_log_loss"] for one in told]),
            )
    return table


def true_calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Mean over rows of |mean predicted - mean true probability| of their bin."""
    rows = sum(one["rows"] for one in bins)
    return sum(one["rows"] * abs(one["predicted"] - one["true"]) for one in bins) / rows


def _spread(values: Sequence[float], digits: int = 4) -> str:
    if not len(values):
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _told(found: Mapping[str, float]) -> list[str]:
    return [f"{found[name]:.4f}" for name in ("auc", "gauc", "log_loss")]


def write_evidence(data: str, results: dict[str, list[dict[str, Any]]], document: bytes, console: Console) -> None:
    """Command, resolved configurations, checksums, a table by seed, the curves and the log, under docs/evidence/."""
    folder = ROOT / "docs" / "evidence" / f"ranking-{data}"
    lines = [
        f"# Rankers on {data}" + (f" ({NOTE[data]})" if data in NOTE else ""),
        "",
        f"    {command()}",
        "",
        "Checksums of the raw files, every cell and every set of values tried are in figures.json, the resolved "
        "configuration of each backbone in config.yaml. How the settings were found: tuning.md. Seconds are of the "
        "last run of a cell, as is the code: phases that an earlier run had ended are read back, not trained again.",
        "",
        surroundings_line(),
        trained_by(one for cells in results.values() for one in cells),
        "",
        "| model | seed | AUC | gAUC | log loss | OptFS AUC | gAUC | log loss | kept | frequent, AUC | kappa | epochs "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for backbone, cells in results.items():
        for one in cells:
            cut = ["–"] * 6
            if "optfs" in one:
                cut = [*_told(one["optfs"]), f"{one['kept_ratio']:.3f}", f"{one['frequency']['auc']:.4f}"]
                cut.append(f"{one['kappa']:g}")
            row = [backbone, str(one["seed"]), *_told(one["plain"]), *cut, str(one["epochs"]), f"{one['seconds']:.0f}"]
            lines.append(f"| {' | '.join(row)} |")
        if len(cells[0]["sets"]) > 1:
            write_atomic(folder / f"{backbone}.svg", ratio_against_auc(cells[0]["sets"]).encode())
    lines.append("")
    for backbone, cells in results.items():
        if len(cells[0]["sets"]) > 1:
            lines.append(f"![{backbone}: validation AUC against the share of values kept, seed 1]({backbone}.svg)")
    lines += ["", "What was printed:", "", "```", console.export_text().rstrip(), "```", ""]
    write_atomic(folder / "README.md", "\n".join(lines).encode())
    write_atomic(folder / "figures.json", document)
    configs = {one: settings_of(RECIPES[data], one, 1, quick=False).model_dump(mode="json") for one in results}
    resolved = yaml.safe_dump(configs, sort_keys=False)
    if "RECSYS_DATA" in os.environ:  # where data lies on one machine says nothing to another
        resolved = resolved.replace(os.environ["RECSYS_DATA"], "${RECSYS_DATA}")
    write_atomic(folder / "config.yaml", resolved.encode())


if __name__ == "__main__":
    main()
