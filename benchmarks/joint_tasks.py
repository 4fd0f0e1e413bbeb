"""Click and conversion by one ranker on shared gates, beside two rankers of their own: what sharing is worth.

A simulated shop, whose conversions have a truth. `joint` learns both (`ranking.tasks`); `two` are a ranker of the
clicks, and one of the conversions that is trained on the clicked rows alone, each with its own table and its own gates;
both without gates and with a search. Measured on test at the neutral position, as serving scores: AUC of the click over
all impressions, of the conversion over the clicked ones, and of the conversion over all impressions (the product of
both probabilities); and of the true probabilities themselves. Each seed is another shop and other initial weights.

    python benchmarks/joint_tasks.py [--seeds N] [--quick] [--json F] [--evidence]
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.evidence import write_speed_evidence  # noqa: E402
from recsys.artifacts import write_artifact, write_atomic  # noqa: E402
from recsys.config import Config, load_config  # noqa: E402
from recsys.config.ranking import RankingConfig  # noqa: E402
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder  # noqa: E402
from recsys.pipeline import Pipeline  # noqa: E402
from recsys.ranking.calibration import sigmoid  # noqa: E402
from recsys.ranking.examples import Examples, split_examples  # noqa: E402
from recsys.ranking.live import LiveRanker  # noqa: E402
from recsys.ranking.metrics import auc  # noqa: E402
from recsys.ranking.tasks import CLICK  # noqa: E402
from recsys.ranking.truth import true_probabilities  # noqa: E402
from recsys.ranking.workbench import Workbench  # noqa: E402
from recsys.retrieval.checkpoints import CheckpointFolder  # noqa: E402
from recsys.schema import LABEL, SPLITS  # noqa: E402

TASK = "conversion"
FIGURES = ("click_auc", "conversion_given_click_auc", "conversion_auc")
DATA = ("data.impressions=200000",)
QUICK = ("data.impressions=30000", "data.users=300", "data.items=100", "ranking.gates.learning_rate=0.03")
CLICKED_BATCH = 512
"""The conversion's own ranker has a third of the rows: batches in proportion, so that it takes as many steps."""


def main() -> None:
    """Run the missing seeds, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny shop, one seed: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help="write docs/evidence/ranking-joint-tasks/")
    arguments = parser.parse_args()
    seeds = list(range(1, 2 if arguments.quick else arguments.seeds + 1))
    cells = [one_seed(seed, arguments.quick) for seed in seeds]
    arms = [name for name in cells[0] if name != "truth"]
    figures = {
        f"{arm.replace(' ', '_')}_{figure}": float(np.mean([cell[arm][figure] for cell in cells]))
        for arm in (*arms, "truth")
        for figure in FIGURES
    }
    console = Console(record=True, width=140)
    console.print(shown(cells, arms))
    document = {"figures": figures, "context": {"seeds": seeds, "quick": arguments.quick}, "cells": cells}
    if arguments.json:
        write_atomic(arguments.json, json.dumps(document, indent=1).encode())
    if arguments.evidence:
        notes = "Mean over the seeds ± their standard deviation. Notes: NOTES.md."
        title = "Click and conversion on shared gates beside two rankers"
        write_speed_evidence("ranking-joint-tasks", title, notes, console.export_text(), document)


def one_seed(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """The figures of all arms for one seed, read back where they are there already."""
    folder = Path("runs") / "joint-tasks" / f"{'quick-' if quick else ''}seed-{seed}"
    done = folder / "figures.json"
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    overrides = (*(QUICK if quick else DATA), f"workdir={folder}", f"seed={seed}")
    config = load_config(ROOT / "configs" / "simulated-conversions.yaml", overrides)
    pipeline = Pipeline(config, quiet=True)
    pipeline.ingest()
    dataset = DatasetFolder.open(pipeline.dataset_path)
    clicked = clicked_rows(dataset, folder / "clicked")
    found = {"truth": _truth(dataset, pipeline.workdir / "raw")}
    assert config.ranking is not None
    for gates in (False, True):
        name = "gates" if gates else "plain"
        joint = _ranking(config, gates=gates, joint=True)
        click, conversion = (_ranking(config, gates=gates, joint=False, own=own) for own in (False, True))
        both = Arm(dataset, joint, seed, folder / f"joint-{name}")
        apart = [
            Arm(dataset, click, seed, folder / f"click-{name}"),
            Arm(clicked, conversion, seed, folder / f"conversion-{name}"),
        ]
        test = both.test_at_neutral(dataset, config)
        logits = both.logits(test)
        found[f"joint {name}"] = _measured(test, logits[CLICK], logits[TASK], [both])
        first, second = (arm.logits(test)[CLICK] for arm in apart)
        found[f"two {name}"] = _measured(test, first, second, apart)
    write_atomic(done, json.dumps(found, indent=1).encode())
    return found


class Arm:
    """One ranker, trained: without gates, or by a search and training on what it kept."""

    def __init__(self, dataset: DatasetFolder, config: RankingConfig, seed: int, folder: Path) -> None:
        self.bench = Workbench(dataset, config, seed, CheckpointFolder(folder, "joint-tasks"))
        started, gates = time.perf_counter(), config.gates
        if gates is None:
            outcome = self.bench.train("train")
            self.kept, self.values = 1.0, int(self.bench.values.sum())
        else:
            searched = self.bench.search("search", gates)
            outcome = self.bench.train("train", gates, searched.gates, searched.rewind)
            self.kept = self.bench.kept_ratio(searched.gates, gates)
            self.values = int((self.bench.kept_rows(searched.gates, gates) & self.bench.values).sum())
        self.seconds = time.perf_counter() - started
        self.live = LiveRanker(self.bench.ranker(outcome, gates))

    def logits(self, examples: Examples) -> Mapping[str, np.ndarray]:
        """By task."""
        return self.live.every(examples.features)

    def test_at_neutral(self, dataset: DatasetFolder, config: Config) -> Examples:
        """The test rows, each as if shown at the neutral position."""
        assert config.ranking is not None and config.ranking.position is not None
        examples = split_examples(self.bench.maker, "test", config.seed)
        name, raw = config.ranking.position.field, config.ranking.position.neutral
        examples.features[name][:] = dataset.vocabulary(name).encode(pa.array([raw]))[0]
        return examples


def _ranking(config: Config, *, gates: bool, joint: bool, own: bool = False) -> RankingConfig:
    """The configuration's ranker, or one of a task alone."""
    assert config.ranking is not None
    changes: dict[str, Any] = {} if joint else {"tasks": {}}
    if own:
        changes["train"] = config.ranking.train.model_copy(update={"batch_size": CLICKED_BATCH})
    if not gates:
        changes["gates"] = None
    return config.ranking.model_copy(update=changes)


