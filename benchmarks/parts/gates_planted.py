"""Gates on ml-100k with planted fields: the arms, their penalties chosen on validation, and the rows that are left."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.parts.planted_fields import PLANTED, keep_frequent, plant_fields
from benchmarks.parts.retrieval_cells import SLICES, Cell, CellBench, mean, spread, values
from recsys.config import Config, load_config
from recsys.dataset_folder import DatasetFolder
from recsys.pipeline import Pipeline
from recsys.schema import FIRST_VALUE_ID

ROOT = Path(__file__).resolve().parent.parent.parent
USEFUL = ("genres", "title_words", "year")
PLANT_SEED = 1
SEARCH = {"final_temperature": 200, "search_epochs": 2, "rewind_epoch": 1, "learning_rate": 0.03}
"""A short search at a high rate decides in the first epoch, in which no event has been seen before: from the second on
what memorises events looks useful (OptFS specification, section 9, item 10). NOTES.md has what six epochs give."""
KAPPAS: dict[str, tuple[float, ...]] = {
    "field": (100, 300, 1000, 3000),
    "value-lazy": (1000, 3000, 10_000, 30_000),
    "value-dense": (10, 30, 100, 300),
}
"""The penalties that are tried for each mode, as multiples of 1 / training positives."""
SSL = "{method: cfm, weight: 0.3}"
TUNING_SEED = 1

NONE, ORACLE, NONE_SSL = "no gates", "no gates, without the planted fields", "no gates + CFM"
IDS = "no gates, ids alone"
FREQUENT = "as many of the most frequent values"


@dataclass(frozen=True)
class Arm:
    """One way of training on the planted data; `mode` None: no gates."""

    mode: str | None = None
    kappa: float = 0.0
    ssl: bool = False
    planted: bool = True
    useful: bool = True

    @property
    def name(self) -> str:
        """As the tables show it."""
        if self.mode is None:
            plain = NONE if self.planted else ORACLE if self.useful else IDS
            return NONE_SSL if self.ssl else plain
        return f"{self.mode} {self.kappa:g}{' + CFM' if self.ssl else ''}"

    def overrides(self) -> tuple[str, ...]:
        """The settings that make the arm."""
        planted = PLANTED if self.planted else ()
        items = (*(USEFUL if self.useful else ()), *(name for name in planted if name != "random_context"))
        queries = ("history", *(name for name in planted if name == "random_context"))
        settings = [f"model.item.features=[{', '.join(items)}]", f"model.query.features=[{', '.join(queries)}]"]
        if self.mode is not None:
            search = {"mode": self.mode, "kappa": self.kappa, "fields": [*USEFUL, *PLANTED], **SEARCH}
            settings.append(f"train.gates={json.dumps(search)}")
        if self.ssl:
            settings.append(f"train.ssl={SSL}")
        return tuple(settings)


class Bench:
    """The planted data set and its cells."""

    def __init__(self, folder: Path, console: Console, *, quick: bool) -> None:
        self.folder, self.console, self.quick = folder, console, quick
        pipeline = Pipeline(self.config(()), quiet=True)
        pipeline.ingest()
        self.source = DatasetFolder.open(pipeline.dataset_path)
        name = f"planted-{self.source.artifact.artifact_id[:12]}"
        self.dataset = plant_fields(self.source, folder / name, PLANT_SEED)

    def config(self, overrides: tuple[str, ...]) -> Config:
        """The shipped configuration with an arm's overrides."""
        short = ("train.epochs=1",) if self.quick else ()
        every = (f"workdir={self.folder}", "train.refit_on_validation=false", *short, *overrides)
        return load_config(ROOT / "configs" / "ml-100k.yaml", every)

    def cell(self, arm: Arm, seed: int) -> Cell:
        """Recall by slice of one arm with one seed, and the rows of its tables."""
        config = self.config(arm.overrides())
        bench = CellBench(self.dataset, self.folder, self.console)
        return bench.cell(arm.name, config.model, config.train, seed, rows_of)

    def most_frequent(self, gated: Cell, seed: int) -> Cell:
        """No gates on as many of the most frequent values of item fields as `gated` has rows left for."""
        fields = [*USEFUL, *(name for name in PLANTED if name != "random_context")]
        number = sum(gated["rows"][name]["values_kept"] for name in fields)
        path = self.folder / f"frequent-{self.dataset.artifact.artifact_id[:12]}-{number}"
        config = self.config(Arm().overrides())
        bench = CellBench(keep_frequent(self.dataset, path, fields, number), self.folder, self.console)
        return bench.cell(f"{FREQUENT} ({number})", config.model, config.train, seed)


