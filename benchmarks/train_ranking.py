"""The ranker: examples a second beside plain PyTorch, what a search costs, a table of 10 million values, latency.

    python benchmarks/train_ranking.py [--quick] [--json FILE] [--evidence]

DeepFM (first-order terms, pairs, a network) and DCN-v2 (three full crosses beside a network) as our training step takes
them from Parquet, and as people write them in PyTorch (`nn.Embedding` with dense gradients, `torch.optim.Adam`), rows
there already in tensors: same rows, sizes and weights; batch 4096, embedding 16, hidden layers 256 and 128, 26
categorical fields. Our Adam moves the rows of the batch, PyTorch's all rows; `sparse=True` with `SparseAdam`, which
moves those of the batch too, stands beside. The loss of the same batch under the same weights, five steps old so that
every part counts, must agree to 1e-4. PyTorch runs as a process of its own in `.venv-peers` with as many threads as it
takes by itself, as TensorFlow does; the two take turns. --quick leaves it out, and says so, where that does not exist.

A search starts in its middle, where it costs most: 3000 steps old, every gate as far behind as its value is rare,
logits spread around the threshold. Latency is of one call of the exported ranker with 200 candidates; pruned, it has
the fields that labels depend on (9 of 26) and of their values those that occur in the rows.
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

from benchmarks.parts.click_data import (  # noqa: E402
    NAMES,
    bears_on_labels,
    click_rows,
    click_spec,
    field_sizes,
    last_seen,
    write_click_data,
)
from benchmarks.parts.evidence import surroundings, write_speed_evidence  # noqa: E402
from recsys._tensorflow import tf  # noqa: E402
from recsys.config.ranking import RankerConfig, RankingConfig, RankingTrainConfig  # noqa: E402
from recsys.dataset_folder import DatasetFolder  # noqa: E402
from recsys.features.gate_optimiser import GateOptimiser  # noqa: E402
from recsys.features.gate_schedule import GateSearch  # noqa: E402
from recsys.features.gates import Gates  # noqa: E402
from recsys.ranking.calibration import IDENTITY  # noqa: E402
from recsys.ranking.export import export_ranker  # noqa: E402
from recsys.ranking.input import training_batches  # noqa: E402
from recsys.ranking.model import Ranker  # noqa: E402
from recsys.ranking.pruning import prune  # noqa: E402
from recsys.ranking.spec import RankerSpec  # noqa: E402
from recsys.ranking.step import Trainer  # noqa: E402
from recsys.ranking.workbench import Workbench  # noqa: E402
from recsys.retrieval.checkpoints import CheckpointFolder  # noqa: E402
from recsys.schema import FIRST_VALUE_ID  # noqa: E402
from recsys.scoring.ranker import load_ranker  # noqa: E402

SEED, BATCH, AGE = 1, 4096, 3000
BACKBONES = ("deepfm", "dcn_v2")
TABLES = {"100k": 100_000, "1m": 1_000_000, "10m": 10_000_000}
MODEL = {"embedding_dim": 16, "initial_scale": 0.05, "hidden": [256, 128], "cross_layers": 3, "features": NAMES}
SEARCH = GateSearch(0.5, 1e-6, 200.0, 6, 1000, 3e-3, 1e-8)
CANDIDATES = 200
PEERS = ROOT / ".venv-peers"
EVIDENCE = "speed-train-ranking"


def trainer_of(spec: RankerSpec, sizes: np.ndarray | None = None) -> Trainer:
    """A trainer at its initial weights; with `sizes` of the fields one in the middle of a search."""
    if sizes is None:
        return Trainer(Ranker(spec, SEED), RankingTrainConfig(batch_size=BATCH), SEED)
    rng = np.random.default_rng(SEED)
    temperature = tf.Variable(SEARCH.final_temperature**0.5, trainable=False)
    gates = Gates("values", spec.rows, start=SEARCH.start, temperature=temperature)
    optimiser = GateOptimiser([gates], SEARCH, dense=True)
    kick = (10 ** rng.uniform(-7, -5, spec.rows) * rng.choice([-1, 1], spec.rows)).astype(np.float32)
    gates.logits.assign(rng.uniform(-0.3, 0.6, spec.rows).astype(np.float32))
    moments = [0.1 * kick, 0.001 * kick**2 + np.float32(1e-14)]
    if optimiser.late[0]:
        seen = last_seen(sizes, AGE, BATCH, SEED).astype(np.float32)
        optimiser.state[0][0].assign(np.stack([*moments, seen], axis=1))
    else:
        for variable, values in zip(optimiser.state[0], moments, strict=True):
            variable.assign(values)
    optimiser.clock.assign(AGE)
    return Trainer(Ranker(spec, SEED, gates=gates), RankingTrainConfig(batch_size=BATCH), SEED, optimiser)


def batches_of(values: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """Endless batches of rows in memory."""
    whole = len(labels) // BATCH
    ones, zeros = tf.ones([BATCH]), tf.zeros([BATCH])
    parts = []
    for place in range(whole):
        part = slice(place * BATCH, (place + 1) * BATCH)
        features = {name: tf.constant(values[part, n]) for n, name in enumerate(NAMES)}
        rows = tf.constant(labels[part], tf.float32)
        parts.append({"features": features, "labels": rows, "weights": ones, "offsets": zeros})
    while True:
        yield from parts


def timed(trainer: Trainer, batches: Iterator[dict[str, Any]], steps: int) -> list[float]:
    """Seconds of each of so many steps, input included."""
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        float(trainer.train_step(next(batches)))
        seconds.append(time.perf_counter() - started)
    return seconds


def turns(contenders: dict[str, Callable[[int], list[float]]], rounds: int, steps: int) -> dict[str, float]:
    """Median seconds of a step of each; they take turns, so that what else the machine does meets all alike."""
    for run in contenders.values():
        run(2)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name] += run(steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Peer:
    """A PyTorch process of its own that trains when it is asked to."""

    def __init__(self, folder: Path, rows: np.ndarray, labels: np.ndarray) -> None:
        self.folder = folder
        np.savez(folder / "rows.npz", rows=rows.astype(np.int32), labels=labels, batch=np.int64(BATCH))
        script = ROOT / "benchmarks" / "parts" / "ranking_pytorch.py"
        command = [PEERS / "bin" / "python", script, folder / "rows.npz"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.threads = 0

    def model(self, trainer: Trainer, backbone: str, *, sparse: bool) -> None:
        """Start anew from our weights."""
        np.savez(self.folder / "weights.npz", **weights_of(trainer, backbone))  # type: ignore[arg-type]
        self._ask(weights=str(self.folder / "weights.npz"), model=backbone, sparse=sparse)

    def train(self, steps: int) -> tuple[float | None, list[float]]:
        """The first batch's loss, where it was trained now, and seconds of each step."""
        answer = self._ask(steps=steps)
        return answer["loss"], answer["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the PyTorch process ended early; its message is above")
        answer = json.loads(line)
        self.threads = answer["threads"]
        return answer


