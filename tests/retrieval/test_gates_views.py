"""Gates and self-supervision together: the second loss teaches gates, and views hide what the gates left open."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.gate_search import carry_gates, occurrences, set_gates
from recsys.retrieval.gates import TowerGates, gate_spec, make_gates
from recsys.retrieval.live import build
from recsys.retrieval.ssl import SelfSupervision, report, self_supervisions
from recsys.retrieval.step import Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, USER
from tests.retrieval.test_gates import QUICK, gated_model, spec_of
from tests.retrieval.test_job import Stopped, run
from tests.retrieval.test_ssl import COLD, inputs_of, step_through, supervised, trainer, two_tower

STEP = tf.constant(0, tf.int64)
FREE = GateSearch(
    start=0.5, penalty=0.0, final_temperature=200.0, epochs=6, epoch_steps=9, learning_rate=0.01, epsilon=1e-8
)


def soft_model() -> tuple[TwoTower, TowerGates]:
    """The model of the self-supervision tests with a soft gate a category and a tag."""
    spec = two_tower().spec
    config = GatesConfig.model_validate({"mode": "value-lazy", "penalty": 0.0, "fields": ["category", "tags"]})
    gates = make_gates(gate_spec(spec, config), spec.tables, hard=False)
    model = TwoTower(spec, 5, gates)
    build(model)
    return model, gates


def test_the_gates_gradient_of_the_second_loss_is_that_of_finite_differences() -> None:
    """Of L_self alone, by the logit of a category and of a tag: were it stopped anywhere, it would be 0."""
    model, gates = soft_model()
    one = supervised(model, value_dropout=0.0)
    logits = [gates.tables[name].logits for name in ("category", "tags")]
    for variable in model.trainable_variables:  # larger embeddings, so that differences stand out of float32's noise
        variable.assign(variable * 3.0)
    for (
        logit
    ) in logits:  # gates above 1: what a value counts in a mean is 1 around here, and takes no gradient by design
        logit.assign(tf.ones_like(logit))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = one.loss(STEP, {}, COLD)
    for logit, gradient in zip(logits, tape.gradient(loss, logits), strict=True):
        gradient = tf.convert_to_tensor(gradient).numpy()
        place = int(np.argmax(np.abs(gradient)))
        start, found = logit.numpy(), []
        for way in (0.02, -0.02):
            moved = start.copy()
            moved[place] += way
            logit.assign(moved)
            found.append(float(one.loss(STEP, {}, COLD)))
        logit.assign(start)
        assert abs(gradient[place]) > 1e-3
        assert gradient[place] == pytest.approx((found[0] - found[1]) / 0.04, rel=0.05)


@pytest.mark.parametrize("dense", [True, False])
def test_the_step_gives_gates_the_gradient_of_the_second_loss(dense: bool) -> None:
    """Values that only items without a click have: no gate of theirs moves without self-supervision, all do with it."""
    clicked = {int(value) for value in inputs_of(np.arange(3, 13))["category"].numpy()}
    others = [value for value in range(3, 15) if value not in clicked]
    assert len(others) >= 3
    moved = {}
    for supervise in (False, True):
        model, gates = soft_model()
        ones: tuple[SelfSupervision, ...] = (supervised(model, weight=1.0),) if supervise else ()
        one = trainer(model, "adam", ones)
        one.gates = GateOptimiser(gates.all, FREE, dense=dense)
        step_through(one, 6)
        moved[supervise] = np.abs(gates.tables["category"].logits.numpy()[others] - FREE.start)
    assert moved[False].max() == 0.0
    assert moved[True].min() > 0.0


@pytest.mark.parametrize("dense", [True, False])
def test_a_resting_gate_stays_though_a_view_asks_for_it(dense: bool) -> None:
    """The warm-up's steps: weights as in a model without a search, gates and their clock where they were."""
    tables = []
    for rest in (True, None):
        model, gates = soft_model()
        one = trainer(model, "adam", (supervised(model, weight=1.0),))
        if rest:
            one.gates = GateOptimiser(gates.all, FREE, dense=dense)
        batch = {"query": {USER: tf.range(3, 9)}, "item": inputs_of(np.arange(3, 9))}
        one.optimiser.build(model.trainable_variables)
        one.train_step(batch, tf.constant(0.05), None, bool(rest))
        assert (gates.tables["category"].logits.numpy() == FREE.start).all()
        tables.append([variable.numpy() for variable in model.trainable_variables])
    assert int(one.step) == 1
    for first, second in zip(*tables, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_occurrences_are_those_of_the_main_batch_in_both_towers(tiny_dataset: Path) -> None:
    """Each value of a list once, padding never, ids without a row as the unseen row; the batch's size beside them."""
    model = gated_model(spec_of(tiny_dataset), hard=False, mode="value-lazy")
    batch = {
        "query": {
            USER: tf.constant([3, 4]),
            "club": tf.constant([4, 99]),
            "device": tf.constant([3, 3]),
            "history": tf.constant([[3], [3]]),
        },
        "item": {
            ITEM: tf.constant([3, 5]),
            "colour": tf.constant([3, 1]),
            "tags": tf.constant([[3, 5], [5, 0]]),
            "price": tf.constant([1.0, 2.0]),
        },
    }
    found = dict(zip([one.name for one in model.gates.all], occurrences(model, batch), strict=True))
    assert found.pop("gates_item_fields") is None
    rows = {name: (sorted(one.rows.numpy().tolist()), int(one.batch)) for name, one in found.items()}
    assert rows == {
        "gates_club": ([2, 4], 2),
        "gates_device": ([3, 3], 2),
        "gates_colour": ([1, 3], 2),
        "gates_tags": ([3, 5, 5], 2),
    }


def hard_views(dataset: Path, mode: str, closed: dict[str, list[float]], method: str = "cfm") -> SelfSupervision:
    """The self-supervision that the job makes for a model with these hard gates."""
    opened = DatasetFolder.open(dataset)
    model = gated_model(spec_of(dataset), hard=True, mode=mode)
    logits = {one.name: one.logits.numpy() for one in model.gates.all}
    for name, values in closed.items():
        logits[f"gates_{name}"] = np.array(values, np.float32)
    set_gates(model.gates, logits)
    config = TrainConfig.model_validate({"ssl": {"method": method, "batch_size": 8, "value_dropout": 0.0}})
    (one,) = self_supervisions(opened, model, config, 1, ("train",))
    return one


def test_closed_fields_are_none_that_views_can_hide(tiny_dataset: Path) -> None:
    """Of item, colour, tags and price with colour closed: k is 3, two are hidden together, colour is zeros in both."""
    one = hard_views(tiny_dataset, "field", {"item_fields": [-1.0, 1.0, 1.0]})
    assert one.visible == (ITEM, "tags", "price")
    seeds = [tf.constant([seed, 3]) for seed in range(20)]
    masks = [one.masks(seed).numpy() for seed in seeds]
    assert {mask.shape for mask in masks} == {(2, 3)} and {int(mask[0].sum()) for mask in masks} == {2}
    ids = one.draw(STEP, {})
    before = [view.numpy() for view in one.views(ids, STEP)]
    one.tower.defaults["colour"].assign_add(tf.ones_like(one.tower.defaults["colour"]))
    for view, was in zip(one.views(ids, STEP), before, strict=True):
        np.testing.assert_array_equal(view, was)  # no view puts the default embedding where there are zeros
    for field in ("tags", "price"):
        one.tower.defaults[field].assign_add(tf.ones_like(one.tower.defaults[field]))
        after = one.views(ids, STEP)
        assert max(np.abs(view.numpy() - was).max() for view, was in zip(after, before, strict=True)) > 1e-4
    shown = one.tower.field_vectors(one._features(ids), None)
    np.testing.assert_array_equal(shown["colour"], 0.0)
    assert np.abs(shown["tags"].numpy()).max() > 1e-3


def test_what_fields_tell_is_measured_anew_on_open_values(tiny_dataset: Path) -> None:
    """Every item has the tag `any`; without it a tag says all about the colour, and with neither of the others nothing.

    In the data set's statistics colour comes after tags for the price, and tags after colour.
    """

    def measured(tags: list[float]) -> dict[str, float]:
        one = hard_views(tiny_dataset, "value-lazy", {"tags": tags})
        found = report(one)
        place = {field: number for number, field in enumerate(found["fields"])}
        return {field: found["mutual_information"][place["tags"]][place[field]] for field in place}

    everything = measured([1.0] * 6)
    assert everything["colour"] == 0.35, "nothing is closed: as the statistics have it"
    without = measured([1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
    assert without["tags"] == pytest.approx(np.log(2), abs=1e-6)
    assert np.log(2) - 0.15 < without["colour"] < np.log(2) + 1e-9  # less what a shuffled column gives
    assert without["item"] == pytest.approx(np.log(2), abs=1e-6)
    neither = measured([1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    assert neither["tags"] == neither["colour"] == neither["item"] == pytest.approx(0.0, abs=1e-9)


def test_too_few_open_fields_are_a_user_error(tiny_dataset: Path) -> None:
    """Said after the search, with what it left."""
    with pytest.raises(UserError, match=r"train\.ssl: .*search for gates left only \['item', 'price'\]"):
        hard_views(tiny_dataset, "field", {"item_fields": [-1.0, -1.0, 1.0]})


def test_the_job_hides_open_fields_only_and_resumes_to_the_same_bytes(tiny_dataset: Path, tmp_path: Path, monkeypatch):
    """The search has all four fields; training, resumed or not, those that it left, as training.json says."""
    settings = {
        "epochs": 1,
        "ssl": {"batch_size": 8, "weight": 0.1},
        "model": {"query": {"features": ["history"]}},
        "gates": {"mode": "field", **QUICK, "penalty": 0.1, "fields": ["colour", "price"]},
    }
    widths: list[tuple[str, int]] = []
    make = Trainer.__init__

    def watching(self, *arguments, **named):
        make(self, *arguments, **named)
        widths.append(("search" if self.gates is not None else "after", len(self.self_supervisions[0].visible)))

    monkeypatch.setattr(Trainer, "__init__", watching)
    expected = run(tiny_dataset, tmp_path / "undisturbed", **settings)
    gates = json.loads((tmp_path / "undisturbed" / "model" / "gates.json").read_text())
    closed = set(gates["closed_fields"])
    assert closed == {"price"}, gates["fields"]
    assert widths == [("search", 4), ("after", 3)]
    said = json.loads((tmp_path / "undisturbed" / "model" / "training.json").read_text())["self_supervision"]["item"]
    assert set(said["fields"]) == {"item", "colour", "tags", "price"} - closed == set(said["hidden_together"])
    assert all(len(together) == 2 for together in said["hidden_together"].values())
    disturbed = tmp_path / "disturbed"
    save = CheckpointFolder.save

    def stopping(folder, number, arrays, state):
        save(folder, number, arrays, state)
        if state["phase"] == "train":
            raise Stopped

    monkeypatch.setattr(CheckpointFolder, "save", stopping)
    with pytest.raises(Stopped):
        run(tiny_dataset, disturbed, **settings)
    monkeypatch.setattr(CheckpointFolder, "save", save)
    assert run(tiny_dataset, disturbed, **settings).artifact_id == expected.artifact_id


def test_a_refit_on_more_items_carries_gates_by_id(tiny_dataset: Path, tmp_path: Path) -> None:
    """Items that first reach a row of their own with the validation events start open; others keep what was found."""
    settings = {"history": {"share_item_table": False}, "item_id": {"min_count": 12}}
    few = spec_of(tiny_dataset, settings)
    many = spec_of(tiny_dataset, {"history": {"share_item_table": False}, "item_id": {"min_count": 1}})
    old, new = (next(t for t in spec.tables if t.name == "item_in_history") for spec in (few, many))
    assert old.rows < new.rows
    logits = {"gates_item_in_history": np.arange(old.rows, dtype=np.float32) - 7.0, "gates_x": np.zeros(2, np.float32)}
    carried = carry_gates(logits, few, many, 0.5)
    assert carried["gates_x"] is logits["gates_x"]
    for item, (before, after) in enumerate(zip(old.row_of, new.row_of, strict=True)):
        expected = 0.5 if before == 2 < after else before - 7.0
        assert carried["gates_item_in_history"][after] == expected, item
    run(
        tiny_dataset,
        tmp_path,
        epochs=1,
        refit_on_validation=True,
        model=settings,
        gates={"mode": "value-lazy", **QUICK, "fields": ["history", "colour"]},
    )
    assert (tmp_path / "model" / "gates" / "item_in_history.parquet").is_file()


def test_one_table_has_one_set_of_gates_for_every_field_that_reads_it(tiny_dataset: Path) -> None:
    """Two fields over one vocabulary: a value closed for one is closed for the other, in both towers alike."""
    spec = spec_of(tiny_dataset, {"query": {"features": ["club"]}, "item": {"features": ["colour"]}})
    (club,), (colour,) = spec.query.inputs, spec.item.inputs
    table = next(one for one in spec.tables if one.name == "colour")
    shared = replace(
        spec,
        query=replace(spec.query, inputs=(replace(club, table="colour"),)),
        tables=tuple(one for one in spec.tables if one.name in (USER, ITEM, table.name)),
    )
    model = gated_model(shared, hard=True, mode="value-lazy")
    assert [one.name for one in model.gates.all] == ["gates_colour"]
    assert model.query_tower.tables["colour"].gates is model.item_tower.tables["colour"].gates
    logits = np.ones(table.rows, np.float32)
    logits[3] = -1.0
    model.gates.tables["colour"].logits.assign(logits)
    ids = tf.constant([3, 4], tf.int32)
    for tower, field, own in ((model.query_tower, club.name, USER), (model.item_tower, colour.name, ITEM)):
        vectors = tower.field_vectors({own: ids, field: ids}, None)[field].numpy()
        np.testing.assert_array_equal(vectors[0], 0.0)
        assert np.abs(vectors[1]).max() > 1e-3