def rows_of(trained: Path) -> dict[str, Any]:
    """By gated field the rows of its table before and in the export, and how many of its values are left."""
    import pyarrow.parquet as pq

    file = trained / "gates.json"
    if not file.is_file():
        return {}
    report = json.loads(file.read_text(encoding="utf-8"))
    found = {}
    for name, entry in report["fields"].items():
        table = report["tables"][entry["table"]]
        size = table["rows"] - FIRST_VALUE_ID
        by_value = trained / "gates" / f"{name}.parquet"
        kept = size if entry["open"] else 0
        if by_value.is_file():
            kept = int(np.sum(pq.read_table(by_value)["kept"].to_numpy()[FIRST_VALUE_ID - 1 :]))
        found[name] = {"before": table["rows"], "after": table["rows_exported"], "values": size, "values_kept": kept}
    return {"rows": found}


def choose(tried: Mapping[Arm, Cell], base: Cell) -> Arm:
    """By validation: the most recall@50 overall among those that lose no tail recall@50; else the most of the tail."""

    def at(cell: Cell, part: str) -> float:
        return cell["validation"][part]["recall@50"]

    keeping = [arm for arm, cell in tried.items() if at(cell, "tail") >= at(base, "tail")]
    if keeping:
        return max(keeping, key=lambda arm: at(tried[arm], "all"))
    return max(tried, key=lambda arm: at(tried[arm], "tail"))


def best_mode(results: Mapping[str, Sequence[Cell]], base: Sequence[Cell]) -> str:
    """The same choice among modes at their penalties, by the mean over seeds; the name of the arm."""

    def gain(name: str, part: str) -> float:
        return mean(results[name], "validation", part) - mean(base, "validation", part)

    keeping = [name for name in results if gain(name, "tail") >= 0]
    return max(keeping or results, key=lambda name: gain(name, "all" if keeping else "tail"))


def rows_ratio(cells: Sequence[Cell], fields: Sequence[str]) -> np.ndarray:
    """Rows in the exported tables of `fields` over rows before, `[seeds] float64`; 1 without gates."""
    return np.array(
        [
            sum(cell["rows"][name]["after"] for name in fields) / sum(cell["rows"][name]["before"] for name in fields)
            if "rows" in cell
            else 1.0
            for cell in cells
        ]
    )


def table(results: Mapping[str, Sequence[Cell]]) -> Table:
    """Test recall@50 by slice and the rows kept, mean ± standard deviation."""
    first = next(iter(results.values()))[0]["test"]
    queries = ", ".join(f"{part} {first[part]['queries']:,}" for part in SLICES.values())
    shown = Table(title=f"ml-100k with planted fields: test recall@50 and rows kept, mean ± deviation ({queries})")
    for column in ("arm", *SLICES.values(), "all@10", "rows", "of useful fields", "of planted fields"):
        shown.add_column(column)
    for name, cells in results.items():
        recall = [spread(values(cells, "test", part)) for part in SLICES.values()]
        gated = [spread(rows_ratio(cells, fields), 3) for fields in ((*USEFUL, *PLANTED), USEFUL, PLANTED)]
        shown.add_row(
            name, *recall, spread(values(cells, "test", "all", 10)), *(gated if "rows" in cells[0] else ["–"] * 3)
        )
    return shown


def tuning_table(tried: Mapping[str, Mapping[Arm, Cell]], base: Cell) -> Table:
    """Validation recall@50 of every penalty with the seed that chooses."""
    shown = Table(title=f"validation recall@50, seed {TUNING_SEED}: the penalty is chosen by all, if tail is kept")
    for column in ("arm", *SLICES.values(), *USEFUL, *PLANTED):
        shown.add_column(column)
    lines = [(NONE, base), *((arm.name, cell) for arms in tried.values() for arm, cell in arms.items())]
    for name, cell in lines:
        shares = [
            f"{cell['rows'][field]['values_kept'] / cell['rows'][field]['values']:.2f}" if "rows" in cell else "1"
            for field in (*USEFUL, *PLANTED)
        ]
        shown.add_row(name, *(f"{cell['validation'][part]['recall@50']:.4f}" for part in SLICES.values()), *shares)
    return shown


def figures_of(before: Sequence[Cell], after: Sequence[Cell]) -> dict[str, float]:
    """The issue's figures: test recall without gates and with the best, and rows kept."""
    found = {
        "rows_kept_ratio": float(rows_ratio(after, (*USEFUL, *PLANTED)).mean()),
        "noise_rows_kept_ratio": float(rows_ratio(after, PLANTED).mean()),
        "useful_rows_kept_ratio": float(rows_ratio(after, USEFUL).mean()),
    }
    for part in SLICES.values():
        name = "" if part == "all" else f"{part}_"
        found[f"{name}recall_at_50_before"] = mean(before, "test", part)
        found[f"{name}recall_at_50_after"] = mean(after, "test", part)
    return found
