"""Evaluation of a ranker: slices, intervals that cover, lists, frequencies, and the simulator's truth."""

import json
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pytest

from recsys.config import parse_config
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation.bootstrap import Resamples
from recsys.pipeline import Pipeline
from recsys.ranking import metrics
from recsys.ranking.evaluation import (
    evaluate_ranker,
    evaluate_shown,
    lists_of,
    shown_in,
    slice_width,
    training_frequencies,
)
from recsys.ranking.measure import Shown, auc_replicates, measure_shown, reliability
from recsys.ranking.section import ranking_section
from recsys.ranking.truth import against_truth, true_probabilities
from recsys.schema import Kind, Side

HOUR = 3_600_000


def shop(rows: int, seed: int = 4, users: int = 60) -> tuple[Shown, np.ndarray]:
    """Impressions in lists of five, with true probabilities as predictions; and the truth."""
    rng = np.random.default_rng(seed)
    lists = np.arange(rows) // 5
    owner = rng.integers(0, users, rows // 5 + 1)[lists]
    truth = 1 / (1 + np.exp(1.5 - rng.normal(size=users)[owner] - rng.normal(size=rows)))
    labels = (rng.random(rows) < truth).astype(np.int8)
    return Shown(labels, owner, truth, 1_700_000_000_000 + lists * 60_000, lists), truth


def test_every_figure_is_the_metric_of_its_name() -> None:
    shown, _ = shop(4_000)
    p, y = shown.probabilities, shown.labels
    figures = measure_shown(shown, resamples=200, seed=1)
    expected = {
        "auc": metrics.auc(p, y),
        "gauc": metrics.grouped_auc(p, y, shown.users),
        "log_loss": metrics.log_loss(p, y),
        "normalised_entropy": metrics.normalised_entropy(p, y),
        "ndcg": float(np.nanmean(metrics.list_ndcg(p, y, shown.lists))),
        "predicted_over_observed": p.sum() / y.sum(),
    }
    assert {name: figures[name]["value"] for name in expected} == pytest.approx(expected)
    for name in expected:
        assert figures[name]["low"] < figures[name]["value"] < figures[name]["high"]
    assert figures["calibration_error"]["value"] == metrics.calibration_error(p, y)
    assert (figures["rows"], figures["positives"], figures["users"]) == (4_000, y.sum(), 60)
    json.dumps(figures)


def test_a_resample_is_the_figure_of_repeated_rows() -> None:
    shown, _ = shop(300, users=12)
    shown = Shown(shown.labels, shown.users, shown.probabilities.round(1), None, shown.lists)
    draws = Resamples.make(shown.users, 30, 5)
    found = auc_replicates(shown.probabilities, shown.labels, draws)
    for replicate in range(30):
        times = draws.draws[replicate][draws.owner]
        repeated = np.repeat(np.arange(len(shown)), times)
        assert found[replicate] == pytest.approx(metrics.auc(shown.probabilities[repeated], shown.labels[repeated]))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    _, truth = shop(400_000)
    labels = np.random.default_rng(0).random(len(truth)) < truth
    aim = metrics.auc(truth, labels)
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(truth), 1500)
        drawn = (rng.random(1500) < truth[rows]).astype(np.int8)
        sample = Shown(drawn, rows, truth[rows])  # a user a row: independent rows
        figures = measure_shown(sample, resamples=150, confidence=0.9, seed=seed)["auc"]
        covered += figures["low"] <= aim <= figures["high"]
    assert 0.78 < covered / 60 <= 1


def test_what_the_rows_do_not_have_is_left_out() -> None:
    one_class = Shown(np.ones(10, np.int8), np.arange(10), np.full(10, 0.7))
    figures = measure_shown(one_class, resamples=20)
    assert set(figures) == {"rows", "positives", "users", "log_loss", "predicted_over_observed", "calibration_error"}
    assert measure_shown(one_class.where(np.zeros(10, bool)))["rows"] == 0
    assert evaluate_shown(one_class, {}, resamples=0)["by_time"] == []


def test_reliability_holds_all_rows_and_its_interval_the_share() -> None:
    shown, _ = shop(20_000)
    curve = reliability(shown, 10)
    assert sum(point["rows"] for point in curve) == 20_000
    assert [point["predicted"] for point in curve] == sorted(point["predicted"] for point in curve)
    inside = [point["low"] <= point["predicted"] <= point["high"] for point in curve]
    assert sum(inside) >= 7
    for point in curve:
        assert 0 <= point["low"] <= point["observed"] <= point["high"] <= 1
    certain = reliability(Shown(np.ones(4, np.int8), np.arange(4), np.full(4, 0.5)))
    assert (certain[0]["observed"], certain[0]["high"]) == (1.0, 1.0)
    assert 0.4 < certain[0]["low"] < 0.6  # Wilson's 4 of 4


