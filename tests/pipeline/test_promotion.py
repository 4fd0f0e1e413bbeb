"""The gate before a bundle becomes current: a ranker behind another retrieval model must be calibrated there."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from recsys import registry
from recsys.artifacts import open_artifact, write_artifact
from recsys.config import Config
from recsys.config.promote import CalibrationConfig
from recsys.errors import UserError
from recsys.pipeline import Pipeline
from recsys.promotion import SAW, calibration_evidence, calibration_problem
from recsys.workdir import Made
from tests.cli.command import recsys, refused
from tests.pipeline.test_pipeline import Stages, configure, stages
from tests.tiny_files import START, settings, write_csv

__all__ = ["configure", "stages"]  # fixtures

BOUNDS = CalibrationConfig()


def evidence(ratio: float | None = 1.0, error: float = 0.01, chance: float = 0.005, **changes: Any) -> dict[str, Any]:
    overall = {"rows": 500, "calibration_error": {"value": error, "equal_width": error, "by_chance": chance}}
    if ratio is not None:
        overall["predicted_over_observed"] = {"value": ratio}
    return calibration_evidence({"overall": overall, "split": "test", "position": None}, BOUNDS) | changes


def publish(root: Path, folder: Path, saw: str | None, calibration: dict | None, **payload: Any) -> str:
    told = {"dataset": "d", "model": "m2", "ranker": "r1", SAW: saw, **payload}
    name = f"bundle-{len(list(folder.glob('bundle-*')))}"
    with write_artifact(folder / name, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT, told) as files:
        (files / "text").write_text(name)
    return registry.publish(root, folder / name, calibration=calibration).artifact_id


def test_the_same_retrieval_model_asks_for_nothing(tmp_path: Path) -> None:
    """Nor does a bundle without a ranker, nor one that was made before bundles knew."""
    root = tmp_path / "registry"
    bad = evidence(ratio=9.0)
    old: dict[str, Any] = {"dataset": "d", "model": "m2", "ranker": "r1"}
    assert calibration_problem(old, bad) is None
    assert calibration_problem({"dataset": "d", "model": "m2"}, None) is None
    for calibration in (None, bad):
        bundle = publish(root, tmp_path, "m2", calibration)
        assert registry.promote(root, bundle).bundle == bundle


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (evidence(), None),
        (evidence(ratio=0.9), None),
        (evidence(ratio=1.1), None),
        (evidence(error=0.02, chance=0.0), None),
        (evidence(error=0.25, chance=0.24), None),  # few rows: what chance shows does not count
        (evidence(ratio=5.0, bounds=None), None),
        (evidence(ratio=0.899), r"is 0\.899 \(expected 0\.9 to 1\.1\)"),
        (evidence(ratio=1.101), r"500 test impressions .* is 1\.101"),
        (evidence(error=0.0301), r"error 0\.0301, by chance alone 0\.0050 \(expected at most 0\.02 above"),
        (evidence(ratio=None), "no impressions with and without clicks"),
        (calibration_evidence(None, BOUNDS), "no impressions with and without clicks"),
        (None, "never measured"),
    ],
)
@pytest.mark.parametrize("saw", ["m1", None])
def test_another_one_asks_for_calibration(
    tmp_path: Path, found: dict | None, said: str | None, saw: str | None
) -> None:
    root = tmp_path / "registry"
    first = publish(root, tmp_path, "m2", None)
    registry.promote(root, first)
    bundle = publish(root, tmp_path, saw, found)
    if said is None:
        assert registry.promote(root, bundle) == registry.Current(bundle, first)
        return
    log = (root / registry.LOG).read_bytes()
    with pytest.raises(UserError, match=f"r1 was trained beside .*{saw or 'unknown'}.* m2, .*{said}") as refusal:
        registry.promote(root, bundle)
    assert "--force --why" in str(refusal.value)
    assert registry.current(root).bundle == first and (root / registry.LOG).read_bytes() == log


def test_force_needs_a_reason_and_is_logged(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    first, second = publish(root, tmp_path, "m2", None), publish(root, tmp_path, "m1", evidence(ratio=2.0))
    registry.promote(root, first, force=True, why="nothing to override")
    with pytest.raises(UserError, match="add --why REASON"):
        registry.promote(root, second, force=True)
    assert registry.promote(root, second, force=True, why="the sale begins").bundle == second
    told = registry.read_log(root)
    assert "overrides" not in told[-2] and told[-1]["why"] == "the sale begins"
    assert "is 2.000 (expected 0.9 to 1.1)" in told[-1]["overrides"]


def test_a_rollback_is_not_held_up(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    forced, fresh = publish(root, tmp_path, "m1", None), publish(root, tmp_path, "m2", None)
    registry.promote(root, forced, force=True, why="must")
    registry.promote(root, fresh)
    assert registry.rollback(root) == registry.Current(forced, None)


def test_the_newest_evidence_counts(tmp_path: Path) -> None:
    """Evaluated again (with other bounds, say), a bundle is published again, and is judged by that."""
    root = tmp_path / "registry"
    bundle = publish(root, tmp_path, "m1", evidence(ratio=1.2))
    with pytest.raises(UserError, match=r"is 1\.200"):
        registry.promote(root, bundle)
    wider = evidence(ratio=1.2, bounds=CalibrationConfig(predicted_over_observed=(0.5, 1.5)).model_dump(mode="json"))
    for _ in range(2):
        registry.publish(root, tmp_path / "bundle-0", calibration=wider)
    assert registry.promote(root, bundle).bundle == bundle
    assert [entry["action"] for entry in registry.read_log(root)] == ["publish", "publish", "promote"]
    with pytest.raises(ValueError, match="no range from low to high"):
        CalibrationConfig(predicted_over_observed=(1.1, 0.9))


def write_shop(folder: Path) -> Path:
    """Impressions of a tiny shop: an item of the user's own block is clicked by 60 %, of the other one by 20 %."""
    rng = np.random.default_rng(1)
    rows = [(user, item) for user in range(60) for item in rng.permutation(40)[:30]]
    clicked = rng.random(len(rows)) < [0.6 if user % 2 == item % 2 else 0.2 for user, item in rows]
    times = np.sort(rng.integers(0, 500_000, len(rows))) + START
    order = rng.permutation(len(rows))
    events = [
        (f"u{rows[place][0]}", f"i{rows[place][1]}", int(time), int(clicked[place]))
        for place, time in zip(order, times, strict=True)
    ]
    folder.mkdir(parents=True)
    write_csv(folder / "events.csv", ("user", "item", "time", "clicked"), events)
    write_csv(folder / "items.csv", ("item", "title", "colour"), ((f"i{i}", f"I {i}", "rb"[i % 2]) for i in range(40)))
    write_csv(folder / "users.csv", ("user", "club"), ((f"u{user}", "ab"[user % 2]) for user in range(60)))
    config = settings(folder)
    config["data"]["events"]["columns"]["label"] = "clicked"
    config["data"]["fields"] = [one for one in config["data"]["fields"] if one["name"] in ("colour", "club")]
    config["train"] |= {"epochs": 2, "patience": 2}
    config["ranking"] = {
        "model": {"backbone": "fm", "embedding_dim": 4, "features": ["colour", "club"]},
        "train": {"batch_size": 64, "learning_rate": 0.05, "epochs": 8, "patience": 8},
    }
    config["evaluate"] |= {"baselines": ["popularity"], "bootstrap": 0}
    config["promote"] = {"calibration": {"predicted_over_observed": [0.75, 1.33], "calibration_error": 0.1}}
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_towers_are_trained_anew_and_the_ranker_is_kept(tmp_path: Path) -> None:
    """The whole way by the command line: kept and calibrated it is promoted, a miscalibrated one is refused."""
    shop = write_shop(tmp_path / "shop")
    work = tmp_path / "shop" / "work"

    def run(*words: str) -> Any:
        return recsys("run", shop, "--quiet", *words)

    def manifest(name: str) -> dict[str, Any]:
        return dict(open_artifact(work / name, name, 1).manifest)

    def current() -> str:
        return registry.current(work / "registry").bundle

    outcome = run()
    assert outcome.code == 0 and "was trained beside" not in outcome.err, outcome.err
    first, first_model = current(), manifest("bundle")["model"]
    assert manifest("ranker")["retrieval_model"] == manifest("bundle")[SAW] == first_model
    ranker = open_artifact(work / "ranker", "ranker", 1).artifact_id

    # Other towers; the ranker's stage reads nothing of them and is skipped.
    outcome = run("--set", "train.epochs=3")
    assert outcome.code == 0, outcome.err
    assert f"✓ rank     {work / 'ranker'} {ranker} already there" in outcome.err
    assert f"The ranker was trained beside retrieval model {first_model}, not " in outcome.err
    second = manifest("bundle")
    assert second["ranker"] == ranker and second[SAW] == first_model != second["model"] and current() != first
    (kept,) = [one for one in registry.read_log(work / "registry") if one["action"] == "publish"][1:]
    assert 0.75 < kept["calibration"]["predicted_over_observed"] < 1.33

    # A ranker that says far too much, planted by weighing clicks and not calibrating; kept by its folder.
    planted = ["--set", "ranking.train.positive_weight=8", "--set", "ranking.calibration=none"]
    planted += ["--set", "ranking.retrieval_score=true"]
    assert recsys("train", shop, "--quiet", *planted).code == 0
    shutil.copytree(work / "ranker", tmp_path / "planted")
    promoted = current()
    keep = ["--set", f"ranking.reuse={tmp_path / 'planted'}"]
    refused(run("--set", "train.epochs=1", *keep), "not promoted", "predicted over observed clicks is", "--why REASON")
    third = manifest("bundle")
    assert third["ranker"] == open_artifact(tmp_path / "planted", "ranker", 1).artifact_id != ranker
    assert current() == promoted
    name = open_artifact(work / "bundle", "bundle", 1).artifact_id
    refused(recsys("promote", shop, name), "not promoted", "calibration error")
    refused(recsys("promote", shop, name, "--force"), "--why")
    assert recsys("promote", shop, name, "--force", "--why", "a test").code == 0 and current() == name
    assert "overrides" in registry.read_log(work / "registry")[-1]

    # Switched off, nothing is asked; and one of another data set cannot be kept.
    outcome = run("--set", "train.epochs=1", *keep, "--set", "promote.calibration=null")
    assert outcome.code == 0 and current() == name, outcome.err
    assert registry.read_log(work / "registry")[-1]["calibration"]["bounds"] is None
    other = json.loads((tmp_path / "planted" / "manifest.json").read_text()) | {"dataset": "other"}
    (tmp_path / "planted" / "manifest.json").write_text(json.dumps(other))
    refused(run("--set", "train.epochs=1", *keep), "ranking.reuse", "ranker of data set other")


