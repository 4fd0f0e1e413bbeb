"""The whole stage on a bundle of known answers: right figures, one self-contained report, named mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation import job
from recsys.evaluation.job import evaluate
from recsys.evaluation.table import metrics_table
from tests.tiny_dataset import write_tiny_dataset

CONFIG = EvaluateConfig(ks=(3, 5, 10), main_k=3, bootstrap=200)


@pytest.fixture(scope="module")
def outcome(tiny_dataset: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    output = tmp_path_factory.mktemp("evaluation") / "report"
    metrics = evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, CONFIG, output, seed=1, quiet=True)
    return metrics, output


def test_the_right_model_finds_everything_and_popularity_does_not(outcome: tuple[dict, Path]) -> None:
    """Three unseen items are left of a user's block of twelve; hand-written towers put them in front."""
    models = outcome[0]["models"]
    ours = models["two_tower"]["slices"]
    for name in ("overall", "known_users", "new_users"):
        assert ours[name]["recall@3"]["value"] == 1.0
    assert models["popularity"]["slices"]["overall"]["recall@3"]["value"] < 0.5
    assert outcome[0]["differences"]["popularity"]["recall@3"]["low"] > 0
    assert outcome[0]["headline"]["recall@3"] == 1.0


def test_every_configured_baseline_is_in_the_table(outcome: tuple[dict, Path]) -> None:
    metrics, _ = outcome
    assert set(metrics["models"]) == {"two_tower", *CONFIG.baselines} and not metrics["left_out"]
    assert metrics["best_baseline"] in CONFIG.baselines
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(metrics))
    text = console.export_text()
    assert "two-tower (ours)" in text and "EASE" in text and "1.0000" in text


def test_figures_are_consistent(outcome: tuple[dict, Path]) -> None:
    metrics, _ = outcome
    for figures in metrics["models"].values():
        slices = figures["slices"]
        assert slices["overall"]["queries"] == 40 == slices["known_users"]["queries"] + slices["new_users"]["queries"]
        weighted = sum(slices[s]["queries"] * slices[s]["recall@5"]["value"] for s in ("known_users", "new_users"))
        assert slices["overall"]["recall@5"]["value"] == pytest.approx(weighted / 40)
        assert figures["curve"][4] == pytest.approx(slices["overall"]["recall@5"]["value"])
        assert sum(figures["exposure"].values()) == pytest.approx(1)
        for metric in ("recall@3", "ndcg@10", "mrr@5"):
            found = slices["overall"][metric]
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        recalls = [slices["overall"][f"recall@{k}"]["value"] for k in (3, 5, 10)]
        assert recalls == sorted(recalls)


def test_metrics_json_is_what_was_returned(outcome: tuple[dict, Path]) -> None:
    metrics, output = outcome
    assert json.loads((output / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_the_report_is_one_small_file_without_outside_help(outcome: tuple[dict, Path]) -> None:
    page = (outcome[1] / "report.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    assert "<script" not in page and page.count("<svg") >= 5
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page.replace("xlink:href", "href"))
    assert not re.search(r"@import|url\((?!#)", page)
    for text in ("two-tower (ours)", "new users", "Resolved configuration", "tuned", "1.0000"):
        assert text in page


def test_equal_runs_write_equal_bytes(
    outcome: tuple[dict, Path], tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"baselines": ("popularity", "als", "bpr")})
    for name in ("one", "two"):
        evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, config, tmp_path / name, seed=1, quiet=True)
    for file in ("metrics.json", "report.html", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_protocol_by_user_and_validation_run_too(tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"protocol": "user", "baselines": ("popularity",), "bootstrap": 0})
    metrics = evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, config, tmp_path / "r", seed=1, quiet=True)
    assert metrics["data"]["queries"] == 40 and metrics["protocol"]["exclude_seen"] == "training"
    assert metrics["models"]["two_tower"]["slices"]["overall"]["recall@3"]["value"] == 1.0
    assert "low" not in metrics["models"]["two_tower"]["slices"]["overall"]["recall@3"]
    config = CONFIG.model_copy(update={"split": "validation", "baselines": ("ease",)})
    metrics = evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, config, tmp_path / "v", seed=1, quiet=True)
    assert metrics["protocol"]["split"] == "validation" and metrics["protocol"]["fit_on"] == ["train"]


