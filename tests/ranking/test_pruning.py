"""What is exported gives the logits of the masked model (OptFS, section 8: equivalence), with fewer rows and fields."""

import numpy as np
import pytest

from recsys._tensorflow import tf
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
