"""Rankers of several tasks: clicks and conversions on one gated feature layer."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from benchmarks.parts.planted_noise import NAMES, write_planted_noise
from recsys._tensorflow import tf
from recsys.config.model import ModelConfig
from recsys.config.ranking import RankerConfig, RankingConfig, RankingTrainConfig, TaskConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.gates import Gates
from recsys.ranking.calibration import calibration_from_json
from recsys.ranking.evaluation import evaluate_task
from recsys.ranking.examples import split_examples
from recsys.ranking.job import rank
from recsys.ranking.live import LiveRanker
from recsys.ranking.measure import Shown
from recsys.ranking.metrics import auc, log_loss
from recsys.ranking.model import Ranker
from recsys.ranking.pruning import prune
from recsys.ranking.section import ranking_section
from recsys.ranking.spec import ranker_spec
from recsys.ranking.step import Trainer
from recsys.ranking.tasks import check_tasks
from recsys.ranking.workbench import Workbench
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.spec import two_tower_spec
from recsys.scoring.ranker import load_ranker
from tests.outcomes import with_outcome
from tests.ranking import oracle
from tests.ranking.test_backbones import BACKBONES, FEATURES
from tests.ranking.test_job import Impatient, Killed

TASKS = ("bought", "kept")


def make(tiny_dataset, backbone: str, *, tasks=TASKS, temperature: tf.Variable | None = None, **settings) -> Ranker:
    """A gated ranker with two more tasks, all weights large enough to matter."""
    defaults = {"hidden": (6, 5), "embedding_dim": 3, "initial_scale": 0.7}
    dataset = DatasetFolder.open(tiny_dataset)
    counts = {name: np.ones(dataset.vocabulary(name).size) for name in ("user", "item")}
    config = RankerConfig.model_validate({"backbone": backbone, **defaults, **settings})
    spec = replace(ranker_spec(dataset, config, counts), tasks=tasks)
    model = Ranker(spec, 5, gates=Gates("values", spec.rows, start=0.5, temperature=temperature))
    rng = np.random.default_rng(1)
    for variable in model.learned:
        variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    model.gates.logits.assign(rng.normal(0.2, 0.5, spec.rows))
    return model


def batch_of(outcomes: dict[str, list[float]]) -> dict:
    """A batch of `FEATURES`."""
    return {
        "features": {name: tf.constant(values) for name, values in FEATURES.items()},
        "labels": tf.constant([1.0, 0.0, 1.0, 0.0]),
        "weights": tf.constant([1.0, 0.5, 2.0, 1.0]),
        "offsets": tf.constant([0.0, 0.3, -0.2, 0.0]),
        "outcomes": {name: tf.constant(values, tf.float32) for name, values in outcomes.items()},
    }


NAN = float("nan")
OUTCOMES = {"bought": [1.0, NAN, 0.0, NAN], "kept": [0.0, 1.0, NAN, 1.0]}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_the_sum_over_known_rows(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone)
    trainer = Trainer(model, RankingTrainConfig(), 0, tasks={"bought": 0.5, "kept": 2.0})
    batch, gates = batch_of(OUTCOMES), oracle.hard(model)
    weights = batch["weights"].numpy().astype(np.float64)

    def losses(task: str | None, labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        z = oracle.logits(model, FEATURES, gates, task) - offsets
        return np.logaddexp(0, z) - labels * z

    total = float((weights * losses(None, batch["labels"].numpy(), batch["offsets"].numpy())).sum())
    for name, factor in (("bought", 0.5), ("kept", 2.0)):
        values = np.array(OUTCOMES[name])
        for row in range(len(values)):
            if not np.isnan(values[row]):
                total += factor * weights[row] * losses(name, np.nan_to_num(values), np.zeros(4))[row]
    assert float(trainer.loss(batch, None)) == pytest.approx(total / weights.sum(), rel=1e-4)


def test_unknown_everywhere_costs_nothing(tiny_dataset):
    model = make(tiny_dataset, "fm")
    unknown = batch_of(dict.fromkeys(TASKS, [NAN] * 4))
    with tf.GradientTape() as tape:
        loss = Trainer(model, RankingTrainConfig(), 0, tasks=dict.fromkeys(TASKS, 1.0)).loss(unknown, None)
    assert float(loss) == float(Trainer(model, RankingTrainConfig(), 0).loss(unknown, None))
    assert np.isfinite(tf.convert_to_tensor(tape.gradient(loss, model.table.table)).numpy()).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gates_get_the_gradient_of_the_sum_of_the_losses(tiny_dataset, backbone):
    """OptFS, section 11: one set of gates for all tasks."""
    model = make(tiny_dataset, backbone, temperature=tf.Variable(2.0, trainable=False))
    batch = batch_of(OUTCOMES)

    def gradient(**tasks: float) -> np.ndarray:
        with tf.GradientTape() as tape:
            tape.watch(model.gates.logits)
            loss = Trainer(model, RankingTrainConfig(), 0, tasks=tasks).loss(batch, None)
        return tf.convert_to_tensor(tape.gradient(loss, model.gates.logits)).numpy()

    click, bought, kept = gradient(), gradient(bought=1.0) - gradient(), gradient(kept=1.0) - gradient()
    assert min(np.abs(one).max() for one in (click, bought, kept)) > 1e-3
    np.testing.assert_allclose(gradient(bought=2.0, kept=0.5), click + 2 * bought + 0.5 * kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pruned_equals_masked_in_every_head(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone)
    logits = model.gates.logits.numpy()
    for closed in ("club", "price"):
        logits[model.spec.part(closed)] = -1.0
    model.gates.logits.assign(logits)
    pruned = prune(model)
    assert pruned.spec.rows < model.spec.rows and pruned.spec.tasks == TASKS
    before, after = LiveRanker(model).every(FEATURES), LiveRanker(pruned).every(FEATURES)
    assert list(before) == ["click", *TASKS]
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-5, atol=1e-5)
        task = None if name == "click" else name
        expected = oracle.logits(model, FEATURES, oracle.hard(model), task)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(before["bought"] - before["click"]).min() > 1e-3


@pytest.mark.parametrize("backbone", ["deepfm", "two_tower"])
def test_a_task_more_changes_nothing_of_the_click_at_first(tiny_dataset, backbone):
    counts = {name: np.ones(DatasetFolder.open(tiny_dataset).vocabulary(name).size) for name in ("user", "item")}
    spec = ranker_spec(DatasetFolder.open(tiny_dataset), RankerConfig(backbone=backbone), counts)
    alone, more = Ranker(spec, 3), Ranker(replace(spec, tasks=TASKS), 3)
    np.testing.assert_array_equal(LiveRanker(alone)(FEATURES), LiveRanker(more)(FEATURES))
    width = alone.table.table.shape[1]
    assert not more.table.table.numpy()[:, width:].any()  # first-order weights of the others, where there are any


# On data: the planted-noise rows, of whose positives some are followed by more.


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> DatasetFolder:
    """Planted noise."""
    folder = tmp_path_factory.mktemp("plain") / "dataset"
    write_planted_noise(folder, 8_000, 0)
    return DatasetFolder.open(folder)


@pytest.fixture(scope="module")
def planted(plain, tmp_path_factory) -> DatasetFolder:
    """Planted noise with the outcome `bought` of positives, told by the value of one field."""
    rng = np.random.default_rng(0)
    values = {}
    for split in ("train", "validation", "test"):
        events = plain.events(split)
        chance = np.where(events["informative_0"].to_numpy() % 2 == 0, 0.8, 0.1)
        drawn = (rng.random(len(events)) < chance).astype(float)
        values[split] = np.where(events["label"].to_numpy() > 0, drawn, NAN)
    return with_outcome(plain, tmp_path_factory.mktemp("planted") / "dataset", "bought", values)


SETTINGS = {
    "model": {"backbone": "deepfm", "embedding_dim": 4, "hidden": [8], "features": NAMES},
    "train": {"batch_size": 256, "learning_rate": 1e-2, "epochs": 2},
    "tasks": {"bought": {"label_field": "bought"}},
}
GATES = {"mode": "value-dense", "kappa": 2, "search_epochs": 2, "rewind_epoch": 1, "learning_rate": 5e-2}


def trained(dataset: DatasetFolder, folder, **changes):
    """Logits on the test part after training, and the workbench."""
    config = RankingConfig.model_validate({**SETTINGS, **changes})
    bench = Workbench(dataset, config, 1, CheckpointFolder(folder, "test"))
    outcome = bench.train("train")
    test = split_examples(bench.maker, "test", 1)
    return LiveRanker(bench.ranker(outcome)).every(test.features), test, outcome


def test_a_task_of_weight_zero_changes_nothing(planted, tmp_path):
    alone, _, _ = trained(planted, tmp_path / "alone", tasks={})
    nought, _, _ = trained(planted, tmp_path / "0", tasks={"bought": {"label_field": "bought", "weight": 0}})
    more, test, outcome = trained(planted, tmp_path / "1")
    np.testing.assert_array_equal(nought["click"], alone["click"])
    assert (more["click"] != alone["click"]).any()
    known = ~np.isnan(test.outcomes["bought"])
    assert (known == (test.labels > 0)).all()
    assert auc(more["bought"][known], test.outcomes["bought"][known]) > 0.8
    assert auc(nought["bought"][known], test.outcomes["bought"][known]) < 0.7
    assert outcome.task_auc["bought"] == outcome.epochs[outcome.best_epoch - 1]["auc_bought"] > 0.8


def test_a_task_of_clicks_leaves_other_rows_out_and_drawn_ones_too(plain, tmp_path):
    known = {split: np.ones(len(plain.events(split))) for split in ("train", "validation", "test")}
    known["train"][::2] = 0.0
    told = with_outcome(plain, tmp_path / "told", "bought", known)
    labels = plain.events("train")["label"].to_numpy()

    def examples(task: dict, **train):
        tasks = {"bought": {"label_field": "bought", **task}}
        config = RankingConfig.model_validate({**SETTINGS, "tasks": tasks, "train": {"batch_size": 256, **train}})
        bench = Workbench(told, config, 1, CheckpointFolder(tmp_path / "c", "test"))
        return split_examples(bench.maker, "train", 1)

    of_clicks = examples({}).outcomes["bought"]
    np.testing.assert_array_equal(of_clicks[labels > 0], known["train"][labels > 0])
    assert np.isnan(of_clicks[labels == 0]).all()
    np.testing.assert_array_equal(examples({"of": "impressions"}).outcomes["bought"], known["train"])
    drawn = examples({}, negatives={"per_positive": 2, "source": "batch"})
    assert len(drawn) == 3 * int((labels > 0).sum())
    np.testing.assert_array_equal(drawn.outcomes["bought"][drawn.labels > 0], known["train"][labels > 0])
    assert np.isnan(drawn.outcomes["bought"][drawn.labels == 0]).all()


def ranked(dataset: DatasetFolder, work, **changes):
    """The ranker folder of a job with gates."""
    config = RankingConfig.model_validate({**SETTINGS, "gates": GATES, "controls": ["backbone"], **changes})
    folders = {"checkpoints": work / "checkpoints", "logs": work / "logs"}
    return rank(dataset, config, 1, work / "ranker", **folders, quiet=True)


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory):
    return ranked(planted, tmp_path_factory.mktemp("ranked"))


def test_the_exported_ranker_tells_click_and_outcome(folder, planted):
    ranker = load_ranker(folder.path)
    assert ranker.tasks == ("bought",)
    table = planted.events("validation")
    arrays = {name: table[name].to_numpy() for name in ranker.inputs}
    assert "bought" not in ranker.inputs
    scores = ranker.score(arrays)
    task, stored = scores.tasks["bought"], json.loads((folder.path / "calibration.json").read_text())
    given = calibration_from_json(stored["tasks"]["bought"]).probabilities(task.logit)
    np.testing.assert_allclose(scores.probability, calibration_from_json(stored).probabilities(scores.logit), rtol=1e-5)
    np.testing.assert_allclose(task.probability, scores.probability * given, rtol=1e-5)
    labels, bought = table["label"].to_numpy(), table["bought"].to_numpy()
    assert given[labels > 0].mean() == pytest.approx(bought[labels > 0].mean(), abs=0.02)
    np.testing.assert_allclose(
        ranker.probabilities(arrays, batch_size=100)["probability_bought"], task.probability, rtol=1e-5
    )
    report = json.loads((folder.path / "ranking.json").read_text())
    assert {one["name"]: set(one["task_auc"]) for one in report["sets"]} == {
        "search": {"bought"},
        "backbone": {"bought"},
    }
    assert report["rows"]["after"] < report["rows"]["before"]
    assert auc(given[labels > 0], bought[labels > 0]) > 0.8


@pytest.mark.parametrize("looks", [4])
def test_a_killed_job_of_two_tasks_ends_with_the_same_bytes(folder, planted, tmp_path, monkeypatch, looks):
    with monkeypatch.context() as patched:
        patched.setattr("recsys.ranking.job.training_display", lambda quiet: nullcontext(Impatient(looks)))
        with pytest.raises(Killed):
            ranked(planted, tmp_path)
    assert ranked(planted, tmp_path).artifact_id == folder.artifact_id


def test_impressions_are_exported_as_they_are(plain, tmp_path):
    """An outcome of all impressions, clicked or not: its own calibration alone."""
    values = {split: plain.events(split)["informative_1"].to_numpy() % 2 for split in ("train", "validation", "test")}
    dataset = with_outcome(plain, tmp_path / "told", "even", values)
    made = ranked(
        dataset, tmp_path, gates=None, controls=[], tasks={"even": {"label_field": "even", "of": "impressions"}}
    )
    ranker, table = load_ranker(made.path), dataset.events("test")
    scores = ranker.score({name: table[name].to_numpy() for name in ranker.inputs})
    stored = json.loads((made.path / "calibration.json").read_text())
    given = calibration_from_json(stored["tasks"]["even"]).probabilities(scores.tasks["even"].logit)
    np.testing.assert_allclose(scores.tasks["even"].probability, given, rtol=1e-5)
    assert auc(scores.tasks["even"].probability, table["even"].to_numpy()) > 0.9


def test_evaluation_of_a_task_counts_impressions_without_a_click(planted):
    """Beside plain NumPy over the rows."""
    events = planted.events("test")
    labels, values = events["label"].to_numpy(), events["bought"].to_numpy().copy()
    values[np.flatnonzero(labels > 0)[::10]] = np.nan  # clicked, and not known what came of it
    events = events.set_column(events.column_names.index("bought"), "bought", pa.array(values))
    rng = np.random.default_rng(0)
    shown = Shown(labels, rng.integers(0, 50, len(labels)), rng.uniform(0.2, 0.8, len(labels)))
    product, neutral = shown.probabilities * rng.uniform(0.1, 0.9, len(labels)), rng.random(len(labels)) < 0.5
    found = evaluate_task(TaskConfig(label_field="bought"), events, shown, product, neutral, 20, 0.9, 1)
    known = ~((labels > 0) & np.isnan(values))
    outcome = np.where(labels > 0, np.nan_to_num(values), 0)
    assert (found["overall"]["rows"], found["overall"]["positives"]) == (known.sum(), outcome.sum())
    assert found["overall"]["auc"]["value"] == pytest.approx(auc(product[known], outcome[known]))
    there = known & neutral
    assert found["overall"]["log_loss"]["value"] == pytest.approx(log_loss(product[there], outcome[there]))
    assert found["overall"]["predicted_over_observed"]["value"] == pytest.approx(
        product[there].sum() / outcome[there].sum()
    )
    clicked = known & (labels > 0)
    given = (product / shown.probabilities)[clicked]
    assert found["given_click"]["rows"] == clicked.sum()
    assert found["given_click"]["auc"]["value"] == pytest.approx(auc(given, values[clicked]))
    every = evaluate_task(
        TaskConfig(label_field="bought", of="impressions"), events, shown, product, neutral, 0, 0.9, 1
    )
    assert "given_click" not in every and every["overall"]["rows"] == clicked.sum()
    page = {"overall": {"rows": 1, "users": 1, "positives": 1}, "split": "test", "reliability": [], "by_time": []}
    text = str(ranking_section(page | {"tasks": {"bought": found}}))
    assert "bought, of an impression" in text and "bought, given the click" in text
    assert f"{found['overall']['auc']['value']:.4f}" in text


@pytest.fixture
def bought(tiny_dataset, tmp_path) -> DatasetFolder:
    """The tiny data set with an outcome."""
    plain = DatasetFolder.open(tiny_dataset)
    values = {split: np.arange(len(plain.events(split))) % 2 for split in ("train", "validation", "test")}
    return with_outcome(plain, tmp_path / "bought", "bought", values)


def test_no_model_reads_an_outcome(bought):
    counts = {name: np.ones(bought.vocabulary(name).size) for name in ("user", "item")}
    assert "bought" in [field.name for field in bought.schema.fields]
    assert "bought" not in [field.name for field in ranker_spec(bought, RankerConfig(), counts).fields]
    query = two_tower_spec(bought, ModelConfig(), counts).query
    assert "bought" not in [inputs.name for inputs in query.inputs] and "device" in [one.name for one in query.inputs]
    for told in ({"features": ["item", "bought"]}, {"numeric": {"fields": {"bought": "quantile"}}}):
        with pytest.raises(UserError, match="'bought' is an outcome, known only after the event"):
            ranker_spec(bought, RankerConfig.model_validate(told), counts)
    with pytest.raises(UserError, match="cannot read 'bought'"):
        two_tower_spec(bought, ModelConfig.model_validate({"query": {"features": ["bought"]}}), counts)


def test_labels_that_cannot_teach_are_named(plain, tmp_path):
    labels = {split: plain.events(split)["label"].to_numpy() for split in ("train", "validation", "test")}
    half = {split: np.arange(len(values)) % 2 for split, values in labels.items()}

    def refusal(values: dict, task: dict, **train) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        tasks = {"bought": {"label_field": "bought", **task}}
        with pytest.raises(UserError) as refused:
            dataset = with_outcome(plain, place, "bought", values)
            check_tasks(dataset, RankingConfig.model_validate({"tasks": tasks, "train": train}))
        return str(refused.value)

    assert "'gone' is no outcome of the data set; it has ['bought']" in refusal(half, {"label_field": "gone"})
    assert "kind: outcome" in refusal(half, {"label_field": "noise_low_9"})
    assert "train-00000.parquet, row 1: 'bought' is 3" in refusal(half | {"train": 3 * half["train"]}, {})
    assert "row 1: 'bought' is 2" in refusal(half | {"validation": 2 * half["validation"]}, {})
    assert "training clicked rows hold [1.0]" in refusal(labels, {})
    clicked_only = {split: np.where(values > 0, half[split], NAN) for split, values in labels.items()}
    assert "known for clicked rows alone" in refusal(clicked_only, {"of": "impressions"})
    assert "no number of an event called 'heavy'" in refusal(half, {}, weight_field="heavy")


def test_settings_that_contradict_each_other_are_refused():
    for told, said in (
        ({"tasks": {"click": {"label_field": "x"}}}, "the click is always a task"),
        ({"tasks": {"Bought it": {"label_field": "x"}}}, "pattern"),
        ({"tasks": {"a": {"label_field": "x", "of": "impressions"}}, "train": {"negatives": {}}}, "need impressions"),
        ({"tasks": {"a": {"label_field": "x", "weight": -1}}}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=said):
            RankingConfig.model_validate(told)
    assert "tasks" not in RankingConfig().model_dump(mode="json")
