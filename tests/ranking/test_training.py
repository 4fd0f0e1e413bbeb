"""What training promises: weights of rows, the position at serving, early stopping, rates from drawn negatives."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.calibration import IDENTITY
from recsys.ranking.examples import split_examples
from recsys.ranking.export import export_ranker
from recsys.ranking.job import rank
from recsys.ranking.live import LiveRanker
from recsys.ranking.pruning import prune
from recsys.ranking.workbench import Outcome, Workbench
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.scoring.ranker import load_ranker
from tests.outcomes import with_outcome
from tests.ranking.test_backbones import FEATURES, HARD, make
from tests.ranking.test_tasks import plain as _plain

plain = _plain


def bench_of(dataset: DatasetFolder, folder: Path, **settings) -> Workbench:
    return Workbench(dataset, RankingConfig.model_validate(settings), 1, CheckpointFolder(folder, "test"))


def test_rows_weigh_what_their_field_says_and_positives_more(plain: DatasetFolder, tmp_path: Path) -> None:
    weights = {split: 1.0 + np.arange(len(plain.events(split))) % 3 for split in ("train", "validation", "test")}
    dataset = with_outcome(plain, tmp_path / "told", "seconds", weights)
    train = {"weight_field": "seconds", "positive_weight": 4.0}
    bench = bench_of(dataset, tmp_path / "c", train=train)
    found = split_examples(bench.maker, "train", 1)
    np.testing.assert_allclose(found.weights, weights["train"] * np.where(found.labels > 0, 4.0, 1.0))
    assert "seconds" not in [one.name for one in bench.spec.fields]
    # Drawn negatives weigh what the row weighs whose place they take.
    drawn = bench_of(dataset, tmp_path / "d", train={**train, "negatives": {"per_positive": 2, "source": "batch"}})
    table = drawn.maker.dataset.events("train", drawn.maker.columns)
    found = drawn.maker.make(table.filter(pc.equal(table["label"], 1)), np.random.default_rng(0))
    chosen = weights["train"][plain.events("train")["label"].to_numpy() == 1]
    np.testing.assert_allclose(found.weights, np.concatenate([4.0 * chosen, chosen, chosen]))


def test_a_row_without_a_weight_is_named(plain: DatasetFolder, tmp_path: Path) -> None:
    """Rather than a loss that is no number, which says nothing of why."""
    for place, wrong in enumerate((np.nan, -1.0)):
        weights = {split: np.ones(len(plain.events(split))) for split in ("train", "validation", "test")}
        row = int(np.flatnonzero(plain.events("train")["label"].to_numpy() == 0)[7])
        weights["train"][row] = wrong
        dataset = with_outcome(plain, tmp_path / str(place), "seconds", weights)
        train = {"weight_field": "seconds"}
        with pytest.raises(UserError, match=rf"weight_field: .*train-.*.parquet, row {row}: 'seconds' is {wrong:g};"):
            bench_of(dataset, tmp_path / "c", train=train)
        bench_of(dataset, tmp_path / "c", train={**train, "negatives": {"per_positive": 1, "source": "batch"}})


def test_calibration_undoes_the_weight_of_positives(plain: DatasetFolder, tmp_path: Path) -> None:
    train = {"positive_weight": 6, "batch_size": 256, "epochs": 2, "learning_rate": 0.02}
    settings = {"model": {"backbone": "lr"}, "train": train}
    folders = {"checkpoints": tmp_path / "checkpoints", "logs": tmp_path / "logs"}
    made = rank(plain, RankingConfig.model_validate(settings), 1, tmp_path / "ranker", **folders, quiet=True)
    ranker, events = load_ranker(made.path), plain.events("validation")
    scores = ranker.score({name: events[name].to_numpy() for name in ranker.inputs})
    rate = events["label"].to_numpy().mean()
    assert (1 / (1 + np.exp(-scores.logit))).mean() > rate + 0.2
    assert scores.probability.mean() == pytest.approx(rate, abs=0.005)


def test_every_candidate_is_scored_at_the_neutral_position(tiny_dataset: Path, tmp_path: Path) -> None:
    """The position is no input of the export, pruned or not; its id is the neutral one."""
    model = make(tiny_dataset, "deepfm", gates=HARD, history="mean")
    model.gates.logits.assign(np.random.default_rng(0).normal(0.5, 1.0, model.spec.rows))
    there = {**FEATURES, "device": np.full(4, 4, np.int32)}
    elsewhere = {**FEATURES, "device": np.full(4, 3, np.int32)}
    expected = LiveRanker(model)(there)
    assert np.abs(LiveRanker(model)(elsewhere) - expected).min() > 1e-3
    for place, one in enumerate((model, prune(model))):
        export_ranker(one, IDENTITY, {"device": 4}, tmp_path / str(place) / "model")
        ranker = load_ranker(tmp_path / str(place))
        assert "device" not in ranker.inputs
        np.testing.assert_allclose(ranker.score(elsewhere).logit, expected, rtol=1e-4, atol=1e-5)


def test_a_position_that_is_not_there_is_refused(plain: DatasetFolder, tmp_path: Path) -> None:
    for position, said in (
        ({"field": "gone"}, "ranking.position.field: 'gone' is no categorical context field"),
        ({"field": "noise_low_9", "neutral": "first"}, "ranking.position"),
        ({"field": "informative_0", "neutral": "first"}, "ranking.position.neutral: 'first' is no value"),
    ):
        config = RankingConfig.model_validate({"position": position})
        with pytest.raises(UserError, match=said):
            rank(plain, config, 1, tmp_path / "r", checkpoints=tmp_path / "c", logs=tmp_path / "l", quiet=True)


def test_it_stops_when_validation_falls_and_keeps_the_best(
    plain: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a script of validation AUCs: two epochs later without a better one it ends with the weights of the second."""
    settings = {"model": {"backbone": "lr"}, "train": {"batch_size": 1024, "patience": 2, "plateau": 0.1, "epochs": 9}}
    rates: list[float] = []

    def run(name: str, script: list[float], **train) -> Outcome:
        told = iter(script)
        monkeypatch.setattr("recsys.ranking.phase.auc", lambda *_: next(told))
        monkeypatch.setattr("recsys.ranking.step.Trainer.slow_down", lambda _, factor: rates.append(factor))
        both = {**settings, "train": {**settings["train"], **train}}
        return bench_of(plain, tmp_path / name, **both).train("train")

    stopped = run("stopped", [0.6, 0.7, 0.65, 0.69, 0.9])
    assert [one["auc"] for one in stopped.epochs] == [0.6, 0.7, 0.65, 0.69]
    assert (stopped.best_epoch, stopped.best_auc) == (2, 0.7)
    np.testing.assert_allclose(rates, [1.0, 1.0, 1.0, 0.1])
    short = run("short", [0.6, 0.7], epochs=2)
    for key, values in short.weights.items():
        np.testing.assert_array_equal(stopped.weights[key], values)
    longer = run("longer", [0.6, 0.7, 0.8], epochs=3)
    assert any((longer.weights[key] != values).any() for key, values in short.weights.items())


