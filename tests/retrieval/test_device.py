"""Where training runs: the flag, its error, and what of a training step a GPU can do.

The last is read off the kernels that TensorFlow's build registers, which needs no GPU; the tests marked gpu need one.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.model import ModelConfig
from recsys.config.ranking import RankingConfig
from recsys.config.train import LossConfig, RecentConfig, TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.device import on_device
from recsys.errors import UserError
from recsys.ranking.job import rank
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.display import Display
from recsys.retrieval.input import training_batches
from recsys.retrieval.job import _Run, train
from recsys.retrieval.log_q import LogQ
from recsys.schema import FIRST_VALUE_ID
from tests.retrieval.test_job import run

ON_THE_HOST = {"RaggedTensorToSparse", "StatelessShuffle"}
"""Operations without a GPU kernel, which TensorFlow places on the CPU (docs/training.md, 'Limits')."""

SEARCH = {"kappa": 1.0, "search_epochs": 500}
STEPS = {
    "all at once": (
        {
            "temperature": {"learned": True},
            "item": {"hidden": [8]},
            "history": {"poolings": [{"kind": k} for k in ("mean", "root", "recent", "position")], "dropout": 0.1},
            "user_id": {"dropout": 0.1},
        },
        {
            "loss": {"mask_history": True, "uniform_negatives": 8, "frequencies": "streaming"},
            "ssl": {"batch_size": 8},
            "gates": {"mode": "value-lazy", **SEARCH},
        },
    ),
    "dense gates": ({}, {"loss": {"frequencies": "batch"}, "gates": {"mode": "value-dense", **SEARCH}}),
    "what is stored, and users of items": (
        {"item_audience": True, "item": {"combine": "sum", "feature_dropout": 0.1}},
        {
            "loss": {"cross_batch_negatives": 64, "precision": "bfloat16"},
            "gates": {"mode": "value-dense", **SEARCH},
        },
    ),
    "self-supervision of both towers": (
        {},
        {
            "ssl": {"batch_size": 8},
            "query_ssl": {"method": "rfm", "batch_size": 8},
            "gates": {"mode": "field", **SEARCH},
        },
    ),
    "gates of fields": (
        {},
        {"optimiser": {"kind": "adagrad"}, "ssl": {"method": "rfm"}, "gates": {"mode": "field", **SEARCH}},
    ),
}


def test_a_gpu_that_is_not_there_is_one_clear_error(tiny_dataset: Path, tmp_path: Path, monkeypatch):
    """Before anything is made, for the towers and for the ranker."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with pytest.raises(UserError, match=r"^train\.device: 'gpu'.*make venv EXTRA=gpu") as error:
        run(tiny_dataset, tmp_path, device="gpu")
    assert "\n" not in str(error.value)
    settings = RankingConfig.model_validate({"train": {"device": "gpu"}})
    with pytest.raises(UserError, match=r"^ranking\.train\.device: 'gpu'"):
        rank(
            DatasetFolder.open(tiny_dataset),
            settings,
            1,
            tmp_path / "ranker",
            checkpoints=tmp_path / "checkpoints",
            logs=tmp_path / "logs",
            quiet=True,
        )
    assert not (tmp_path / "model").exists() and not (tmp_path / "ranker").exists()


def test_cpu_pins_what_is_run_and_auto_leaves_it_free():
    from tensorflow.python.eager import context

    with on_device("auto", "train.device"):
        assert not context.context().device_name
    with on_device("cpu", "train.device"):
        assert context.context().device_name.lower().endswith("cpu:0")
    assert not context.context().device_name


def nodes(function) -> Iterator:
    graph = function.graph.as_graph_def()
    yield from graph.node
    for inner in graph.library.function:
        yield from inner.node_def


def has_gpu_kernel(node, kernels) -> bool:
    """Whether one of the registered kernels takes the node's types."""
    for kernel in kernels.get_registered_kernels_for_op(node.op).kernel:
        if kernel.device_type not in ("GPU", "DEFAULT") or kernel.label:
            continue
        fits = True
        for constraint in kernel.constraint:
            value = node.attr[constraint.name]
            wanted = set(value.list.type) if value.WhichOneof("value") == "list" else {value.type}
            fits &= wanted <= set(constraint.allowed_values.list.type)
        if fits:
            return True
    return False