def test_slices_of_time_part_the_rows_at_round_moments() -> None:
    shown, _ = shop(5_000)
    measured = evaluate_shown(shown, {}, resamples=20)
    slices = measured["by_time"]
    assert sum(one["rows"] for one in slices) == 5_000
    assert 1 < len(slices) <= 14
    for one in slices:
        part = shown.where((shown.times >= one["from"]) & (shown.times < one["to"]))
        assert one["rows"] == len(part)
        assert one["auc"]["value"] == pytest.approx(metrics.auc(part.probabilities, part.labels))
        assert one["from"] % HOUR == 0
    assert slice_width(np.array([0, 13 * HOUR])) == HOUR
    assert slice_width(np.array([0, 14 * HOUR])) == 2 * HOUR
    assert slice_width(np.array([0, 10**15])) == 8760 * HOUR


def test_deciles_of_frequency_part_the_rows_by_count() -> None:
    shown, _ = shop(3_000)
    counts = np.random.default_rng(1).geometric(0.01, 3_000)
    deciles = evaluate_shown(shown, {"item": counts}, resamples=0)["by_frequency"]["item"]
    assert len(deciles) == 10
    assert sum(one["rows"] for one in deciles) == 3_000
    assert all(270 < one["rows"] < 330 for one in deciles)
    assert all(a["most"] < b["least"] for a, b in pairwise(deciles))


def test_what_probabilities_mean_is_asked_of_neutral_rows_in_every_slice() -> None:
    """Elsewhere they are of another position: there only the order counts. A slice without such rows has no figure."""
    shown, _ = shop(4_000)
    counts = np.arange(4_000) // 400
    neutral = (np.arange(4_000) % 3 == 0) & (counts > 0)
    measured = evaluate_shown(shown, {"item": counts}, neutral=neutral, resamples=20)
    assert sum(point["rows"] for point in measured["reliability"]) == neutral.sum()
    parts = [(one, (shown.times >= one["from"]) & (shown.times < one["to"])) for one in measured["by_time"]]
    parts += [(one, counts == one["least"]) for one in measured["by_frequency"]["item"]]
    parts += [(measured["overall"], np.ones(4_000, bool))]
    assert len(parts) > 15
    for one, part in parts:
        there = part & neutral
        assert one["rows"] == part.sum()
        assert one["auc"]["value"] == pytest.approx(metrics.auc(shown.probabilities[part], shown.labels[part]))
        if not there.any():
            assert counts[part].max() == 0 and not {"log_loss", "calibration_error", "normalised_entropy"} & set(one)
            continue
        for name in ("log_loss", "normalised_entropy"):
            expected = getattr(metrics, name)(shown.probabilities[there], shown.labels[there])
            assert one[name]["value"] == pytest.approx(expected)
        ratio = shown.probabilities[there].sum() / shown.labels[there].sum()
        assert one["predicted_over_observed"]["value"] == pytest.approx(ratio)
        assert one["calibration_error"]["value"] == metrics.calibration_error(
            shown.probabilities[there], shown.labels[there]
        )
    nowhere = evaluate_shown(shown, {}, neutral=np.zeros(4_000, bool), resamples=0)
    assert nowhere["reliability"] == [] and "auc" in nowhere["overall"] and "log_loss" not in nowhere["overall"]
    assert "AUC" in str(ranking_section(nowhere | {"split": "test"}))


def test_lists_are_what_a_user_saw_at_a_moment() -> None:
    users, times = np.array([1, 2, 1, 1, 2]), np.array([5, 5, 5, 6, 5])
    lists = lists_of(users, times)
    assert (lists[0] == lists[2], lists[1] == lists[4], len(set(lists.tolist()))) == (True, True, 3)
    assert lists_of(users, np.arange(5)) is None
    assert lists_of(users[:0], times[:0]) is None


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Pipeline:
    """A small simulated shop, ingested."""
    workdir = tmp_path_factory.mktemp("simulated")
    data = {"source": "simulator", "users": 300, "items": 80, "days": 4, "impressions": 20_000}
    pipeline = Pipeline(parse_config({"name": "test", "workdir": str(workdir), "data": data}), quiet=True)
    pipeline.ingest()
    return pipeline


def test_truth_is_joined_row_by_row_and_nothing_beats_it(simulated: Pipeline) -> None:
    dataset = DatasetFolder.open(simulated.dataset_path)
    truth = true_probabilities(dataset, "test", simulated.workdir / "raw")
    np.testing.assert_allclose(truth["probability"], truth["examination"] * truth["relevance"], rtol=1e-5)
    events = dataset.events("test", ("position", "label"))
    places = dataset.vocabulary("position")
    raw = np.array(places.table["value"].cast("int64"))[events["position"].to_numpy() - 3]
    for place in np.unique(raw):  # the examination is a function of the position, so rows belong together
        assert np.ptp(truth["examination"][raw == place]) < 1e-9
    assert metrics.calibration_error(truth["probability"], events["label"].to_numpy()) < 0.03

    labels = events["label"].to_numpy()
    best = against_truth(truth["probability"], labels, truth["probability"])
    assert best["auc"] == best["bayes_auc"] > 0.6
    assert (best["mean_absolute_gap"], best["excess_log_loss"]) == (0.0, 0.0)
    worse = against_truth(np.full(len(labels), labels.mean()), labels, truth["probability"])
    assert (worse["auc"], worse["bayes_auc"]) == (0.5, best["bayes_auc"])
    assert worse["excess_log_loss"] == pytest.approx(worse["log_loss"] - worse["bayes_log_loss"], abs=0.02)
    assert worse["root_mean_square_gap"] >= worse["mean_absolute_gap"] > 0.01
    shifted = against_truth(np.minimum(truth["probability"] + 0.1, 1), labels, truth["probability"])["calibration"]
    assert all(one["predicted"] - one["true"] == pytest.approx(0.1, abs=0.01) for one in shifted)
    json.dumps(worse)