@pytest.mark.parametrize(
    ("per_positive", "source", "weight"), [(1, "catalogue", 1.0), (6, "catalogue", 4.0), (6, "batch", 1.0)]
)
def test_rates_do_not_depend_on_how_many_negatives_are_drawn(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_positive: int, source: str, weight: float
) -> None:
    """The intercept's correction: exp of an item's logit is its share of what is chosen."""
    better = itertools.count()
    monkeypatch.setattr("recsys.ranking.phase.auc", lambda *_: next(better))  # the last epoch is the best
    dataset = DatasetFolder.open(tiny_dataset)
    negatives = {"per_positive": per_positive, "source": source}
    train = {"negatives": negatives, "epochs": 110, "learning_rate": 0.05, "batch_size": 500}
    train["positive_weight"] = weight
    bench = bench_of(dataset, tmp_path, model={"backbone": "lr", "features": ["item"]}, train=train)
    logits = LiveRanker(bench.ranker(bench.train("train")))({"item": dataset.items["item"].to_numpy()})
    chosen = dataset.items["count"].to_numpy()
    assert np.exp(logits[chosen > 0]).sum() == pytest.approx(1.0, abs=0.15)
    np.testing.assert_allclose(np.exp(logits[chosen > 0]), chosen[chosen > 0] / chosen.sum(), atol=0.01)


def test_the_report_says_which_epoch_was_best(plain: DatasetFolder, tmp_path: Path) -> None:
    settings = {"model": {"backbone": "fm", "embedding_dim": 4}, "train": {"batch_size": 512, "epochs": 2}}
    folders = {"checkpoints": tmp_path / "checkpoints", "logs": tmp_path / "logs"}
    made = rank(plain, RankingConfig.model_validate(settings), 1, tmp_path / "ranker", **folders, quiet=True)
    report = json.loads((made.path / "ranking.json").read_text())
    aucs = [one["auc"] for one in report["epochs"]]
    assert report["best_epoch"] == 1 + int(np.argmax(aucs))
    assert report["sets"][0]["validation_auc"] == max(aucs)