def weights_of(trainer: Trainer, backbone: str) -> dict[str, np.ndarray]:
    """Our weights under the names of the PyTorch model."""
    model = trainer.model
    dim = model.spec.dim
    table = model.table.table.numpy()
    found = {"table": np.ascontiguousarray(table[:, :dim])}
    for place, layer in enumerate(model.backbone.network.dense):
        found |= {f"hidden_{place}_kernel": layer.kernel.numpy(), f"hidden_{place}_bias": layer.bias.numpy()}
    found["hidden"] = np.int64(len(model.backbone.network.dense))
    found["output_kernel"] = model.backbone.output_layer.kernel.numpy()
    if backbone == "deepfm":
        found |= {"output_bias": model.backbone.output_layer.bias.numpy(), "bias": model.backbone.bias.numpy()}
        found["first"] = np.ascontiguousarray(table[:, dim:])
        return found
    for place, (kernel, bias) in enumerate(zip(model.backbone.kernels, model.backbone.biases, strict=True)):
        found |= {f"cross_{place}_kernel": kernel.numpy(), f"cross_{place}_bias": bias.numpy()}
    return found | {"crosses": np.int64(len(model.backbone.kernels))}


def beside_pytorch(total: int, rows: int, rounds: int, steps: int, sparse: bool) -> dict[str, dict[str, Any]]:
    """By backbone: seconds of a step of ours (plain and searching) and of PyTorch, and losses of the first batch."""
    sizes = field_sizes(total)
    values, labels = click_rows(sizes, rows, SEED)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_click_data(folder / "dataset", sizes, values, labels)
        dataset = DatasetFolder.open(folder / "dataset")
        peer = None
        for backbone in BACKBONES:
            config = RankingConfig.model_validate({"model": {**MODEL, "backbone": backbone}})
            bench = Workbench(dataset, config, SEED, CheckpointFolder(folder / "checkpoints", "benchmark"))
            plain, search = trainer_of(bench.spec), trainer_of(bench.spec, sizes)
            first = next(batches_of(values[:BATCH], labels[:BATCH]))
            timed(plain, batches_of(values, labels), 5)
            losses = {"ours": float(plain.loss(first, None))}
            feeds = [training_batches(bench.maker, bench.reader, 4, epoch=0, step=0) for _ in range(2)]
            contenders: dict[str, Callable[[int], list[float]]] = {
                "plain": lambda n, one=plain, feed=feeds[0]: timed(one, feed, n),
                "search": lambda n, one=search, feed=feeds[1]: timed(one, feed, n),
            }
            if (PEERS / ".ready").exists():
                offsets = np.array([bench.spec.offsets[name] for name in NAMES])
                peer = peer or Peer(folder, values + offsets, labels)
                peer.model(plain, backbone, sparse=False)
                losses["pytorch"] = peer.train(1)[0] or float("nan")
                contenders["pytorch"] = lambda n, one=peer: one.train(n)[1]
            seconds = turns(contenders, rounds, steps)
            if peer is not None and sparse:
                peer.model(plain, backbone, sparse=True)
                seconds |= turns({"pytorch sparse": lambda n, one=peer: one.train(n)[1]}, 1, steps)
            found[backbone] = {"seconds": seconds, "losses": losses}
            if peer is not None:
                found[backbone]["pytorch_threads"] = peer.threads
        if peer is not None:
            peer.close()
    return found


