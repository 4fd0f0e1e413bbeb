"""Training: examples a second beside the tutorial TensorFlow Recommenders loop and a plain PyTorch loop.

    python benchmarks/train_retrieval.py [--quick] [--json FILE]

Same model (user id + mean of the history; item id + category; sums, L2-normalised), same rows, same initial weights,
same loss (exact logQ, accidental hits masked) and same optimiser (Adagrad) everywhere. The tutorial loop is that of the
library's documentation: from_tensor_slices, shuffle, batch, cache, `tasks.Retrieval`, Keras `fit`. What is timed are
whole passes over the rows, input included; the first of each loop, which compiles and fills the tutorial's cache, is
apart. Passes of ours stand before and after those of the tutorial loop. The loss with its gradients is also timed
alone, beside its three matrix products. PyTorch runs as a process of its own in `.venv-peers`, rows already in tensors;
--quick leaves it out, and says so, where that does not exist.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.train_data import write_training_data  # noqa: E402
from recsys._tensorflow import keras, tf  # noqa: E402
from recsys.config.model import ModelConfig  # noqa: E402
from recsys.config.train import TrainConfig  # noqa: E402
from recsys.dataset_folder import DatasetFolder  # noqa: E402
from recsys.retrieval.input import event_reader, training_batches  # noqa: E402
from recsys.retrieval.job import build  # noqa: E402
from recsys.retrieval.log_q import LogQ  # noqa: E402
from recsys.retrieval.optimiser import make_optimiser  # noqa: E402
from recsys.retrieval.shards import scan_positives  # noqa: E402
from recsys.retrieval.softmax import sampled_softmax_loss  # noqa: E402
from recsys.retrieval.spec import two_tower_spec  # noqa: E402
from recsys.retrieval.step import Catalogue, Trainer  # noqa: E402
from recsys.retrieval.towers import TwoTower  # noqa: E402

SEED, DIM, TEMPERATURE = 1, 32, 0.1
BATCHES = (1024, 4096, 8192)
PEERS = ROOT / ".venv-peers"
MODEL = ModelConfig.model_validate(
    {
        "embedding_dim": DIM,
        "output_dim": DIM,
        "user_id": {"dropout": 0.0},
        "query": {"combine": "sum"},
        "item": {"combine": "sum"},
        "temperature": {"value": TEMPERATURE},
    }
)


def ours(dataset: DatasetFolder, batch: int) -> tuple[Trainer, Iterator[Any]]:
    """A trainer at its initial weights and its endless batches from Parquet."""
    config = TrainConfig.model_validate({"batch_size": batch, "optimiser": {"kind": "adagrad", "learning_rate": 0.1}})
    events = scan_positives(dataset, ("train",))
    spec = two_tower_spec(dataset, MODEL, events.counts)
    model = TwoTower(spec, SEED)
    build(model)
    log_q = LogQ(config.loss, events.counts["item"], len(dataset.items), batch, SEED)
    trainer = Trainer(
        model, make_optimiser(config.optimiser), config.loss, log_q, Catalogue(len(dataset.items), {}), SEED
    )
    reader = event_reader(dataset, spec, events, config, SEED)
    return trainer, iter(training_batches(dataset, spec, reader, config.input.prefetch, epoch=0, step=0))


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
    model.fit(rows.cache(), epochs=1 + passes, verbose=0, callbacks=[clock])
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


def median_ms(function: Callable[[], Any], repeats: int) -> float:
    """Median wall milliseconds after two calls to warm up."""
    times = []
    for repeat in range(repeats + 2):
        started = time.perf_counter()
        tf.nest.map_structure(lambda tensor: tensor.numpy(), function())
        if repeat >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def loss_alone(batch: int, dim: int, repeats: int) -> dict[str, float]:
    """Milliseconds of our loss with its gradients, the library's, and of the three products done the fastest way."""
    rng = np.random.default_rng(SEED)
    queries, candidates = (
        tf.math.l2_normalize(tf.constant(rng.normal(size=(batch, dim)), tf.float32), axis=1) for _ in range(2)
    )
    log_q = tf.constant(rng.normal(size=batch), tf.float32)
    labels = tf.range(batch)

    def gradients(loss: Callable[[], tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([queries, candidates])
            value = loss()
        return [value, *tape.gradient(value, [queries, candidates])]

    @tf.function
    def one_pass() -> list[tf.Tensor]:
        return gradients(lambda: sampled_softmax_loss(queries, candidates, log_q, 1 / TEMPERATURE))

    @tf.function
    def library() -> list[tf.Tensor]:
        def loss() -> tf.Tensor:
            logits = tf.matmul(queries, candidates, transpose_b=True) / TEMPERATURE - log_q
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

        return gradients(loss)

    def products(rows: int) -> Callable[[], list[tf.Tensor]]:
        @tf.function
        def run() -> list[tf.Tensor]:
            pulled, parts = tf.zeros_like(candidates), []
            for start in range(0, batch, rows):
                logits = tf.matmul(queries[start : start + rows], candidates, transpose_b=True)
                parts.append(tf.matmul(logits, candidates))
                pulled += tf.matmul(logits, queries[start : start + rows], transpose_a=True)
            return [tf.concat(parts, 0), pulled]

        return run

    return {
        "ours": median_ms(one_pass, repeats),
        "whole logits": median_ms(library, repeats),
        "products": min(median_ms(products(rows), repeats) for rows in (256, batch)),
    }


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


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats, batch 4096 alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    console = Console()
    batches = BATCHES[1:2] if options.quick else BATCHES
    rows, passes, steps, repeats = (60_000, 1, 4, 3) if options.quick else (150_000, 3, 20, 15)
    peers = (PEERS / ".ready").exists()
    if not peers and not options.quick:
        subprocess.run(["make", "-C", ROOT, "venv-peers"], check=True)
        peers = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = write_training_data(folder / "dataset", rows, SEED)
        dataset = DatasetFolder.open(folder / "dataset")
        losses = first_losses(dataset, arrays, 4096)
        rates = {batch: end_to_end(dataset, arrays, batch, passes) for batch in batches}
        torch_runs: dict[str, Any] = {}
        if peers:
            torch_runs = pytorch(arrays, tables_of(ours(dataset, 4096)[0]), folder, steps, batches)
            losses["pytorch"] = torch_runs["4096"]["loss"]
    alone = {dim: loss_alone(4096, dim, repeats) for dim in (32, 64)}

    table = Table(title="Training end to end, examples a second", caption=f"{rows:,} rows, {os.cpu_count()} cores")
    for heading in ("batch", "ours", "tutorial loop", "PyTorch loop", "ours / tutorial", "ours / PyTorch"):
        table.add_column(heading, justify="right")
    for batch, rate in rates.items():
        torch_rate = torch_runs.get(str(batch), {}).get("examples_per_second")
        table.add_row(
            str(batch),
            f"{rate['ours']:,.0f}",
            f"{rate['tutorial']:,.0f}",
            f"{torch_rate:,.0f}" if torch_rate else "not run",
            f"{rate['ours'] / rate['tutorial']:.2f}",
            f"{rate['ours'] / torch_rate:.2f}" if torch_rate else "",
        )
    console.print(table)
    table = Table(title="Loss with its gradients alone, batch 4096, milliseconds")
    for heading in ("dim", "ours", "whole logits", "three products alone", "ours / products"):
        table.add_column(heading, justify="right")
    for dim, ms in alone.items():
        cells = (f"{ms[column]:.1f}" for column in ("ours", "whole logits", "products"))
        table.add_row(str(dim), *cells, f"{ms['ours'] / ms['products']:.2f}")
    console.print(table)
    difference = max(abs(loss / losses["ours"] - 1) for loss in losses.values())
    console.print(f"Loss of the same batch and weights: {losses}; largest relative difference {difference:.1e}")
    if difference > 1e-5:
        sys.exit("the losses differ by more than 1e-5")
    if not peers:
        console.print("PyTorch was not run: there is no .venv-peers ('make venv-peers' makes it, 5 GB).")
    if options.json:
        figures = {
            "ours_over_tutorial_loop_4096": rates[4096]["ours"] / rates[4096]["tutorial"],
            "loss_over_matrix_products_4096": max(ms["ours"] / ms["products"] for ms in alone.values()),
        }
        if torch_runs:
            figures["ours_over_pytorch_4096"] = rates[4096]["ours"] / torch_runs["4096"]["examples_per_second"]
        context = {
            "quick": options.quick,
            "rows": rows,
            "cores": os.cpu_count(),
            "examples_per_second": {str(batch): rate for batch, rate in rates.items()},
            "pytorch": torch_runs,
            "milliseconds_loss_4096": {str(dim): ms for dim, ms in alone.items()},
            "losses": losses,
        }
        options.json.write_text(json.dumps({"figures": figures, "context": context}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
