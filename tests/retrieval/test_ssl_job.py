"""Self-supervision in the job: what it draws and hides as wired, what it reports, and that off is off."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recsys._tensorflow import tf
from recsys.config.model import ModelConfig
from recsys.config.ssl import SslConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.retrieval.input import drawable_ids
from recsys.retrieval.job import build
from recsys.retrieval.shards import scan_positives
from recsys.retrieval.spec import two_tower_spec
from recsys.retrieval.ssl import make_masks, report, self_supervisions
from recsys.retrieval.step import Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, USER, Side
from recsys.scoring.towers import load_tower
from tests.retrieval.test_job import run
from tests.retrieval.test_ssl import COLD, STEP


def test_the_job_asks_each_step_what_is_due(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the start of training, over the ends of epochs."""
    taken, step = [], Trainer.train_step

    def counted(self: Trainer, batch, rate, due, rest):
        taken.append(due)
        assert not rest
        return step.__get__(self, Trainer)(batch, rate, due, rest)

    monkeypatch.setattr(Trainer, "train_step", counted)
    run(tiny_dataset, tmp_path, ssl={"batch_size": 4, "every": 3}, epochs=2)
    assert len(taken) > 6 and taken == [(place % 3 == 0,) for place in range(len(taken))]


def test_off_is_the_same_model_to_the_bit(tiny_dataset: Path, tmp_path: Path) -> None:
    """No section, or one that weighs nothing: the same vectors and nothing reported."""
    run(tiny_dataset, tmp_path / "none", epochs=2)
    run(tiny_dataset, tmp_path / "zero", epochs=2, ssl={"weight": 0.0})
    vectors = [np.load(tmp_path / name / "model" / "vectors.npy") for name in ("none", "zero")]
    np.testing.assert_array_equal(*vectors)
    assert "self_supervision" not in json.loads((tmp_path / "zero" / "model" / "training.json").read_text())


def test_the_job_trains_with_it_and_exports_without_masks(tiny_dataset: Path, tmp_path: Path) -> None:
    """training.json says what was hidden together; the exported tower gives the catalogue's vectors, unmasked."""
    run(tiny_dataset, tmp_path, epochs=2, ssl={"method": "cfm", "weight": 0.3, "batch_size": 8})
    report = json.loads((tmp_path / "model" / "training.json").read_text())["self_supervision"]["item"]
    assert report["fields"] == ["item", "colour", "tags", "price"]
    assert report["mutual_information"][0][1:] == [0.69, 0.35, 2.2]
    assert report["mutual_information"][0][0] == pytest.approx(np.log(len(DatasetFolder.open(tiny_dataset).items)))
    assert report["hidden_together"]["colour"] == ["item", "colour", "tags"], "the id tells all about a colour"
    assert report["hidden_together"]["item"] == ["item", "colour", "price"], "the id with what says most of it"
    dataset = DatasetFolder.open(tiny_dataset)
    tower = load_tower(tmp_path / "model" / "item_tower")
    ids = dataset.items["item"].to_numpy()
    static = {name: column[ids] for name, column in dataset.features(Side.ITEM).items()}
    vectors = tower({ITEM: ids, **static})
    np.testing.assert_allclose(vectors, np.load(tmp_path / "model" / "vectors.npy"), atol=1e-6)


@pytest.mark.parametrize("rank", ["by_information", "last"])
def test_the_job_hides_together_what_it_reports(rank: str, tiny_dataset: Path) -> None:
    """The masks of a step are a row of the report and its complement, and every row occurs."""
    dataset = DatasetFolder.open(tiny_dataset)
    config = TrainConfig.model_validate({"ssl": {"id_rank": rank, "batch_size": 8}})
    model = TwoTower(two_tower_spec(dataset, ModelConfig(), scan_positives(dataset, ("train",)).counts), 1)
    build(model)
    (one,) = self_supervisions(dataset, model, config, 3, ("train",))
    together = report(one)["hidden_together"]
    assert ("item" in together["tags"]) == (rank == "by_information")
    rows = {frozenset(fields) for fields in together.values()}
    found = set()
    for seed in range(40):
        hidden = [frozenset(np.array(one.visible)[mask]) for mask in one.masks(tf.constant([seed, 2])).numpy()]
        assert hidden[1] == set(one.visible) - hidden[0]
        found.add(hidden[0])
    assert found == rows