def test_only_a_ranker_that_reads_the_score_is_made_again_for_other_towers(
    stages: Stages, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one is kept from its own place as well, whatever its settings say by then."""
    ranked: list[str] = []

    def rank(dataset: Any, config: Any, seed: int, output: Path, *, retrieval_model: Path, **_: Any) -> None:
        ranked.append(open_artifact(retrieval_model, "model", 1).artifact_id)
        told = {"dataset": dataset.artifact.artifact_id, "retrieval_model": ranked[-1]}
        with write_artifact(output, "ranker", 1, told) as folder:
            (folder / "weights.txt").write_text(config.model_dump_json())

    monkeypatch.setitem(sys.modules, "recsys.ranking.job", SimpleNamespace(rank=rank, check=lambda *_: None))

    def made(epochs: int, **ranking: Any) -> Made:
        pipeline = Pipeline(configure(train={"epochs": epochs}, ranking=ranking))
        pipeline.ingest()
        pipeline.train()
        return pipeline.rank()

    assert made(1).note is None and len(ranked) == 1
    kept = made(2)
    assert len(ranked) == 1 and kept.seconds is None and kept.note is not None and ranked[0] in kept.note
    assert made(2, retrieval_score=True).note is None and len(ranked) == 2
    assert made(2, retrieval_score=True).seconds is None and made(3, retrieval_score=True).note is None
    assert len(ranked) == len(set(ranked[1:])) + 1 == 3
    own = str(Pipeline(configure()).ranker_path)
    kept = made(4, retrieval_score=True, tolerance=0.5, reuse=own)
    assert len(ranked) == 3 and kept.note is not None and ranked[2] in kept.note
    assert made(4, retrieval_score=True, reuse=own).seconds is None
    shutil.rmtree(Pipeline(configure()).model_path)
    with pytest.raises(UserError, match="no retrieval model, whose score the ranker is to read"):
        Pipeline(configure(train={"epochs": 4}, ranking={"retrieval_score": True})).rank()