def clicked_rows(dataset: DatasetFolder, output: Path) -> DatasetFolder:
    """The data set's clicked rows alone, labelled by their conversion: what a ranker of its own learns from."""
    if output.is_dir():
        return DatasetFolder.open(output)
    kept = {key: value for key, value in dataset.manifest.items() if key not in ("kind", "format", "files")}
    with write_artifact(output, DATASET_KIND, DATASET_FORMAT, kept) as folder:
        for part in ("items", "users", "vocabulary"):
            shutil.copytree(dataset.path / part, folder / part)
        shutil.copy(dataset.path / "statistics.json", folder)
        (folder / "events").mkdir()
        for split in SPLITS:
            events = dataset.events(split).filter(pc.equal(dataset.events(split)[LABEL], 1))
            labels = events[TASK].to_numpy().astype(np.int8)
            events = events.set_column(events.column_names.index(LABEL), LABEL, pa.array(labels))
            pq.write_table(events, folder / "events" / f"{split}-00000.parquet")
    return DatasetFolder.open(output)


def _measured(test: Examples, click: np.ndarray, conversion: np.ndarray, arms: list[Arm]) -> dict[str, float]:
    """AUC of both tasks from their logits, the rankers' values and seconds."""
    clicked = test.labels > 0
    outcome = np.where(clicked, np.nan_to_num(test.outcomes[TASK]), 0.0)
    return {
        "click_auc": auc(click, test.labels),
        "conversion_given_click_auc": auc(conversion[clicked], outcome[clicked]),
        "conversion_auc": auc(sigmoid(click) * sigmoid(conversion), outcome),
        "values": float(sum(one.values for one in arms)),
        "seconds": sum(one.seconds for one in arms),
    }


def _truth(dataset: DatasetFolder, simulation: Path) -> dict[str, float]:
    """AUC of the true probabilities: of the relevance, what the position adds being no ranker's."""
    truth, events = true_probabilities(dataset, "test", simulation), dataset.events("test", (LABEL, TASK))
    clicked = events[LABEL].to_numpy() > 0
    outcome = np.where(clicked, np.nan_to_num(events[TASK].to_numpy()), 0.0)
    return {
        "click_auc": auc(truth["relevance"], clicked),
        "conversion_given_click_auc": auc(truth["conversion"][clicked], outcome[clicked]),
        "conversion_auc": auc(truth["relevance"] * truth["conversion"], outcome),
    }


def shown(cells: list[dict[str, dict[str, float]]], arms: list[str]) -> Table:
    """A row an arm."""
    table = Table(title=f"test, {len(cells)} seeds")
    for column in ("arm", "click AUC", "conversion AUC, given the click", "conversion AUC", "values", "seconds"):
        table.add_column(column)
    for arm in (*arms, "truth"):
        row = [arm]
        for figure in FIGURES:
            values = [cell[arm][figure] for cell in cells]
            row.append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        if arm != "truth":
            row += [f"{np.mean([cell[arm][name] for cell in cells]):,.0f}" for name in ("values", "seconds")]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    main()
