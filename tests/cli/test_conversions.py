"""Clicks and conversions by the command line: the simulator's shop, a ranker of both, and what is measured of it."""

import json
import re
from pathlib import Path

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.ranking.evaluation import impression_inputs
from recsys.ranking.metrics import auc
from recsys.ranking.truth import true_probabilities
from recsys.scoring.ranker import load_ranker
from recsys.scoring.towers import load_tower
from tests.cli.command import recsys, refused

CONFIG = Path(__file__).parents[2] / "configs" / "simulated-conversions.yaml"
SMALL = {
    "data.users": 200,
    "data.items": 80,
    "data.new_items_per_day": 0,
    "data.days": 4,
    "data.impressions": 30_000,
    "data.click_rate": 0.5,
    "train.epochs": 1,
    "ranking.model.hidden": [16],
    "ranking.model.embedding_dim": 8,
    "ranking.model.history": "mean",
    "ranking.train.batch_size": 512,
    "ranking.train.learning_rate": 0.01,
    "ranking.train.epochs": 2,
    "ranking.gates.search_epochs": 2,
    "ranking.gates.learning_rate": 0.02,
    "evaluate.baselines": "[popularity]",
    "evaluate.bootstrap": 0,
}


def test_a_ranker_of_clicks_and_conversions(tmp_path: Path) -> None:
    words = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    outcome = recsys("run", CONFIG, "--set", f"workdir={tmp_path}", *words)
    assert outcome.code == 0, outcome.err

    record = json.loads((tmp_path / "ranker" / "ranking.json").read_text())
    told, chosen = outcome.err, record["sets"][0]
    assert f"Ranker deepfm, OptFS at kappa 2: validation AUC {chosen['validation_auc']:.4f}, conversion" in told
    assert f"pruned: {record['values']['seen']:,} → {record['values']['kept']:,} values" in told
    assert re.search(r"200 candidates: p99 \d+\.\d → \d+\.\d ms", told)

    ranker = load_ranker(tmp_path / "bundle" / "ranker")
    towers = [load_tower(tmp_path / "bundle" / "model" / f"{side}_tower") for side in ("query", "item")]
    assert ranker.tasks == ("conversion",)
    assert all("conversion" not in one.inputs for one in (ranker, *towers))

    dataset = DatasetFolder.open(tmp_path / "dataset")
    events, truth = dataset.events("test"), true_probabilities(dataset, "test", tmp_path / "raw")
    predicted = ranker.probabilities(impression_inputs(dataset, events, ranker.inputs))
    clicked, converted = events["label"].to_numpy() > 0, events["conversion"].to_numpy()
    given = predicted["probability_conversion"][clicked] / predicted["probability"][clicked]
    assert auc(given, converted[clicked]) > 0.6
    assert np.corrcoef(given, truth["conversion"][clicked])[0, 1] > 0.5
    assert abs(given.mean() - truth["conversion"][clicked].mean()) < 0.05

    measured = json.loads((tmp_path / "report" / "metrics.json").read_text())["ranking"]["tasks"]["conversion"]
    assert measured["overall"]["positives"] == measured["given_click"]["positives"] == np.nansum(converted[clicked])
    assert measured["overall"]["rows"] == len(events) and measured["given_click"]["rows"] == clicked.sum()
    assert "conversion, given the click" in (tmp_path / "report" / "report.html").read_text()

    told = ["--set", "ranking.model.features=[user, item, conversion]"]
    refused(recsys("train", CONFIG, "--set", f"workdir={tmp_path}", *words, *told), "'conversion' is an outcome")
