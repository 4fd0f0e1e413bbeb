"""The ranking job end to end on a little planted noise: what it finds, what it writes, and that it can be killed."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.parts.planted_noise import NAMES, write_planted_noise
from recsys.artifacts import latency_file
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.examples import split_examples
from recsys.ranking.job import rank
from recsys.ranking.live import LiveRanker
from recsys.ranking.metrics import auc
from recsys.ranking.pruning import prune
from recsys.ranking.selection import Candidate, at_random, choose, most_frequent
from recsys.ranking.workbench import Workbench
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.display import Display
from recsys.scoring.ranker import load_ranker

SETTINGS = {
    "model": {"backbone": "fm", "embedding_dim": 8, "features": NAMES},
    "train": {"batch_size": 512, "learning_rate": 1e-2, "epochs": 3},
    "gates": {
        "mode": "value-dense",
        "kappa": 6,
        "search_epochs": 3,
        "rewind_epoch": 1,
        "learning_rate": 1e-2,
        "fields": None,
    },
    "controls": ["frequency"],
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "dataset"
    return folder, write_planted_noise(folder, 24_000, 0)


@pytest.fixture(scope="module")
def ranked(planted, tmp_path_factory):
    """A ranker folder made without disturbance."""
    work = tmp_path_factory.mktemp("ranked")
    config = RankingConfig.model_validate(SETTINGS)
    dataset = DatasetFolder.open(planted[0])
    return rank(dataset, config, 1, work / "ranker", checkpoints=work / "checkpoints", logs=work / "logs", quiet=True)


def bench_of(planted, folder: Path, **changes) -> Workbench:
    config = RankingConfig.model_validate({**SETTINGS, **changes})
    return Workbench(DatasetFolder.open(planted[0]), config, 1, CheckpointFolder(folder, "test"))


def test_noise_is_closed_and_prediction_is_better_than_the_control(ranked):
    report = json.loads((ranked.path / "ranking.json").read_text())
    kept = {name: one["kept"] / one["values"] for name, one in report["fields"].items()}
    assert max(kept[name] for name in kept if name.startswith("noise_high")) < 0.02
    assert min(kept[name] for name in kept if name.startswith("informative")) > 0.3
    sets = {one["name"]: one for one in report["sets"]}
    assert sets["search"]["chosen"] and not sets["frequency"]["chosen"]
    assert sets["search"]["kept_ratio"] == pytest.approx(sets["frequency"]["kept_ratio"])
    assert sets["search"]["validation_auc"] > sets["frequency"]["validation_auc"] + 0.03
    assert report["rows"]["after"] < 0.1 * report["rows"]["before"]
    assert report["bytes"]["after"] < 0.1 * report["bytes"]["before"]
    latency = json.loads(latency_file(ranked.path).read_text())
    assert latency["candidates"] == 200 and latency["before"]["p99_ms"] >= latency["before"]["p50_ms"] > 0
    assert latency["after"]["p50_ms"] > 0 and not list(ranked.path.rglob("*latency*"))
    assert report["live"]["after"]["interactions"] < report["live"]["before"]["interactions"] == 55


def test_value_tables_say_where_each_value_went(ranked, planted):
    dataset = DatasetFolder.open(planted[0])
    table = pq.read_table(ranked.path / "values" / "informative_0.parquet").to_pydict()
    assert table["value"][:3] == ["(missing)", "(unseen)", "0"] and table["old_id"][2] == 3
    trained = dataset.events("train", ("informative_0",))["informative_0"].to_numpy()
    assert table["count"][2] == (trained == 3).sum()
    assert table["kept"] == [logit > 0 for logit in table["logit"]]
    new = np.array(table["new_id"])
    assert len(set(new[np.array(table["kept"])])) == sum(table["kept"])  # a row each
    closed = new[~np.array(table["kept"])]
    assert len(set(closed.tolist())) == 1  # all share the row of zeros


def test_exported_probabilities_are_calibrated(ranked, planted):
    dataset = DatasetFolder.open(planted[0])
    ranker = load_ranker(ranked.path)
    table = dataset.events("validation")
    arrays = {name: table[name].to_numpy() for name in ranker.inputs}
    labels = table["label"].to_numpy()
    probabilities = ranker(arrays)
    assert auc(probabilities, labels) > 0.7
    assert probabilities.mean() == pytest.approx(labels.mean(), abs=0.01)
    scores = ranker.score({name: values[:200] for name, values in arrays.items()})
    np.testing.assert_allclose(scores.probability, probabilities[:200], rtol=1e-5)
    assert {name: len(values) for name, values in scores.activations.items()} == dict.fromkeys(
        ("encoded", "first_hidden", "last_hidden"), 200
    )
    with pytest.raises(UserError, match="reads the column 'informative_0'"):
        ranker.score({})


class Killed(Exception):
    """Stands for SIGKILL."""


class Impatient(Display):
    """A display that kills the job at the n-th look at the loss."""

    def __init__(self, looks: int) -> None:
        super().__init__(None)
        self.looks = looks

    def step(self, *arguments) -> None:
        self.looks -= 1
        if self.looks == 0:
            raise Killed


@pytest.mark.parametrize("looks", [1, 4, 8])
def test_a_killed_job_ends_with_the_same_bytes(ranked, planted, tmp_path, monkeypatch, looks):
    from contextlib import nullcontext

    config = RankingConfig.model_validate(SETTINGS)
    dataset = DatasetFolder.open(planted[0])
    folders = {"checkpoints": tmp_path / "checkpoints", "logs": tmp_path / "logs"}
    with monkeypatch.context() as patched:
        patched.setattr("recsys.ranking.job.training_display", lambda quiet: nullcontext(Impatient(looks)))
        with pytest.raises(Killed):
            rank(dataset, config, 1, tmp_path / "ranker", **folders, quiet=True)
    again = rank(dataset, config, 1, tmp_path / "ranker", **folders, quiet=True)
    assert again.artifact_id == ranked.artifact_id


def test_training_never_moves_gates_and_starts_where_it_is_told(planted, tmp_path):
    bench = bench_of(planted, tmp_path)
    gates = bench.config.gates
    searched = bench.search("search", gates)
    trained = bench.train("train", gates, searched.gates, searched.rewind)
    np.testing.assert_array_equal(trained.gates, searched.gates)
    assert bench.train("train", gates, searched.gates, searched.rewind).best_auc == trained.best_auc  # read back
    assert set(searched.rewind) == set(searched.weights) and any(
        (searched.rewind[key] != searched.weights[key]).any() for key in searched.rewind
    )
    model = bench.ranker(trained, gates)
    test = split_examples(bench.maker, "test", 1)
    masked, exported = LiveRanker(model)(test.features), LiveRanker(prune(model))(test.features)
    assert np.abs(masked - exported).max() < 1e-4
    assert auc(masked, test.labels) > 0.7


def test_without_penalty_every_gate_stays_open(planted, tmp_path):
    """Whatever lambda is, the ratio falls with it; at 0 nothing is pushed down, at a huge one nearly all closes."""
    ratios = []
    for kappa in (0.0, 6.0, 3000.0):
        bench = bench_of(planted, tmp_path / str(kappa))
        gates = bench.config.gates.model_copy(update={"kappa": kappa})
        ratios.append(bench.kept_ratio(bench.search("search", gates).gates, gates))
    assert ratios[0] > 0.97 and ratios[0] > ratios[1] > ratios[2] and ratios[2] < 0.01


def test_a_search_that_cannot_close_is_refused(planted, tmp_path):
    bench = bench_of(planted, tmp_path)
    with pytest.raises(UserError, match=r"ranking\.gates: a gate that nothing needs"):
        bench.search("search", bench.config.gates.model_copy(update={"learning_rate": 1e-5}))


def test_counts_are_of_training_rows(planted, tmp_path):
    bench = bench_of(planted, tmp_path)
    dataset = DatasetFolder.open(planted[0])
    for name in NAMES:
        part = bench.spec.part(name)
        expected = np.bincount(dataset.events("train", (name,))[name].to_numpy(), minlength=part.stop - part.start)
        np.testing.assert_array_equal(bench.counts[part], expected)


def test_the_knee_is_the_smallest_set_that_is_as_good():
    candidates = [
        Candidate(0.05, 1.0, 0.800),
        Candidate(1, 0.4, 0.802),
        Candidate(5, 0.1, 0.8015),
        Candidate(80, 0, 0.5),
    ]
    assert choose(candidates, 0.001) == 2
    assert choose(candidates, 0.0) == 1


def test_controls_have_the_size_asked_for():
    counts = np.array([0, 5, 9, 1, 9, 7])
    allowed = np.array([True, True, False, True, True, True])
    assert most_frequent(counts, allowed, 2).tolist() == [False, False, False, False, True, True]
    assert at_random(allowed, 3, 0).sum() == 3 and not at_random(allowed, 3, 0)[2]