def gpu_kernels():
    """TensorFlow's list of registered kernels; skips where the build has none for a GPU."""
    from tensorflow.python.framework import kernels

    if not any(kernel.device_type == "GPU" for kernel in kernels.get_registered_kernels_for_op("MatMul").kernel):
        pytest.skip("this build of TensorFlow has no GPU kernels")
    return kernels


@pytest.fixture
def two_fields_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of the tiny shop have two fields, one less than self-supervision asks for."""
    monkeypatch.setattr("recsys.retrieval.ssl.LEAST_FIELDS", 2)


@pytest.mark.usefixtures("two_fields_do")
@pytest.mark.parametrize("case", STEPS)
def test_a_step_has_gpu_kernels_but_for_what_the_docs_name(case: str, tiny_dataset: Path, tmp_path: Path):
    """An operation or a type that only the CPU knows would drag its data off the card at every step."""
    kernels = gpu_kernels()
    model, changes = STEPS[case]
    dataset, config = DatasetFolder.open(tiny_dataset), TrainConfig.model_validate({"batch_size": 64, **changes})
    folder = CheckpointFolder(tmp_path / "checkpoints", "any")
    loop = _Run(dataset, ModelConfig.model_validate(model), config, 1, folder, tmp_path, Display(None)).loop("gates")
    batch = next(training_batches(dataset, loop.trainer.model.spec, loop.reader, 1, epoch=0, step=0))
    step = loop.trainer.train_step.get_concrete_function(batch, tf.constant(0.1))
    assert {node.op for node in nodes(step) if not has_gpu_kernel(node, kernels)} <= ON_THE_HOST


def test_so_has_log_q_of_the_moment():
    """The one source of frequencies that the tiny shop has no field for."""
    kernels = gpu_kernels()
    config = LossConfig(frequencies="recent", recent=RecentConfig(field="clicks_hour"))
    log_q = LogQ(config, np.zeros(FIRST_VALUE_ID + 3, np.int64), 3, 4, 1)
    ids, clicks = tf.TensorSpec([None], tf.int32), {"clicks_hour": tf.TensorSpec([None], tf.float32)}
    function = tf.function(log_q).get_concrete_function(ids, ids, clicks)
    assert {node.op for node in nodes(function) if not has_gpu_kernel(node, kernels)} <= ON_THE_HOST


@pytest.mark.gpu
def test_on_a_gpu_it_learns_too(tiny_dataset: Path, tmp_path: Path):
    """The same job, unchanged, with its memory as it grows; the CPU's model is as good."""
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        pytest.skip("no GPU on this machine")
    assert all(tf.config.experimental.get_memory_growth(card) for card in cards)
    for device in ("gpu", "cpu"):
        run(tiny_dataset, tmp_path / device, device=device)
        record = json.loads((tmp_path / device / "model" / "training.json").read_text())
        assert max(epoch["recall@5"] for epoch in record["epochs"]) > 0.7


@pytest.mark.gpu
@pytest.mark.usefixtures("two_fields_do")
@pytest.mark.parametrize("case", STEPS)
def test_every_option_runs_on_a_gpu(case: str, tiny_dataset: Path, tmp_path: Path):
    """With operations held to be deterministic, where TensorFlow refuses those that cannot be."""
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("no GPU on this machine")
    model, changes = STEPS[case]
    changes = {**changes, "batch_size": 64, "epochs": 1, "device": "gpu", "gates": {**changes["gates"], "penalty": 0.0}}
    changes["gates"] |= {"kappa": None, "search_epochs": 2}
    train(
        DatasetFolder.open(tiny_dataset),
        ModelConfig.model_validate(model),
        TrainConfig.model_validate(changes),
        1,
        tmp_path / "model",
        checkpoints=tmp_path / "checkpoints",
        logs=tmp_path / "logs",
        quiet=True,
    )
