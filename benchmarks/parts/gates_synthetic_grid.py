"""The arms of the OptFS specification's section 11 beside its figures, cell by cell, and what must be true of them."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.parts import gates_synthetic as synthetic
from benchmarks.parts import ssl_synthetic
from benchmarks.parts.code_state import TOWERS, remember
from benchmarks.parts.gates_synthetic import NOISE, Found, GateArm, noisy_data, search, train_arm
from benchmarks.parts.ssl_synthetic import recalls
from recsys._tensorflow import keras
from recsys.artifacts import fingerprint

NONE, ORACLE = "no gates", "no gates, useful fields only"
DENSE, MOST = "dense 3e-4", "as many of the most frequent values as dense 3e-4"
WITH_SSL, BLOCKED = "dense 3e-4 + SSL", "dense 3e-4 + SSL, blocked at the gates"
LAZY, FIELD = "lazy 1e-2", "field 1e-2"
ARMS: dict[str, GateArm] = {
    NONE: GateArm(),
    ORACLE: GateArm(useful=True),
    "dense 1e-4": GateArm("value-dense", 1e-4),
    DENSE: GateArm("value-dense", 3e-4),
    WITH_SSL: GateArm("value-dense", 3e-4, ssl=True),
    BLOCKED: GateArm("value-dense", 3e-4, ssl=True, reaches=False),
    "lazy 3e-3": GateArm("value-lazy", 3e-3),
    LAZY: GateArm("value-lazy", 1e-2),
    "lazy 3e-2": GateArm("value-lazy", 3e-2),
    FIELD: GateArm("field", 1e-2),
    MOST: GateArm("value-dense", 3e-4, frequent=True),
}
COLUMNS = ("brand", "tags", *NOISE)
REFERENCE: dict[str, tuple[float | None, ...]] = {
    NONE: (0.910, 0.891, 1, 1, 1, 1, 1),
    ORACLE: (0.913, 0.903, 1, 1, None, None, None),
    "dense 1e-4": (0.900, 0.856, 0.42, 0.43, 0.21, 1, 0.08),
    DENSE: (0.881, 0.793, 0.17, 0.19, 0.05, 1, 0.01),
    WITH_SSL: (0.900, 0.857, 0.39, 0.33, 0.03, 1, 0.004),
    BLOCKED: (0.875, 0.771, 0.15, 0.22, 0.03, 1, 0.01),
    LAZY: (0.907, 0.881, 0.97, 0.95, 0.95, 0.07, 0.74),
    "lazy 3e-2": (0.907, 0.882, 0.95, 0.82, 0.74, 0, 0.31),
    FIELD: (0.908, 0.883, 1, 1, 0, 0, 1),
}
"""As the specification has them (one seed): recall@50 of all and of the tail, then the share kept of `COLUMNS`."""

QUICK = (NONE, LAZY)
QUICK_EPOCHS = 1
WINS_BACK = 0.5
"""The share of what dense gates cost the tail that self-supervision in the search must win back ("most")."""

CODE_OF_CELLS = (*TOWERS, *(f"benchmarks/parts/{name}.py" for name in ("gates_synthetic", "ssl_synthetic")))

Cells = Mapping[str, Sequence[Mapping[str, Any]]]


def run_grid(seeds: Sequence[int], folder: Path, console: Console, *, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Every arm with every seed; seeds are those of the data too."""
    arms = {name: ARMS[name] for name in QUICK} if quick else ARMS
    epochs = QUICK_EPOCHS if quick else ssl_synthetic.EPOCHS
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for seed in seeds:
        searched: dict[GateArm, Found] = {}
        for name, arm in arms.items():
            results[name].append(_cell(name, arm, seed, epochs, folder, console, searched))
    return results


def settings() -> dict[str, object]:
    """The constants of the data, the model and the search."""
    own = {name: value for name, value in vars(synthetic).items() if name.isupper() and name != "ITEM"}
    base = {name: value for name, value in vars(ssl_synthetic).items() if name.isupper() and name != "ITEM"}
    return base | own