def large_table(rounds: int, steps: int) -> dict[str, float]:
    """Seconds of a DeepFM step with gates searched, by size of the table.

    `10m`: the rows of `100k`, each value at a place of its own in the larger table, so that batches hold as many
    distinct values and all that differs is the table. `10m drawn`: values drawn from all of the larger table by the
    same law, which makes three times as many of a batch distinct.
    """
    small, big = field_sizes(TABLES["100k"]), field_sizes(TABLES["10m"])
    values, labels = click_rows(small, 16 * BATCH, SEED)
    far = ((values - FIRST_VALUE_ID) * (big // small) + FIRST_VALUE_ID).astype(np.int32)
    config = RankerConfig.model_validate({**MODEL, "backbone": "deepfm"})
    trainers = {name: trainer_of(click_spec(sizes, config), sizes) for name, sizes in (("100k", small), ("10m", big))}
    feeds = {
        "100k": ("100k", batches_of(values, labels)),
        "10m": ("10m", batches_of(far, labels)),
        "10m drawn": ("10m", batches_of(*click_rows(big, 16 * BATCH, SEED))),
    }
    contenders: dict[str, Callable[[int], list[float]]] = {
        name: lambda n, one=trainers[size], feed=feed: timed(one, feed, n) for name, (size, feed) in feeds.items()
    }
    return turns(contenders, rounds, steps)


def latency(backbone: str, calls: int) -> dict[str, dict[str, float]]:
    """Milliseconds of scoring 200 candidates by the exported ranker, before and after pruning."""
    sizes = field_sizes(TABLES["1m"])
    values, _ = click_rows(sizes, calls * CANDIDATES, SEED)
    spec = click_spec(sizes, RankerConfig.model_validate({**MODEL, "backbone": backbone}))
    stays = np.zeros(spec.rows, bool)
    for place, name in enumerate(NAMES):
        if bears_on_labels(place):
            stays[spec.offsets[name] + np.unique(values[:, place])] = True
    gates = Gates("values", spec.rows, start=0.5, temperature=None)
    gates.logits.assign(np.where(stays, 1.0, -1.0).astype(np.float32))
    models = {"before": Ranker(spec, SEED), "after": prune(Ranker(spec, SEED, gates=gates))}
    with tempfile.TemporaryDirectory() as folder:
        rankers = {}
        for name, model in models.items():
            export_ranker(model, IDENTITY, {}, Path(folder) / name / "model")
            rankers[name] = load_ranker(Path(folder) / name)
        spent: dict[str, list[float]] = {name: [] for name in rankers}
        for call in range(calls):
            part = slice(call * CANDIDATES, (call + 1) * CANDIDATES)
            arrays = {field: values[part, place] for place, field in enumerate(NAMES)}
            for name, ranker in rankers.items():
                started = time.perf_counter()
                ranker.score(arrays)
                spent[name].append(1e3 * (time.perf_counter() - started))
    skipped = calls // 10
    return {
        name: {"p50": float(np.median(ms[skipped:])), "p99": float(np.quantile(ms[skipped:], 0.99))}
        for name, ms in spent.items()
    }


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds, the smaller vocabulary alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help=f"write docs/evidence/{EVIDENCE}/")
    options = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    console = Console(record=True)
    sizes = ("100k",) if options.quick else ("100k", "1m")
    rounds, steps, calls = (2, 6, 120) if options.quick else (5, 12, 500)
    if not (PEERS / ".ready").exists() and not options.quick:
        subprocess.run(["make", "-C", ROOT, "venv-peers"], check=True)
    runs = {
        size: beside_pytorch(TABLES[size], (16 if options.quick else 48) * BATCH, rounds, steps, not options.quick)
        for size in sizes
    }
    large = large_table(rounds, steps)
    milliseconds = {backbone: latency(backbone, calls) for backbone in (BACKBONES[:1] if options.quick else BACKBONES)}
    print_tables(console, runs, large, milliseconds)
    losses = [one["losses"] for run in runs.values() for one in run.values()]
    worst = float(np.max([abs(loss / pair["ours"] - 1) for pair in losses for loss in pair.values()]))  # NaN stays NaN
    console.print(f"Loss of the same batch and weights: largest relative difference {worst:.1e}")
    if not worst <= 1e-4:
        sys.exit("the losses differ by more than 1e-4")
    if not (PEERS / ".ready").exists():
        console.print("PyTorch was not run: there is no .venv-peers ('make venv-peers' makes it, 5 GB).")
    context = {
        **surroundings(),
        "quick": options.quick,
        "batch": BATCH,
        "runs": runs,
        "seconds_by_table": large,
        "milliseconds_200": milliseconds,
    }
    result = {"figures": figures_of(runs, large, milliseconds), "context": context}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.evidence:
        notes = (
            "The leading figures beside PyTorch are of 100 thousand values, the size that suits its dense Adam most."
        )
        write_speed_evidence(EVIDENCE, "Speed of the ranker", notes, console.export_text(), result)


def figures_of(
    runs: dict[str, dict[str, dict[str, Any]]], large: dict[str, float], milliseconds: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """The figures by their plain names; those beside PyTorch are of the smallest table, which suits dense Adam most."""
    figures: dict[str, float] = {}
    for size, run in runs.items():
        suffix = "" if size == next(iter(runs)) else f"_{size}"
        for backbone, one in run.items():
            seconds = one["seconds"]
            for peer, name in (("pytorch", "pytorch"), ("pytorch sparse", "sparse_pytorch")):
                if peer in seconds:
                    figures[f"{backbone}_over_{name}{suffix}"] = seconds[peer] / seconds["plain"]
        ratios = [one["seconds"]["search"] / one["seconds"]["plain"] for one in run.values()]
        figures[f"search_over_plain{suffix}"] = max(ratios)
    figures["step_10m_over_100k"] = large["10m"] / large["100k"]
    figures["step_10m_drawn_over_100k"] = large["10m drawn"] / large["100k"]
    for name, ms in milliseconds["deepfm"].items():
        figures |= {f"score_200_{which}_ms_{name}": value for which, value in ms.items()}
    return figures


def print_tables(
    console: Console,
    runs: dict[str, dict[str, dict[str, Any]]],
    large: dict[str, float],
    milliseconds: dict[str, dict[str, dict[str, float]]],
) -> None:
    """What was measured, for people."""
    table = Table(title=f"Training, examples a second, batch {BATCH}", caption=f"{os.cpu_count()} cores")
    for heading in ("values", "model", "ours", "searching", "PyTorch", "PyTorch sparse", "ours / PyTorch", "search"):
        table.add_column(heading, justify="right")
    for size, run in runs.items():
        for backbone, one in run.items():
            seconds = one["seconds"]
            rates = [
                f"{BATCH / seconds[name]:,.0f}" if name in seconds else "not run"
                for name in ("plain", "search", "pytorch", "pytorch sparse")
            ]
            ratio = f"{seconds['pytorch'] / seconds['plain']:.2f}" if "pytorch" in seconds else ""
            table.add_row(size, backbone, *rates, ratio, f"{seconds['search'] / seconds['plain']:.2f} x")
    console.print(table)
    console.print(
        f"DeepFM step with gates searched: {1e3 * large['100k']:.1f} ms with 100 k values, {1e3 * large['10m']:.1f} ms "
        f"with 10 M ({large['10m'] / large['100k']:.2f} x; {large['10m drawn'] / large['100k']:.2f} x where values are "
        "drawn from all of these)"
    )
    table = Table(title=f"Scoring {CANDIDATES} candidates in one call, milliseconds")
    for heading in ("model", "p50 before", "p99 before", "p50 after pruning", "p99 after pruning"):
        table.add_column(heading, justify="right")
    for backbone, ms in milliseconds.items():
        table.add_row(backbone, *(f"{ms[name][which]:.2f}" for name in ("before", "after") for which in ("p50", "p99")))
    console.print(table)


if __name__ == "__main__":
    main()
