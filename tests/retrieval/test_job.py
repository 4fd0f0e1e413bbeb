"""The whole job on the tiny data set of a known optimum: learns it, resumes to the same bytes, refuses nonsense."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recsys._tensorflow import tf
from recsys.artifacts import Artifact, open_artifact
from recsys.config.model import ModelConfig
from recsys.config.train import LossConfig, TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.spec import audience_spec
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.job import _catalogue, train
from recsys.retrieval.live import build
from recsys.retrieval.shards import positive_pairs, scan_positives
from recsys.retrieval.spec import two_tower_spec
from recsys.retrieval.towers import TwoTower
from recsys.schema import FIRST_VALUE_ID, Side
from recsys.scoring.towers import load_tower
from tests.outcomes import with_outcome

SETTINGS = {
    "batch_size": 64,
    "epochs": 8,
    "patience": 8,
    "optimiser": {"learning_rate": 0.02},
    "validation": {"k": 5},
    "checkpoint": {"every_steps": 2},
}


def run(dataset: Path, folder: Path, *, model: dict | None = None, **changes) -> Artifact:
    return train(
        DatasetFolder.open(dataset),
        ModelConfig.model_validate(model or {}),
        TrainConfig.model_validate(SETTINGS | changes),
        1,
        folder / "model",
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        quiet=True,
    )


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(tiny_dataset, folder)
    return folder


def test_users_get_items_of_their_own_block(tiny_dataset: Path, trained: Path):
    """Ids and history only matter by block: the best items of a user are of its block, for new users too."""
    dataset = DatasetFolder.open(tiny_dataset)
    tower = load_tower(trained / "model" / "query_tower")
    vectors = np.load(trained / "model" / "vectors.npy")
    users = dataset.users
    arrays = {
        "user": users["user"].to_numpy(),
        "club": users["club"].to_numpy(),
        "device": np.full(len(users), FIRST_VALUE_ID, np.int32),
        "history": np.array([(row + [0] * 8)[:8] for row in users["history"].to_pylist()], np.int32),
    }
    best = np.argsort(-(tower(arrays) @ vectors.T), axis=1)[:, :5]
    colour = dataset.features(Side.ITEM)["colour"][FIRST_VALUE_ID:]
    right = colour[best] == arrays["club"][:, None]
    assert right.mean() > 0.95
    arrays["user"] = np.full(len(users), 2, np.int32)  # unseen
    best = np.argsort(-(tower(arrays) @ vectors.T), axis=1)[:, :5]
    assert (colour[best] == arrays["club"][:, None]).mean() > 0.95


def test_with_bfloat16_products_it_learns_as_well(tiny_dataset: Path, trained: Path, tmp_path: Path):
    """The same best recall as in float32, from a loss that is not the same to the bit."""
    run(tiny_dataset, tmp_path, loss={"precision": "bfloat16"})
    records = [json.loads((folder / "model" / "training.json").read_text())["epochs"] for folder in (trained, tmp_path)]
    exact, rough = (max(epoch["recall@5"] for epoch in epochs) for epochs in records)
    assert rough >= exact - 0.02
    assert records[0][-1]["loss"] != records[1][-1]["loss"]
    assert records[1][-1]["loss"] == pytest.approx(records[0][-1]["loss"], rel=0.05)


def test_the_folder_keeps_the_contract(tiny_dataset: Path, trained: Path):
    """Manifest, named inputs, normalised vectors that the exported item tower gives too, the record of training."""
    artifact = open_artifact(trained / "model", MODEL_KIND, MODEL_FORMAT, verify=True)
    dataset = DatasetFolder.open(tiny_dataset)
    assert artifact.manifest["dataset"] == dataset.artifact.artifact_id
    query, item = (load_tower(trained / "model" / f"{name}_tower") for name in ("query", "item"))
    assert set(query.inputs) == {"user", "club", "device", "history"}
    assert set(item.inputs) == {"item", "colour", "tags", "price"}
    assert query.widths["history"] == 8 and item.widths["tags"] == 0
    vectors = np.load(trained / "model" / "vectors.npy")
    features = {name: column[FIRST_VALUE_ID:] for name, column in dataset.features(Side.ITEM).items()}
    again = item({"item": dataset.items["item"].to_numpy(), **features})
    np.testing.assert_allclose(again, vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    representation = json.loads((trained / "model" / "representation.json").read_text())
    assert representation["dimension"] == vectors.shape[1] and representation["normalised"] is True
    record = json.loads((trained / "model" / "training.json").read_text())
    recalls = [epoch["recall@5"] for epoch in record["epochs"]]
    assert record["best_epoch"] == 1 + int(np.argmax(recalls))
    assert list((trained / "logs").rglob("events.out.tfevents.*"))


def test_where_recall_ends_at_one_ndcg_chooses_the_epoch(tiny_dataset: Path, tmp_path: Path):
    run(tiny_dataset, tmp_path, epochs=4, patience=4, validation={"k": 100}, optimiser={"learning_rate": 0.002})
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [epoch["recall@100"] for epoch in record["epochs"]] == [1.0] * 4
    assert record["best_epoch"] == 1 + int(np.argmax([epoch["ndcg@100"] for epoch in record["epochs"]])) > 1


def test_serving_ignores_dropout_and_padding(trained: Path):
    """The same query twice is the same vector, and so with more padding inside the fixed width."""
    tower = load_tower(trained / "model" / "query_tower")
    arrays = {
        "user": np.array([3, 3], np.int32),
        "club": np.array([3, 3], np.int32),
        "device": np.array([3, 3], np.int32),
        "history": np.array([[4, 5, 0, 0, 0, 0, 0, 0]] * 2, np.int32),
    }
    first = tower(arrays)
    np.testing.assert_array_equal(first, tower(arrays))
    np.testing.assert_array_equal(first[0], first[1])


CHILD = """
import sys
from pathlib import Path
from tests.retrieval.test_job import RESUMED, run
run(Path(sys.argv[1]), Path(sys.argv[2]), **RESUMED)
"""

RESUMED = {
    "model": {"user_id": {"dropout": 0.2}, "history": {"dropout": 0.2}, "temperature": {"learned": True}},
    "loss": {"frequencies": "streaming", "uniform_negatives": 8, "cross_batch_negatives": 100},
    "ssl": {"batch_size": 8, "warmup_steps": 4},
    "epochs": 3,
    "refit_on_validation": True,
}


IN_REFIT = 7
"""The first checkpoint of the second phase: the first one saves twice in each of its three epochs."""


class Stopped(BaseException):
    """Stands for a kill right after a checkpoint: nothing of the job may catch it."""


def test_stopped_at_any_moment_it_ends_with_the_same_bytes(tiny_dataset: Path, tmp_path: Path, monkeypatch):
    """By SIGKILL in the first phase and in the middle of the second: the artefact equals that of an undisturbed run."""
    expected = run(tiny_dataset, tmp_path / "undisturbed", **RESUMED)
    disturbed = tmp_path / "disturbed"
    save = CheckpointFolder.save

    def stopping(folder: CheckpointFolder, number: int, *rest) -> None:
        save(folder, number, *rest)
        if number == IN_REFIT:
            raise Stopped

    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tiny_dataset), str(disturbed)])
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if (disturbed / "checkpoints" / "checkpoint-000000000003.npz").exists():
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    monkeypatch.setattr(CheckpointFolder, "save", stopping)
    with pytest.raises(Stopped):
        run(tiny_dataset, disturbed, **RESUMED)
    monkeypatch.undo()
    assert run(tiny_dataset, disturbed, **RESUMED).artifact_id == expected.artifact_id


def test_positives_weigh_what_their_field_says(tiny_dataset: Path, tmp_path: Path):
    """All alike is as without; else it is another model. A row without a weight is named."""
    plain = DatasetFolder.open(tiny_dataset)
    clubs = plain.features(Side.USER)["club"]

    def with_weights(name: str, odd: float) -> Path:
        values = {
            split: np.where(clubs[plain.events(split)["user"].to_numpy()] == FIRST_VALUE_ID, 1.0, odd)
            for split in ("train", "validation", "test")
        }
        return with_outcome(plain, tmp_path / name, "watched", values).path

    settings = {"epochs": 1, "loss": {"weight_field": "watched"}}
    run(tiny_dataset, tmp_path / "without", epochs=1)
    for name, odd in (("ones", 1.0), ("half", 0.0)):
        run(with_weights(name, odd), tmp_path / f"{name}-run", **settings)
    without, ones, half = (
        np.load(tmp_path / name / "model" / "vectors.npy") for name in ("without", "ones-run", "half-run")
    )
    np.testing.assert_allclose(ones, without, atol=1e-6)
    assert np.abs(half - without).max() > 0.01
    with pytest.raises(UserError, match=r"train\.loss\.weight_field: .*row \d+: 'watched' is nan"):
        run(with_weights("holes", np.nan), tmp_path / "holes-run", **settings)
    with pytest.raises(UserError, match=r"train\.loss\.weight_field: .*no number of an event called 'watched'"):
        run(tiny_dataset, tmp_path / "none-run", **settings)


def test_settings_that_do_not_fit_are_user_errors(tiny_dataset: Path, tmp_path: Path):
    """Named by their path in the configuration."""
    with pytest.raises(UserError, match=r"model\.item\.features.*weight"):
        run(tiny_dataset, tmp_path, model={"item": {"features": ["weight"]}})
    with pytest.raises(UserError, match=r"model\.query: the tower reads nothing"):
        run(tiny_dataset, tmp_path, model={"query": {"features": []}, "user_id": {"use": False}})
    with pytest.raises(UserError, match=r"learning_rate"):
        run(tiny_dataset, tmp_path, optimiser={"learning_rate": 1e30, "kind": "adagrad"})
    assert not (tmp_path / "model").exists()


def test_items_read_their_users(tiny_dataset: Path, tmp_path: Path):
    """The exported item tower knows each item's users by itself; a training row's own user is left out."""
    model = {"item_audience": True, "item": {"features": []}}
    run(tiny_dataset, tmp_path, model=model, epochs=2)
    dataset, tower = DatasetFolder.open(tiny_dataset), load_tower(tmp_path / "model" / "item_tower")
    items = np.arange(len(dataset.items), dtype=np.int32) + FIRST_VALUE_ID
    vectors = np.load(tmp_path / "model" / "vectors.npy")
    np.testing.assert_allclose(tower({"item": items}), vectors, atol=1e-6)

    events = scan_positives(dataset, ("train",))
    users, ids = positive_pairs(events)
    spec = two_tower_spec(dataset, ModelConfig.model_validate(model), events.counts)
    fresh = TwoTower(replace(spec, audience=audience_spec(users, ids, len(events.counts["item"]))), seed=1)
    build(fresh)
    row = {"item": tf.constant(ids[:1]), "user": tf.constant(users[:1])}
    before, told = fresh.item_tower(row).numpy(), fresh.item_tower({"item": row["item"]}).numpy()
    table = fresh.embedding_tables["user"]
    place = int(table.rows(row["user"])[0])
    table.table.scatter_nd_update([[place]], [np.full(table.dim, 9.0, np.float32)])
    np.testing.assert_allclose(fresh.item_tower(row).numpy(), before, atol=1e-5)
    assert np.abs(fresh.item_tower({"item": row["item"]}).numpy() - told).max() > 0.1


def test_a_prior_is_served_and_not_trained(tiny_dataset: Path, tmp_path: Path):
    """Training is that of a model without; served inner products rank by cosine + weight * log(count)."""
    plain = run(tiny_dataset, tmp_path / "plain", epochs=2, patience=2)
    prior = run(tiny_dataset, tmp_path / "prior", epochs=2, patience=2, model={"popularity_prior": 0.3})
    losses = [
        [epoch["loss"] for epoch in json.loads((folder.path / "training.json").read_text())["epochs"]]
        for folder in (plain, prior)
    ]
    assert losses[0] == losses[1]
    dataset = DatasetFolder.open(tiny_dataset)
    cosines, scores = (
        load_tower(folder.path / "query_tower")(query_inputs(dataset)) @ np.load(folder.path / "vectors.npy").T
        for folder in (plain, prior)
    )
    counts = scan_positives(dataset, ("train",)).counts["item"][FIRST_VALUE_ID:]
    wanted = cosines + 0.3 * np.log(np.maximum(counts, 1))
    assert prior_scale(scores, wanted) == pytest.approx(np.sqrt(2 * (1 + (0.3 * np.log(counts.max())) ** 2)), rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(np.load(prior.path / "vectors.npy"), axis=1), 1.0, atol=1e-6)


def query_inputs(dataset: DatasetFolder) -> dict[str, np.ndarray]:
    """What the query tower reads of each user, no context."""
    users = dataset.users
    return {
        "user": np.arange(len(users), dtype=np.int32) + FIRST_VALUE_ID,
        "club": dataset.features(Side.USER)["club"][FIRST_VALUE_ID:],
        "device": np.full(len(users), FIRST_VALUE_ID, np.int32),
        "history": np.array([[*row, *[0] * (8 - len(row))] for row in users["history"].to_pylist()], np.int32),
    }


def prior_scale(scores: np.ndarray, wanted: np.ndarray) -> float:
    """The factor between two tables of scores, which must be one and the same everywhere."""
    np.testing.assert_allclose(scores * (wanted.std() / scores.std()), wanted, atol=1e-4)
    return float(wanted.std() / scores.std())


@pytest.mark.parametrize(("of", "uniform"), [("catalogue", 0), ("catalogue", 5), ("positives", 5)])
def test_uniform_negatives_may_be_of_items_with_positives(of: str, uniform: int, tiny_dataset: Path) -> None:
    """And only then; what the loss takes for the number of items follows. Without any, their source is a mistake."""
    dataset = DatasetFolder.open(tiny_dataset)
    counts = scan_positives(dataset, ("train",)).counts["item"].copy()
    counts[[FIRST_VALUE_ID, FIRST_VALUE_ID + 4]] = 0
    spec = two_tower_spec(dataset, ModelConfig(), counts={"user": counts, "item": counts})
    config = TrainConfig.model_validate({"loss": {"uniform_negatives": uniform, "uniform_negatives_from": of}})
    ids = _catalogue(dataset, spec, config, ("train",), counts).ids.tolist()
    every = list(range(FIRST_VALUE_ID, FIRST_VALUE_ID + len(dataset.items)))
    assert ids == [one for one in every if counts[one] > 0 or of == "catalogue"]
    with pytest.raises(ValidationError, match="that is 0"):
        LossConfig.model_validate({"uniform_negatives_from": "positives"})