def _cell(
    name: str,
    arm: GateArm,
    seed: int,
    epochs: int,
    folder: Path,
    console: Console,
    searched: dict[GateArm, Found],
) -> dict[str, Any]:
    """Recalls and shares kept, from the file where it was run before; arms with one search share it in `searched`."""
    file = folder / f"{fingerprint({'arm': asdict(arm), 'seed': seed, 'epochs': epochs, 'of': settings()})[:20]}.json"

    def run() -> dict[str, float]:
        started = time.monotonic()
        data = noisy_data(seed)
        same = replace(arm, frequent=False)
        if arm.mode is not None and same not in searched:
            searched[same] = search(data, arm, seed)
        model, shares = train_arm(data, arm, seed, searched.get(same), epochs)
        found = recalls(model, data) | {f"kept/{field}": share for field, share in shares.items()}
        seconds = time.monotonic() - started
        console.print(
            f"[dim]seed {seed}, {name}: tail@50 {found['tail@50']:.3f}, {seconds:.0f} s[/dim]", highlight=False
        )
        keras.backend.clear_session()
        gc.collect()
        return found

    return remember(file, CODE_OF_CELLS, run)


def keys() -> tuple[str, ...]:
    """The columns of the tables."""
    return ("all@50", "tail@50", *(f"kept/{field}" for field in COLUMNS))


def mean(cells: Cells, name: str, key: str) -> float:
    """Mean over seeds; a field without gates is kept."""
    return float(np.mean([one.get(key, 1.0) for one in cells[name]]))


def rows_ratio(cells: Cells, name: str, *, noise: bool = False) -> float:
    """Values kept over values, of all fields or those of noise."""
    sizes = {field: size for field, size in synthetic.sizes().items() if field in NOISE or not noise}
    return sum(mean(cells, name, f"kept/{field}") * size for field, size in sizes.items()) / sum(sizes.values())


def table(cells: Cells, *, quick: bool) -> Table:
    """Mean ± deviation over seeds, and in brackets the specification's figure."""
    shown = Table(title="recall@50 and share of values kept: mean ± deviation over seeds [specification, one seed]")
    shown.add_column("arm")
    for key in keys():
        shown.add_column(key.replace("kept/", ""), justify="right")
    for name, found in cells.items():
        row = []
        for place, key in enumerate(keys()):
            values = np.array([one.get(key, 1.0) for one in found])
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            reference = None if quick else REFERENCE.get(name, (None,) * len(keys()))[place]
            row.append(f"{values.mean():.3f}{spread}" + (f" \\[{reference:g}]" if reference is not None else ""))
        shown.add_row(name, *row)
    return shown


def checks(cells: Cells) -> list[tuple[str, bool]]:
    """The reading that the specification gives of its table, with the figures that it is judged by here."""

    def tail(name: str) -> float:
        return mean(cells, name, "tail@50")

    def share(name: str, field: str) -> float:
        return mean(cells, name, f"kept/{field}")

    cost = tail(NONE) - tail(DENSE)
    back, blocked = (tail(name) - tail(DENSE) for name in (WITH_SSL, BLOCKED))
    useful, noise = min(share(LAZY, "brand"), share(LAZY, "tags")), share(LAZY, "noise_15")
    found = [
        (f"dense gates cost the tail: {cost:.3f}, at least 0.02", cost >= 0.02),
        (f"SSL in the search wins back {back:+.3f}, at least half of it", back >= WINS_BACK * cost),
        (f"blocked at the gates it wins back {blocked:+.3f}, less than a quarter of it", blocked < cost / 4),
        (f"lazy gates close noise of few values: kept {noise:.2f}, at most 0.2", noise <= 0.2),
        (f"lazy gates keep what is useful: {useful:.2f}, at least 0.9", useful >= 0.9),
        (f"lazy gates cost the tail {tail(NONE) - tail(LAZY):.3f}, at most 0.02", tail(NONE) - tail(LAZY) <= 0.02),
    ]
    for name in (DENSE, WITH_SSL):
        tags = share(name, "noise_tags")
        found.append((f"{name}: noise of many values closes, kept {tags:.3f} at most 0.05", tags <= 0.05))
    return found
