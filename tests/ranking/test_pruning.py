"""What is exported gives the logits of the masked model (OptFS, section 8: equivalence), with fewer rows and fields."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.features.gates import Gates
from recsys.ranking.model import Ranker
from recsys.ranking.pruning import live_fields, prune
from tests.ranking.test_backbones import BACKBONES, FEATURES, HARD, make, run


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pruned_equals_masked(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone, gates=HARD)
    logits = np.random.default_rng(2).normal(size=model.spec.rows)
    for closed in ("club", "price"):  # whole fields
        logits[model.spec.part(closed)] = -1.0
    model.gates.logits.assign(logits)
    pruned = prune(model)
    assert pruned.gates is None
    assert pruned.spec.rows < model.spec.rows
    names = [one.name for one in pruned.spec.fields]
    assert ("club" in names) == ("price" in names) == (backbone == "dcn")
    features = {name: tf.constant(FEATURES[name]) for name in names}
    np.testing.assert_allclose(pruned(features).logits, run(model).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_everything_closed_still_exports(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone, gates=HARD)
    model.gates.logits.assign(-tf.ones([model.spec.rows]))
    pruned = prune(model)
    features = {one.name: tf.constant(FEATURES[one.name]) for one in pruned.spec.fields}
    np.testing.assert_allclose(pruned(features).logits, run(model).logits, rtol=1e-5, atol=1e-5)


def test_buckets_find_their_rows_in_a_pruned_table(tiny_dataset):
    model = make(tiny_dataset, "fm", gates=HARD, numeric={"default": "quantile"})
    logits = np.ones(model.spec.rows)
    part = model.spec.part("price")
    logits[part.start + 3 : part.stop - 2] = -1.0  # the last two buckets stay
    model.gates.logits.assign(logits)
    pruned = prune(model)
    np.testing.assert_allclose(run(pruned).logits, run(model).logits, rtol=1e-5, atol=1e-5)


def test_kept_rows_hold_the_gate(tiny_dataset):
    model = make(tiny_dataset, "fm", gates=HARD)
    logits = np.full(model.spec.rows, -1.0)
    row = model.spec.part("colour").start + 3
    logits[row] = 1.0
    model.gates.logits.assign(logits)
    pruned = prune(model)
    assert [one.name for one in pruned.spec.fields] == ["colour"]
    table = pruned.table.table.numpy()
    np.testing.assert_allclose(table[-1], model.table.table.numpy()[row] * model.gates.scale, rtol=1e-6)
    assert not table[1:-1].any()  # besides padding, which is no value
    stays = np.zeros(model.spec.rows, bool)
    stays[row] = True
    assert [one.name for one in live_fields(model.spec, stays)] == ["colour"]


@pytest.mark.parametrize("backbone", ["deepfm", "dcn", "dcn_v2", "ipnn", "two_tower"])
def test_batch_statistics_come_along(tiny_dataset, backbone):
    """Normalisation is behind the first layer, so a dropped field's zeros are no constant of it."""
    model = make(tiny_dataset, backbone, gates=HARD, batch_norm=True)
    for variable in model.learned:
        if "moving" in variable.name:
            variable.assign(np.random.default_rng(4).uniform(0.5, 2.0, variable.shape))
    assert sum("moving" in variable.name for variable in model.learned) >= 4
    logits = np.random.default_rng(2).normal(size=model.spec.rows)
    logits[model.spec.part("club")] = -1.0
    model.gates.logits.assign(logits)
    np.testing.assert_allclose(run(prune(model)).logits, run(model).logits, rtol=1e-5, atol=1e-5)


def test_rows_without_gates_stay_as_they_are(tiny_dataset):
    spec = make(tiny_dataset, "fm").spec
    gated = np.zeros(spec.rows, bool)
    gated[spec.part("colour")] = True
    model = Ranker(spec, 5, gates=Gates("values", spec.rows, start=0.5, temperature=None), gated=gated)
    logits = np.full(spec.rows, -1.0)
    logits[spec.part("colour").start + 3] = 1.0
    model.gates.logits.assign(logits)
    pruned = prune(model)
    assert len(pruned.spec.fields) == len(spec.fields) and pruned.spec.rows < spec.rows + len(spec.tables)
    np.testing.assert_allclose(run(pruned).logits, run(model).logits, rtol=1e-5, atol=1e-6)


def by_field(tiny_dataset, backbone: str, closed: set[str], gated: np.ndarray | None = None, **settings) -> Ranker:
    """A ranker with hard gates of fields, and the weights that `make` gives one without."""
    plain = make(tiny_dataset, backbone, **settings)
    gates = Gates("fields", len(plain.spec.fields), start=0.5, temperature=None)
    model = Ranker(plain.spec, 5, field_gates=gates, gated=gated)
    for mine, its in zip(model.learned, plain.learned, strict=True):
        mine.assign(its)
    gates.logits.assign([-0.1 if one.name in closed else 0.1 for one in plain.spec.fields])
    return model


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("closed", [{"club", "tags"}, {"item", "price"}, {"history", "user", "colour"}, "all"])
def test_pruned_fields_equal_masked(tiny_dataset, backbone, closed):
    """The candidate's id closed and its history open (they share their rows), and the other way round; all closed."""
    names = {one.name for one in make(tiny_dataset, backbone).spec.fields} if closed == "all" else closed
    model = by_field(tiny_dataset, backbone, names)
    pruned = prune(model)
    assert pruned.gates is None and pruned.layer.field_gates is None
    left = {one.name for one in pruned.spec.fields}
    if closed != "all" and backbone != "dcn":
        assert left & names <= {"item"}  # which attention compares with
    features = {name: tf.constant(FEATURES[name]) for name in left}
    np.testing.assert_allclose(pruned(features).logits, run(model).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_field_s_gate_is_that_of_all_its_values(tiny_dataset, backbone):
    names = ("user", "item", "colour", "tags", "price", "club", "history")
    closed = {"tags", "club"}
    model = by_field(tiny_dataset, backbone, closed, features=names)
    of_values = make(tiny_dataset, backbone, gates=HARD, features=names)
    logits = np.ones(of_values.spec.rows)
    for name in closed:
        logits[of_values.spec.part(name)] = -1.0
    of_values.gates.logits.assign(logits)
    np.testing.assert_allclose(run(model).logits, run(of_values).logits, rtol=1e-5, atol=1e-5)


def test_fields_without_gates_of_their_own_stay_as_they_are(tiny_dataset):
    fields = make(tiny_dataset, "deepfm").spec.fields
    gated = np.array([one.name in ("colour", "club") for one in fields])
    model = by_field(tiny_dataset, "deepfm", {"colour", "device"}, gated)
    pruned = prune(model)
    assert [one.name for one in pruned.spec.fields] == [one.name for one in fields if one.name != "colour"]
    np.testing.assert_allclose(run(pruned).logits, run(model).logits, rtol=1e-5, atol=1e-5)
    scale = model.gates.scale
    for name, factor in (("club", scale), ("device", 1.0)):
        mine, its = pruned.spec.part(name), model.spec.part(name)
        np.testing.assert_allclose(pruned.table.table[mine], factor * model.table.table[its], rtol=1e-6)
