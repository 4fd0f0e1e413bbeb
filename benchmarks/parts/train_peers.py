"""The same model in the tutorial loop of TensorFlow Recommenders and in plain PyTorch, beside ours.

Whole passes over the rows with input are timed; the first of each, which compiles and fills the tutorial's cache, is
apart. Passes of ours stand before and after those of the tutorial loop.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts.train_trainer import SEED, make_trainer
from recsys._tensorflow import keras, tf
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.retrieval.step import Trainer

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / ".venv-peers"
DIM, TEMPERATURE = 32, 0.1
MODEL = ModelConfig.model_validate(
    {
        "embedding_dim": DIM,
        "output_dim": DIM,
        "user_id": {"dropout": 0.0},
        "query": {"combine": "sum"},
        "item": {"combine": "sum", "features": ["category"]},
        "temperature": {"value": TEMPERATURE},
    }
)


def ours(dataset: DatasetFolder, batch: int) -> tuple[Trainer, Iterator[Any]]:
    """A trainer at its initial weights and its endless batches from Parquet."""
    train = {"batch_size": batch, "optimiser": {"kind": "adagrad", "learning_rate": 0.1}}
    return make_trainer(dataset, MODEL, TrainConfig.model_validate(train))


def tutorial(tables: dict[str, np.ndarray], arrays: dict[str, np.ndarray]) -> keras.Model:
    """The library's tutorial model over the same tables."""
    import tensorflow_recommenders as tfrs

    share = tf.constant(arrays["counts"] / arrays["counts"].sum(), tf.float32)

    class Tutorial(tfrs.Model):
        """`tfrs.Model` with `tasks.Retrieval`, as the documentation shows it."""

        def __init__(self) -> None:
            super().__init__()
            self.tables = {
                name: keras.layers.Embedding(
                    *values.shape, embeddings_initializer=keras.initializers.Constant(values), mask_zero=name == "item"
                )
                for name, values in tables.items()
            }
            self.pool = keras.layers.GlobalAveragePooling1D()
            self.task = tfrs.tasks.Retrieval(temperature=TEMPERATURE, remove_accidental_hits=True)

        def compute_loss(self, features, training=False):
            """Sum over rows of the in-batch softmax cross-entropy."""
            history = self.tables["item"](features["history"])
            query = self.tables["user"](features["user"]) + self.pool(history)
            item = self.tables["item"](features["item"]) + self.tables["category"](features["category"])
            return self.task(
                tf.math.l2_normalize(query, axis=1),
                tf.math.l2_normalize(item, axis=1),
                candidate_sampling_probability=tf.gather(share, features["item"]),
                candidate_ids=features["item"],
                compute_metrics=False,
            )

    model = Tutorial()
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    return model


def tables_of(trainer: Trainer) -> dict[str, np.ndarray]:
    """The trainer's embedding tables by name."""
    return {name: table.table.numpy() for name, table in trainer.model.embedding_tables.items()}


def end_to_end(dataset: DatasetFolder, arrays: dict[str, np.ndarray], batch: int, passes: int) -> dict[str, float]:
    """Examples a second of both loops: the median of `passes` over the rows (ours: twice as many), input included."""
    from tensorflow.python.framework.config import disable_op_determinism

    trainer, batches = ours(dataset, batch)
    model = tutorial(tables_of(trainer), arrays)
    columns = {name: arrays[name] for name in ("user", "item", "category", "history")}
    rows = tf.data.Dataset.from_tensor_slices(columns).shuffle(100_000, seed=SEED).batch(batch, drop_remainder=True)
    steps = len(arrays["user"]) // batch
    rate = tf.constant(0.1, tf.float32)

    def one_pass() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            loss = trainer.train_step(next(batches), rate)
        float(loss)
        return time.perf_counter() - started

    one_pass()
    mine = [one_pass() for _ in range(passes)]
    clock = PassClock()
    disable_op_determinism()  # ours alone asks for it
    model.fit(rows.cache(), epochs=1 + passes, verbose=0, callbacks=[clock])
    tf.config.experimental.enable_op_determinism()
    mine += [one_pass() for _ in range(passes)]
    seconds = {"ours": statistics.median(mine), "tutorial": statistics.median(clock.seconds[1:])}
    return {name: steps * batch / value for name, value in seconds.items()}


class PassClock(keras.callbacks.Callback):
    """Seconds of each epoch of a `fit`, in `seconds`."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Note the time."""
        self.seconds.append(time.perf_counter() - self._started)


def first_losses(dataset: DatasetFolder, arrays: dict[str, np.ndarray], batch: int) -> dict[str, float]:
    """The loss of the first `batch` rows under the initial weights, by ours and by the library's task."""
    trainer, _ = ours(dataset, batch)
    model = tutorial(tables_of(trainer), arrays)
    part = {name: tf.constant(arrays[name][:batch]) for name in ("user", "item", "category", "history")}
    query = {name: part[name] for name in ("user", "history")}
    item = {name: part[name] for name in ("item", "category")}
    mine = trainer.loss({"query": query, "item": item}, tf.constant([1, 2]))
    return {"ours": float(mine), "tutorial": float(model.compute_loss(part)) / batch}


def pytorch(
    arrays: dict[str, np.ndarray], tables: dict[str, np.ndarray], folder: Path, steps: int, batches: tuple[int, ...]
) -> dict[str, Any]:
    """Run the PyTorch loop in its own environment."""
    share = np.maximum(arrays["counts"], 1) / arrays["counts"].sum()
    extra = {"log_q": np.log(share).astype(np.float32), "inverse_temperature": np.float32(1 / TEMPERATURE)}
    columns = {name: arrays[name] for name in ("user", "item", "category", "history")}
    path = folder / "arrays.npz"
    np.savez(path, **columns, **extra, **{f"table_{name}": table for name, table in tables.items()})  # type: ignore[arg-type]
    script = ROOT / "benchmarks" / "parts" / "train_pytorch.py"
    command = [PEERS / "bin" / "python", script, path, str(steps), *map(str, batches)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