def test_a_bundle_of_another_data_set_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = DatasetFolder.open(write_tiny_dataset(tmp_path / "other", seed=8))
    with pytest.raises(UserError, match="made from the data set"):
        evaluate(other, tiny_bundle, CONFIG, tmp_path / "report", seed=1, quiet=True)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"main_k": 7}, "evaluate.main_k"), ({"split": "validation", "fit_on": "training_and_validation"}, "fit_on")],
)
def test_impossible_settings_are_named(
    change: dict, named: str, tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update=change)
    with pytest.raises(UserError, match=named):
        evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, config, tmp_path / "r", seed=1, quiet=True)


def test_baselines_learn_from_what_the_model_learned_from(
    tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model refitted on validation meets baselines fitted on validation too, and is not measured on it."""
    dataset, config = DatasetFolder.open(tiny_dataset), CONFIG.model_copy(update={"baselines": ("popularity",)})
    plain = evaluate(dataset, tiny_bundle, config, tmp_path / "plain", seed=1, quiet=True)
    assert plain["protocol"]["fit_on"] == ["train"]
    monkeypatch.setattr(job, "_learned_validation", lambda model: True)
    both = evaluate(dataset, tiny_bundle, config, tmp_path / "both", seed=1, quiet=True)
    assert both["protocol"]["fit_on"] == ["train", "validation"]
    assert both["models"]["popularity"]["curve"] != plain["models"]["popularity"]["curve"]
    with pytest.raises(UserError, match="refitted on the validation part"):
        evaluate(dataset, tiny_bundle, config.model_copy(update={"split": "validation"}), tmp_path, seed=1, quiet=True)


def test_tuning_never_sees_the_test_part(tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """The chosen settings are those of the best validation value, whatever the test says."""
    config = CONFIG.model_copy(update={"baselines": ("item_knn",)})
    metrics = evaluate(DatasetFolder.open(tiny_dataset), tiny_bundle, config, tmp_path / "r", seed=1, quiet=True)
    tried = metrics["models"]["item_knn"]["tried"]
    assert max(np.array([one["recall@3"] for one in tried])) == next(
        one["recall@3"] for one in tried if one["settings"] == metrics["models"]["item_knn"]["settings"]
    )


class TheWrongWayRound:
    """A ranker that puts the last candidates of retrieval first."""

    inputs = ("item", "retrieval_score")

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return -arrays["retrieval_score"]


def test_both_stages_are_measured_where_the_bundle_has_a_ranker(
    tiny_dataset: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "ranker").mkdir()
    monkeypatch.setattr("recsys.scoring.ranker.load_ranker", lambda folder: TheWrongWayRound())
    config = CONFIG.model_copy(update={"baselines": ("popularity",), "rank_candidates": 12})
    metrics = evaluate(DatasetFolder.open(tiny_dataset), bundle, config, tmp_path / "report", seed=1, quiet=True)
    first, second = (metrics["models"][name]["slices"]["overall"] for name in ("two_tower", "two_stage"))
    assert (first["recall@3"]["value"], second["recall@3"]["value"]) == (1.0, 0.0)
    assert metrics["best_baseline"] == "popularity"
    assert metrics["differences"]["two_stage"]["recall@3"]["value"] == 1.0
    assert metrics["headline"]["recall@3"] == 1.0
    assert metrics["ranking"] is None  # every event of this data set is positive
    page = (tmp_path / "report" / "report.html").read_text()
    assert "two-tower, then ranker" in page
    assert re.search(r"recall@3 changes by\s+<b>-1\.0000</b>", page)
