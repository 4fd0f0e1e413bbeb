"""A ranker's step works on the rows of its batch: nothing in it has the length of the table."""

import warnings

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.ranking import RankerConfig, RankingTrainConfig
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch
from recsys.features.gates import Gates
from recsys.features.pooling import spread
from recsys.features.spec import full_table
from recsys.ranking.backbones import pairwise
from recsys.ranking.model import Ranker
from recsys.ranking.spec import FieldSpec, RankerSpec, Reading
from recsys.ranking.step import Trainer
from recsys.schema import Side

SIZES = {"a": 4003, "b": 2001, "words": 903}
ROWS = sum(SIZES.values())
SEARCH = GateSearch(0.5, 1e-5, 200.0, 4, 100, 3e-3, 1e-8)


def ranker_and_step(backbone: str, mode: str | None, exact_gates: int = 0) -> Trainer:
    fields = (
        FieldSpec("a", Side.USER, Reading.ID, "a"),
        FieldSpec("b", Side.ITEM, Reading.ID, "b"),
        FieldSpec("words", Side.ITEM, Reading.MEAN, "words"),
    )
    tables = tuple(full_table(name, size) for name, size in SIZES.items())
    spec = RankerSpec(RankerConfig.model_validate({"backbone": backbone, "hidden": (8,)}), fields, tables)
    gates, optimiser = None, None
    if mode is not None:
        gates = Gates("values", spec.rows, start=0.5, temperature=tf.Variable(1.0, trainable=False))
        optimiser = GateOptimiser([gates], SEARCH, dense=mode == "value-dense", exact_gates=exact_gates)
    config = RankingTrainConfig.model_validate({"l2_embeddings": 1e-5, "l2_network": 1e-5})
    return Trainer(Ranker(spec, 1, gates=gates), config, 1, optimiser)


def batch(rows: int = 32) -> dict:
    rng = np.random.default_rng(2)
    features = {name: tf.constant(rng.integers(0, SIZES[name], rows), tf.int32) for name in ("a", "b")}
    features["words"] = tf.constant(rng.integers(3, SIZES["words"], [rows, 3]), tf.int32)
    vector = tf.ones([rows])
    return {"features": features, "labels": vector, "weights": vector, "offsets": tf.zeros([rows])}


def long_tensors(trainer: Trainer) -> list[str]:
    """Operations, called functions and loops included, one of whose results has as many rows as the table."""
    graph = trainer.train_step.get_concrete_function(batch()).graph.as_graph_def(add_shapes=True)
    found = []
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            shapes = node.attr["_output_shapes"].list.shape
            if any(shape.dim and shape.dim[0].size == ROWS for shape in shapes):
                found.append(node.op)
    return found


@pytest.mark.parametrize("backbone", ["deepfm", "dcn_v2"])
@pytest.mark.parametrize("mode", [None, "value-dense", "value-lazy"])
def test_no_step_passes_over_the_table(backbone: str, mode: str | None):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Converting sparse IndexedSlices")
        assert long_tensors(ranker_and_step(backbone, mode)) == []


def test_the_exact_pass_over_few_gates_is_seen():
    """The check above would notice: up to `exact_gates` all gates are read and written at every step."""
    found = long_tensors(ranker_and_step("deepfm", "value-dense", exact_gates=ROWS))
    assert "ReadVariableOp" in found and "Mul" in found


def test_gradients_of_the_shared_lookup_are_those_of_plain_lookups():
    """Rows that occur often get the sum; TensorFlow's own of gather and of pairs, beside ours."""
    rng = np.random.default_rng(3)
    vectors = tf.constant(rng.normal(size=(7, 4)), tf.float32)
    place = tf.constant(rng.integers(0, 7, 30), tf.int32)
    weights = tf.constant(rng.normal(size=(10, 4)), tf.float32)

    def plain_pairs(fields: tf.Tensor) -> tf.Tensor:
        return 0.5 * (tf.square(tf.reduce_sum(fields, axis=1)) - tf.reduce_sum(tf.square(fields), axis=1))

    found = []
    for look_up, products in ((spread, pairwise), (tf.gather, plain_pairs)):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            fields = tf.reshape(look_up(vectors, place), [10, 3, 4])
            loss = tf.reduce_sum(weights * products(fields)) + tf.reduce_sum(tf.sin(fields))
        found.append((float(loss), tf.convert_to_tensor(tape.gradient(loss, vectors)).numpy()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["value-dense", "value-lazy"])
def test_a_resting_gate_stays_while_weights_move_as_without_gates(mode: str):
    """The warm-up: to the last bit the steps of a model without gates, and the search's clock has not begun."""
    trainer, plain = ranker_and_step("deepfm", mode), ranker_and_step("deepfm", None)
    for _ in range(3):
        trainer.train_step(batch(), True)
        plain.train_step(batch())
    assert (trainer.gates.gates[0].logits.numpy() == 0.5).all() and int(trainer.gates.clock) == 0
    for one, other in zip(trainer.model.learned, plain.model.learned, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
    trainer.train_step(batch(), False)
    trainer.gates.settle()
    assert (trainer.gates.gates[0].logits.numpy() != 0.5).any()


def test_a_lazy_step_prices_rows_by_their_share_of_the_batch():
    """Weights of zero have no gradient: what is left is the price, lambda x occurrences / rows x the slope at 0.5."""
    trainer = ranker_and_step("fm", "value-lazy")
    trainer.model.table.table.assign(tf.zeros_like(trainer.model.table.table))
    data = batch()
    trainer.train_step(data)
    rows = [trainer.model.layer.single_rows(data["features"]).numpy().ravel()]
    rows += [trainer.model.layer.list_rows(data["features"]["words"], trainer.model.spec.lists[0])[1].numpy()]
    share = np.bincount(np.concatenate(rows), minlength=ROWS) / 32
    assert share.max() > 1 / 32
    mean = trainer.gates.state[0][0].numpy()[:, 0]
    soft = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(mean, 0.1 * SEARCH.penalty * share * soft * (1 - soft), rtol=1e-5)


def test_rows_outside_the_batch_rest_and_gates_outside_it_catch_up():
    trainer = ranker_and_step("deepfm", "value-dense")
    first = trainer.model.table.table.numpy()
    data = batch()
    for _ in range(5):
        trainer.train_step(data)
    touched = (trainer.model.table.table.numpy() != first).any(axis=1)
    seen = np.unique(trainer.model.layer.single_rows(data["features"]).numpy())
    assert touched[seen].all() and 0 < touched.sum() <= len(seen) + 32 * 3
    gates = trainer.gates.gates[0].logits
    assert (gates.numpy()[~touched] == 0.5).all()
    trainer.gates.settle()
    others = gates.numpy()[~touched]
    assert others.max() < 0.5 and np.ptp(others) == 0.0
