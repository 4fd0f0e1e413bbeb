"""Feature layer and backbones beside slow NumPy, and the algebra of gates in every backbone (OptFS, section 10)."""

from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.ranking import RankerConfig
from recsys.dataset_folder import DatasetFolder
from recsys.features.gates import Gates
from recsys.ranking.backbones import Network
from recsys.ranking.model import Ranker
from recsys.ranking.spec import ranker_spec
from tests.ranking import oracle

BACKBONES = ("lr", "fm", "deepfm", "dcn", "dcn_v2", "ipnn", "two_tower")
DEEP = BACKBONES[2:]
FEATURES = {
    "user": np.array([3, 4, 900, 5], np.int32),
    "item": np.array([3, 9, 4, 2], np.int32),
    "colour": np.array([3, 1, 4, 2], np.int32),
    "tags": np.array([[3, 5], [4, 0], [0, 0], [5, 4]], np.int32),
    "price": np.array([20.0, np.nan, 1.7, 1e9], np.float32),
    "club": np.array([3, 4, 1, 3], np.int32),
    "device": np.array([3, 4, 4, 77], np.int32),
    "history": np.array([[3, 4, 5], [0, 0, 0], [9, 9, 3], [2, 4, 0]], np.int32),
}


def make(tiny_dataset: Path, backbone: str, *, gates: Gates | None = None, **settings) -> Ranker:
    """A ranker with weights large enough to matter and biases that are not zero."""
    defaults = {"hidden": (6, 5), "embedding_dim": 3, "initial_scale": 0.7, "history": "attention"}
    dataset = DatasetFolder.open(tiny_dataset)
    config = RankerConfig.model_validate({"backbone": backbone, **defaults, **settings})
    counts = {name: np.ones(dataset.vocabulary(name).size) for name in ("user", "item")}
    spec = ranker_spec(dataset, config, counts)
    model = Ranker(spec, 5, gates=gates and Gates("values", spec.rows, start=0.5, temperature=gates.temperature))
    rng = np.random.default_rng(1)
    for variable in model.learned:
        if variable is not model.table.table:
            variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    table = model.table.table
    table.assign(table + rng.normal(0, 0.1, table.shape))
    return model


def run(model: Ranker, seed=None):
    return model({name: tf.constant(values) for name, values in FEATURES.items()}, seed)


HARD = Gates("form", 1, start=0.5, temperature=None)


READINGS = [(backbone, "value", "mean" if backbone == "lr" else "attention") for backbone in BACKBONES]
READINGS += [("fm", "log_squared", "mean"), ("deepfm", "quantile", "mean"), ("lr", "log_squared", "mean")]