def test_draws_are_of_what_there_was_in_training_and_in_the_refit(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of self-supervision and of uniform negatives, by the parts that a phase trains on."""
    asked = []

    def told(dataset: DatasetFolder, side: Side, splits: tuple[str, ...]) -> np.ndarray:
        asked.append(splits)
        return drawable_ids(dataset, side, splits)

    for module in ("ssl", "job"):
        monkeypatch.setattr(f"recsys.retrieval.{module}.drawable_ids", told)
    once = {"epochs": 1, "ssl": {"batch_size": 4}, "loss": {"uniform_negatives": 4}}
    run(tiny_dataset, tmp_path, refit_on_validation=True, **once)
    assert asked == [("train",)] * 2 + [("train", "validation")] * 2


def test_how_the_id_ranks_is_of_cfm_alone() -> None:
    with pytest.raises(ValidationError, match="ranks nothing"):
        SslConfig.model_validate({"method": "rfm", "id_rank": "last"})


def test_too_few_fields_are_a_user_error(tiny_dataset: Path, tmp_path: Path) -> None:
    """The item tower with two; users of the tiny shop have an id and a club only."""
    with pytest.raises(UserError, match=r"train\.ssl.*at least 3"):
        run(tiny_dataset, tmp_path, model={"item": {"features": ["colour"]}}, ssl={})
    with pytest.raises(UserError, match=r"train\.query_ssl.*\['user', 'club'\]"):
        run(tiny_dataset, tmp_path, query_ssl={})
    assert not (tmp_path / "model").exists()


def test_as_wired_each_tower_draws_from_all_of_its_own(tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over the draws meets every item, or every user, as often as any other; the loss is of that tower.

    Users of the tiny shop have two fields, one less than is asked for.
    """
    monkeypatch.setattr("recsys.retrieval.ssl.LEAST_FIELDS", 2)
    dataset = DatasetFolder.open(tiny_dataset)
    section = {"method": "rfm", "batch_size": 4}
    config = TrainConfig.model_validate({"ssl": section, "query_ssl": section})
    counts = scan_positives(dataset, ("train",)).counts
    model = TwoTower(two_tower_spec(dataset, ModelConfig(), counts), 1)
    build(model)
    found = self_supervisions(dataset, model, config, 3, ("train",))
    assert [one.tower for one in found] == [model.item_tower, model.query_tower]
    for one, entities, name in zip(found, (dataset.items, dataset.users), (ITEM, USER), strict=True):
        ids = entities[name].to_numpy()
        assert len(ids) % 4 == 0
        drawn = [one.draw(tf.constant(step, tf.int64), {}).numpy() for step in range(len(ids) // 4)]
        assert sorted(np.concatenate(drawn).tolist()) == sorted(ids.tolist())
        with tf.GradientTape() as tape:
            loss = one.loss(STEP, {}, COLD)
        weights = model.trainable_variables
        slopes = zip(weights, tape.gradient(loss, weights), strict=True)
        reached = {id(weight) for weight, slope in slopes if slope is not None}
        own, others = ({id(x) for x in side.tower.trainable_variables} for side in (one, found[1 - found.index(one)]))
        assert reached & (own - others) and not reached & (others - own)


def test_the_id_can_come_last_among_what_is_hidden_with_a_field() -> None:
    """With four fields, three are hidden together: the id with every field, or with itself alone."""
    information = np.array([[0.0, 3.0, 2.0, 1.0], [3.0, 3.0, 0.5, 0.4], [2.0, 0.5, 2.0, 0.3], [1.0, 0.4, 0.3, 1.0]])
    seeds = [tf.constant([seed, 1]) for seed in range(40)]

    def shares(rank: str) -> float:
        masks = make_masks(SslConfig.model_validate({"id_rank": rank}), information, 0)
        assert masks is not None
        return float(np.mean([masks(seed).numpy()[0, 0] for seed in seeds]))

    assert shares("by_information") == 1.0
    assert 0.1 < shares("last") < 0.45
