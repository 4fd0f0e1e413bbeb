"""Training: examples a second beside other loops, the loss beside its matrix products, and what each option costs.

    python benchmarks/train_retrieval.py [--quick] [--json FILE] [--evidence]

Beside others: same model (user id + mean of the history; item id + category; sums, L2-normalised), same rows, same
initial weights, same loss (exact logQ, accidental hits masked) and same optimiser (Adagrad) everywhere. The tutorial
loop is that of the library's documentation: from_tensor_slices, shuffle, batch, cache, `tasks.Retrieval`, Keras `fit`.
PyTorch runs as a process of its own in `.venv-peers`, rows already in tensors; --quick leaves it out, and says so,
where that does not exist. Operations are deterministic, as in the training job.

Options: the default model over items with a category, a brand and tags; steps with and without the option take turns
on the same warm batches of 4,096. Memory: one process a batch size. What is timed where: benchmarks/parts/train_*.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts.evidence import surroundings, write_speed_evidence  # noqa: E402
from benchmarks.parts.train_data import write_training_data  # noqa: E402
from benchmarks.parts.train_loss import time_losses  # noqa: E402
from benchmarks.parts.train_memory import growth_mib  # noqa: E402
from benchmarks.parts.train_options import BATCH, GATES, OFF, OPTIONS, QUICK, SPARE_SSL, SSL, Anatomy, Options  # noqa: E402
from benchmarks.parts.train_peers import PEERS, end_to_end, first_losses, ours, pytorch, tables_of  # noqa: E402
from recsys._tensorflow import tf  # noqa: E402
from recsys.dataset_folder import DatasetFolder  # noqa: E402

EVIDENCE = "speed-train-retrieval"
SEED = 1
BATCHES = (1024, 4096, 8192)
MEMORY_BATCHES = (1024, 4096, 16_384, 65_536)
LIMIT_MIB = 4096
LOADED = ", self-supervision, gates"


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, repeats, options; batch 4096; no PyTorch")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--evidence", action="store_true", help=f"write docs/evidence/{EVIDENCE}/")
    options = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    console = Console(width=None if sys.stdout.isatty() else 120, record=True)
    batches = BATCHES[1:2] if options.quick else BATCHES
    rows, passes, steps, repeats = (66_000, 1, 4, 3) if options.quick else (150_000, 3, 20, 15)
    peers = not options.quick
    if peers and not (PEERS / ".ready").exists():
        subprocess.run(["make", "-C", ROOT, "venv-peers"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = write_training_data(folder / "dataset", rows, SEED)
        dataset = DatasetFolder.open(folder / "dataset")
        losses = first_losses(dataset, arrays, BATCH)
        rates = {batch: end_to_end(dataset, arrays, batch, passes) for batch in batches}
        torch_runs: dict[str, Any] = {}
        if peers:
            torch_runs = pytorch(arrays, tables_of(ours(dataset, BATCH)[0]), folder, steps, batches)
            losses["pytorch"] = torch_runs[str(BATCH)]["loss"]
        alone = {dim: time_losses(BATCH, dim, repeats, xla=not options.quick) for dim in (32, 64)}
        with ThreadPoolExecutor(1) as pool:  # while the options are compiled, which is not timed
            sizes = MEMORY_BATCHES[-1:] if options.quick else MEMORY_BATCHES
            measure = partial(growth_mib, folder / "dataset", steps=1 if options.quick else 2)
            growths = pool.map(measure, sizes)
            loaded = None if options.quick else pool.submit(measure, MEMORY_BATCHES[-1], options="all")
            steps_of = Options(dataset, QUICK if options.quick else tuple(OPTIONS))
            memory = {f"{size:,}": growth for size, growth in zip(sizes, growths, strict=True)}
            if loaded is not None:
                memory[f"{MEMORY_BATCHES[-1]:,}{LOADED}"] = loaded.result()
        times = steps_of.times(rounds=10 if options.quick else 15, steps=1 if options.quick else 4)
        anatomy = steps_of.anatomy(repeats)

    console.print(_ends(rates, torch_runs, rows))
    console.print(_losses(alone))
    console.print(_options(times))
    console.print(_anatomy(anatomy))
    console.print(_memory(memory))
    difference = max(abs(loss / losses["ours"] - 1) for loss in losses.values())
    console.print(f"Loss of the same batch and weights: {losses}; largest relative difference {difference:.1e}")
    if difference > 1e-5:
        sys.exit("the losses differ by more than 1e-5")
    if max(memory.values()) > LIMIT_MIB:
        sys.exit(f"training took more than {LIMIT_MIB} MiB")
    if not peers:
        console.print("PyTorch was not run: --quick leaves it out.")
    if options.json or options.evidence:
        costs = Options.ratios(times)
        figures = {
            "ours_over_tutorial_loop_4096": rates[BATCH]["ours"] / rates[BATCH]["tutorial"],
            "loss_over_matrix_products_4096": max(ms["ours"] / _products(ms) for ms in alone.values()),
            "ssl_cost": costs[SSL],
            "gates_cost": max(cost for name, cost in costs.items() if name.startswith(GATES)),
            "peak_memory_65536_mib": memory[f"{MEMORY_BATCHES[-1]:,}"],
            "matrix_product_share_4096": anatomy.products / anatomy.step,
            "input_over_step_4096": anatomy.input / anatomy.step,
        }
        if not options.quick:
            figures["ssl_every_2_cost"] = costs[SPARE_SSL]
            figures["peak_memory_65536_all_mib"] = memory[f"{MEMORY_BATCHES[-1]:,}{LOADED}"]
        if torch_runs:
            figures["ours_over_pytorch_4096"] = rates[BATCH]["ours"] / torch_runs[str(BATCH)]["examples_per_second"]
        context = surroundings() | {
            "quick": options.quick,
            "rows": rows,
            "examples_per_second": {str(batch): rate for batch, rate in rates.items()},
            "pytorch": torch_runs,
            "milliseconds_loss_4096": {str(dim): ms for dim, ms in alone.items()},
            "milliseconds_step_4096": times,
            "option_costs": costs,
            "memory_mib": memory,
            "losses": losses,
        }
        document = {"figures": figures, "context": context}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.evidence:
        notes = "Synthetic rows; every loop has the same model, rows, initial weights, loss and optimiser."
        write_speed_evidence(EVIDENCE, "Speed of training the towers", notes, console.export_text(), document)


def _products(ms: dict[str, float]) -> float:
    return min(ms["products in blocks"], ms["products at once"])


def _table(title: str, *headings: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _ends(rates: dict[int, dict[str, float]], torch_runs: dict[str, Any], rows: int) -> Table:
    headings = ("batch", "ours", "tutorial loop", "PyTorch loop", "ours / tutorial", "ours / PyTorch")
    table = _table(
        "Training end to end, examples a second", *headings, caption=f"{rows:,} rows, {os.cpu_count()} cores"
    )
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
    return table


def _losses(alone: dict[int, dict[str, float]]) -> Table:
    columns = list(next(iter(alone.values())))
    table = _table(
        f"Loss with its gradients alone, batch {BATCH}, milliseconds",
        "dim",
        *columns,
        "ours / products",
        "bfloat16 / ours",
    )
    for dim, ms in alone.items():
        cells = (f"{ms[column]:.1f}" for column in columns)
        table.add_row(str(dim), *cells, f"{ms['ours'] / _products(ms):.2f}", f"{ms['bfloat16'] / ms['ours']:.2f}")
    return table


def _options(times: dict[str, list[float]]) -> Table:
    table = _table(
        f"Options, batch {BATCH}", "option", "ms a step", "examples a second", "time / off", "examples / off"
    )
    costs = {OFF: 1.0, **Options.ratios(times)}
    for name, values in times.items():
        ms = min(values)
        table.add_row(name, f"{ms:.1f}", f"{BATCH / ms * 1e3:,.0f}", f"{costs[name]:.2f}", f"{1 / costs[name]:.2f}")
    return table


def _anatomy(anatomy: Anatomy) -> Table:
    table = _table(
        f"A step without options, batch {BATCH}, milliseconds", "step", "its matrix products", "share", "input"
    )
    share = f"{anatomy.products / anatomy.step:.0%}"
    table.add_row(f"{anatomy.step:.1f}", f"{anatomy.products:.1f}", share, f"{anatomy.input:.1f}")
    return table


def _memory(memory: dict[str, float]) -> Table:
    table = _table("Peak memory above the idle process", "batch", "MiB", caption=f"limit {LIMIT_MIB} MiB")
    for batch, mib in memory.items():
        table.add_row(batch, f"{mib:,.0f}")
    return table


if __name__ == "__main__":
    main()