@pytest.mark.parametrize(("backbone", "numeric", "history"), READINGS)
def test_logits_equal_the_oracle(tiny_dataset, backbone, numeric, history):
    model = make(tiny_dataset, backbone, numeric={"default": numeric}, history=history)
    expected = oracle.logits(model, FEATURES, np.ones(model.spec.rows))
    np.testing.assert_allclose(run(model).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_hard_gates_equal_the_oracle(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone, gates=HARD, history="mean" if backbone == "lr" else "attention")
    logits = np.random.default_rng(0).normal(size=model.spec.rows)
    logits[:4] = 0.0  # exactly zero is closed
    model.gates.logits.assign(logits)
    expected = oracle.logits(model, FEATURES, oracle.hard(model))
    np.testing.assert_allclose(run(model).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_closed_gate_gives_the_logit_of_a_zero_row(tiny_dataset, backbone):
    """In every backbone, IPNN too, where the authors' code forgets it (pitfall 9.1)."""
    gated = make(tiny_dataset, backbone, gates=HARD)
    plain = make(tiny_dataset, backbone)
    before = run(gated).logits.numpy()
    field = next(one for one in gated.spec.fields if one.name == "colour")
    row = oracle.row_of(gated, field, 3)
    gated.gates.logits.scatter_nd_update([[row]], [-0.1])
    weights = plain.table.table.numpy() * gated.gates.scale
    weights[row] = 0.0
    plain.table.table.assign(weights)
    closed = run(gated).logits.numpy()
    np.testing.assert_allclose(closed, run(plain).logits, rtol=1e-5, atol=1e-5)
    assert abs(closed[0] - before[0]) > 1e-3  # the row with colour 3
    np.testing.assert_allclose(closed[1:], before[1:], rtol=1e-6)  # the others


@pytest.mark.parametrize("backbone", BACKBONES)
def test_soft_gates_start_as_no_gates(tiny_dataset, backbone):
    soft = Gates("form", 1, start=0.5, temperature=tf.Variable(1.0, trainable=False))
    gated, plain = make(tiny_dataset, backbone, gates=soft), make(tiny_dataset, backbone)
    np.testing.assert_allclose(run(gated).logits, run(plain).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_soft_gates_equal_the_oracle(tiny_dataset, backbone):
    """In lists too: of a value that is open by a fifth a fifth is left, alone or among others."""
    soft = Gates("form", 1, start=0.5, temperature=tf.Variable(2.0, trainable=False))
    model = make(tiny_dataset, backbone, gates=soft, history="mean" if backbone == "lr" else "attention")
    logits = np.random.default_rng(4).normal(-0.5, 0.8, model.spec.rows)
    model.gates.logits.assign(logits)
    expected = oracle.logits(model, FEATURES, model.gates.scale / (1 + np.exp(-2.0 * logits)))
    np.testing.assert_allclose(run(model).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gate_gradients_equal_finite_differences(tiny_dataset, backbone):
    """Of the data term; the penalty's is tested beside the gates' optimiser."""
    temperature = tf.Variable(2.0, trainable=False)
    # A mean's denominator has no gradient by definition, so lists are left out here.
    names = ("user", "item", "colour", "price", "club", "device")
    model = make(tiny_dataset, backbone, gates=Gates("form", 1, start=0.5, temperature=temperature), features=names)
    features = {name: FEATURES[name] for name in names}
    start = np.random.default_rng(3).normal(0, 0.5, model.spec.rows)
    model.gates.logits.assign(start)
    with tf.GradientTape() as tape:
        tape.watch(model.gates.logits)
        total = tf.reduce_sum(model({name: tf.constant(values) for name, values in features.items()}).logits)
    found = tf.convert_to_tensor(tape.gradient(total, model.gates.logits)).numpy()

    def value(logits: np.ndarray) -> float:
        gates = model.gates.scale / (1 + np.exp(-2.0 * logits))
        return float(oracle.logits(model, features, gates).sum())

    step = 1e-5
    for row in np.flatnonzero(np.abs(found) > 0)[:12]:
        up, down = start.copy(), start.copy()
        up[row] += step
        down[row] -= step
        assert found[row] == pytest.approx((value(up) - value(down)) / (2 * step), rel=2e-3, abs=2e-4)
    untouched = np.setdiff1d(np.arange(model.spec.rows), np.flatnonzero(found))
    assert len(untouched) > 0


def test_products_of_ipnn_carry_both_gates(tiny_dataset):
    model = make(tiny_dataset, "ipnn", gates=HARD, features=("user", "colour", "club"))
    features = {name: tf.constant(FEATURES[name]) for name in ("user", "colour", "club")}
    rows = model.layer.single_rows(features).numpy()
    table, scale = model.table.table.numpy(), model.gates.scale
    vectors, _ = model.layer(features)
    expected = [[scale**2 * table[r[i]] @ table[r[j]] for i, j in ((0, 1), (0, 2), (1, 2))] for r in rows]
    np.testing.assert_allclose(model.backbone.products(vectors), expected, rtol=1e-5, atol=1e-6)
    model.gates.logits.scatter_nd_update([[rows[0, 1]]], [-1.0])
    vectors, _ = model.layer(features)
    products = model.backbone.products(vectors).numpy()[0]
    assert products[0] == products[2] == 0.0 and products[1] == pytest.approx(expected[0][1], rel=1e-5)


def test_without_linear_terms_fm_is_pairs_alone(tiny_dataset):
    model = make(tiny_dataset, "fm", linear=False)
    assert model.table.table.shape[1] == 3 and model.backbone.bias is None
    np.testing.assert_allclose(
        run(model).logits, oracle.logits(model, FEATURES, np.ones(model.spec.rows)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backbone", ["deepfm", "dcn_v2"])
def test_dropout_and_batch_statistics_are_for_training_only(tiny_dataset, backbone):
    model = make(tiny_dataset, backbone, dropout=0.5, batch_norm=True)
    seed = tf.constant([1, 2])
    np.testing.assert_array_equal(run(model).logits, run(model).logits)
    np.testing.assert_array_equal(run(model, seed).logits, run(model, seed).logits)
    assert not np.allclose(run(model, seed).logits, run(model, tf.constant([1, 3])).logits)
    assert not np.allclose(run(model, seed).logits, run(model).logits)


def test_batches_are_normalised_by_their_own_statistics_in_training_and_remembered():
    network = Network("deep", RankerConfig(hidden=(6,), batch_norm=True), 1)
    inputs = tf.random.stateless_normal([40, 4], [1, 2], 3.0, 2.0)
    network(inputs)
    first = network.dense[0](inputs).numpy()
    mean, variance = first.mean(axis=0), first.var(axis=0)
    found = network(inputs, tf.constant([1, 2]))[0]
    np.testing.assert_allclose(found, np.maximum((first - mean) / np.sqrt(variance + 1e-3), 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network.norms[0].moving_mean, 0.01 * mean, rtol=1e-4, atol=1e-6)
    remembered = (first - 0.01 * mean) / np.sqrt(0.99 + 0.01 * variance + 1e-3)
    np.testing.assert_allclose(network(inputs)[0], np.maximum(remembered, 0), rtol=1e-3, atol=1e-3)


def test_each_network_and_layer_drops_what_it_draws_itself():
    inputs, seed = tf.ones([1, 400]), tf.constant([1, 2])
    dropped = []
    for name in ("query", "item"):
        network = Network(name, RankerConfig(hidden=(400, 400), dropout=0.25), 1)
        network(inputs)
        for layer in network.dense:
            layer.kernel.assign(tf.eye(400))
        first, second = (one.numpy()[0] for one in network(inputs, seed))
        np.testing.assert_allclose(first[first > 0], 1 / 0.75, rtol=1e-5)
        dropped += [first == 0, (second == 0)[first > 0]]
        assert 0.15 < dropped[-2].mean() < 0.35 and 0.15 < dropped[-1].mean() < 0.35
    assert (dropped[0] != dropped[2]).any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_activations_are_named(tiny_dataset, backbone):
    scored = run(make(tiny_dataset, backbone))
    assert scored.encoded.shape == (4, 8 * 3 if backbone != "lr" else 8)
    for activation in (scored.first_hidden, scored.last_hidden):
        assert activation.shape[0] == 4 and activation.dtype == tf.float32


def test_fields_without_gates_are_as_they_are(tiny_dataset):
    dataset = DatasetFolder.open(tiny_dataset)
    spec = make(tiny_dataset, "fm").spec
    gated = np.zeros(spec.rows, bool)
    gated[spec.part("colour")] = True
    gates = Gates("values", spec.rows, start=0.5, temperature=None)
    model = Ranker(spec, 5, gates=gates, gated=gated)
    model.gates.logits.assign(-tf.ones([spec.rows]))
    expected = oracle.logits(model, FEATURES, np.where(gated, 0.0, 1.0))
    np.testing.assert_allclose(run(model).logits, expected, rtol=1e-5, atol=1e-5)
    assert dataset.schema.field("colour").name == "colour"


def test_target_attention_weighs_what_resembles_the_candidate(tiny_dataset):
    """With a score that grows with the products, the item that is the candidate itself gets the most weight."""
    model = make(tiny_dataset, "fm", linear=False, features=("item", "history"))
    layer = model.layer.attentions["history"]
    table = np.zeros(model.table.table.shape, np.float32)
    for item, vector in ((3, [1, 0, 0]), (4, [0, 1, 0])):
        table[oracle.row_of(model, model.spec.fields[0], item)] = vector
    model.table.table.assign(table)
    kernel = np.zeros((9, 32), np.float32)
    kernel[6:, 0] = 5.0
    score = np.zeros((32, 1), np.float32)
    score[0] = 1.0
    for variable, value in zip((*layer.hidden.weights, *layer.score.weights), (kernel, 0, score, 0), strict=True):
        variable.assign(tf.broadcast_to(tf.cast(value, tf.float32), variable.shape))
    features = {"item": tf.constant([3, 4]), "history": tf.constant([[3, 4], [3, 4]])}
    pooled = model.layer(features)[0][:, 1].numpy()
    share = np.exp(5) / (1 + np.exp(5))
    np.testing.assert_allclose(pooled, [[share, 1 - share, 0], [1 - share, share, 0]], rtol=1e-5)