def test_a_data_set_of_other_logs_is_refused(simulated: Pipeline, tmp_path) -> None:
    dataset = DatasetFolder.open(simulated.dataset_path)
    with pytest.raises(UserError, match="no impressions here"):
        true_probabilities(dataset, "test", tmp_path)


def test_impressions_and_frequencies_of_a_data_set(simulated: Pipeline) -> None:
    dataset = DatasetFolder.open(simulated.dataset_path)
    events = dataset.events("test", ("user", "item", "time", "label", "device"))
    shown = shown_in(dataset, "test", np.full(len(events), 0.1))
    sizes = np.bincount(shown.lists)
    assert np.median(sizes) == 10  # the simulator's lists
    assert (np.diff(shown.times) >= 0).all()
    frequencies = training_frequencies(dataset, "test")
    train = dataset.events("train", ("user", "item", "device"))
    row = 17
    for name in ("user", "item"):
        same = pc.sum(pc.equal(train[name], events[name][row])).as_py()
        assert frequencies[name][row] == same
    context = [one.name for one in dataset.schema.of(Side.CONTEXT, Kind.CATEGORICAL)]
    train, asked = (dataset.events(split, ("user", "item", *context)) for split in ("train", "test"))
    same = [pc.sum(pc.equal(train[name], asked[name][row])).as_py() for name in ("user", "item", *context)]
    for side in (Side.USER, Side.ITEM):
        for field in dataset.schema.of(side, Kind.CATEGORICAL):
            column = dataset.features(side)[field.name]
            same.append(int((column[train[side].to_numpy()] == column[asked[side][row].as_py()]).sum()))
    assert len(same) > 6 and frequencies["rarest value"][row] == min(same)
    assert (frequencies["rarest value"] <= np.minimum(frequencies["user"], frequencies["item"])).all()
    assert (frequencies["rarest value"] < frequencies["item"]).any()


class ByPosition:
    """Knows the label's odds from the user alone; `position` is none of its inputs."""

    inputs = ("user", "category", "device")

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        self.given = arrays
        return 0.05 + 0.3 * (arrays["user"] % 7) / 7

    def probabilities(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"probability": self(arrays)}


def test_a_ranker_that_assumes_a_position_is_calibrated_where_items_stood_there(
    simulated: Pipeline, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, ranker = DatasetFolder.open(simulated.dataset_path), ByPosition()
    monkeypatch.setattr("recsys.scoring.ranker.load_ranker", lambda folder: ranker)
    record = {"backbone": "fm", "fields": {}, "sets": [{"name": "search", "kept_ratio": 0.5, "validation_auc": 0.6}]}
    (tmp_path / "ranking.json").write_text(json.dumps(record))
    events = dataset.events("test")
    for position in (None, {"field": "position", "neutral": "2"}):
        (tmp_path / "manifest.json").write_text(json.dumps({"ranking": {"position": position}}))
        found = evaluate_ranker(dataset, tmp_path, "test", resamples=20, confidence=0.9, seed=1)
        assert found is not None
        part = np.ones(len(events), bool)
        if position:
            places = dataset.vocabulary("position").table["value"].to_pylist()
            part = np.array([places[number - 3] for number in events["position"].to_numpy()]) == "2"
            assert found["position"] == {"field": "position", "neutral": "2", "rows": part.sum()}
        probabilities, labels = ranker(ranker.given), events["label"].to_numpy()
        assert found["overall"]["auc"]["value"] == metrics.auc(probabilities, labels)
        ratio = probabilities[part].sum() / labels[part].sum()
        assert found["overall"]["predicted_over_observed"]["value"] == pytest.approx(ratio)
        loss = metrics.log_loss(probabilities[part], labels[part])
        assert found["overall"]["log_loss"]["value"] == pytest.approx(loss)
        assert found["overall"]["calibration_error"]["value"] == metrics.calibration_error(
            probabilities[part], labels[part]
        )
        assert sum(point["rows"] for point in found["reliability"]) == part.sum()
        assert found["sets"][0]["auc"] == 0.6
    assert (found["rows"], found["bytes"]) == (None, None)  # what an older record does not have
    np.testing.assert_array_equal(ranker.given["device"], events["device"].to_numpy())
    categories = dataset.items["category"].to_numpy()
    np.testing.assert_array_equal(ranker.given["category"], categories[events["item"].to_numpy() - 3])
    assert "<svg" in str(ranking_section(found))
