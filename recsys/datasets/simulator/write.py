"""Running the shop and writing its logs as one artefact."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys.artifacts import Artifact, open_artifact, write_artifact
from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import make_catalogue
from recsys.datasets.simulator.clicks import (
    ClickModel,
    Impressions,
    calibrate,
    examination,
    make_impressions,
    sigmoid,
)
from recsys.datasets.simulator.conversions import conversion_odds, with_conversions
from recsys.datasets.simulator.exposure import NONE, make_lists
from recsys.datasets.simulator.people import make_people
from recsys.datasets.simulator.streams import stream
from recsys.datasets.simulator.tables import (
    click_table,
    impression_table,
    item_table,
    item_truth,
    noise_fields,
    truth_table,
    user_table,
    user_truth,
)
from recsys.datasets.simulator.traffic import Requests, make_requests

SIMULATION_KIND = "simulation"
SIMULATION_FORMAT = 1
_FILE_ROWS = 500_000
_SAMPLE_REQUESTS = 20_000
_THREADS = 2


def open_simulation(path: Path) -> Artifact:
    """Open logs written by `write_simulation`; raises UserError where there are none or they are not whole."""
    return open_artifact(path, SIMULATION_KIND, SIMULATION_FORMAT)


def write_simulation(config: SimulatorData, seed: int, path: Path, *, quiet: bool = False) -> Artifact:
    """Run the shop and write its logs to `path`, whole or not at all; equal settings and seed give equal bytes.

    `impressions/`, `clicks/`, `items/` and `users/` are what a shop would have; `truth/` holds click probabilities row
    by row beside the impressions, clusters, vectors and hidden groups. The manifest lists the noise fields, the drift
    schedule, all parameters and the counts.
    """
    counts = {"impressions": 0, "clicks": 0}
    payload: dict[str, Any] = {
        "settings": settings_of(config),
        "seed": seed,
        "noise_fields": noise_fields(config),
        "drift": [drift.model_dump() for drift in config.drift],
        "counts": counts,
    }
    with write_artifact(path, SIMULATION_KIND, SIMULATION_FORMAT, payload) as folder:
        for name in ("impressions", "clicks", "items", "users", "truth"):
            (folder / name).mkdir()
        catalogue, people = make_catalogue(config, seed), make_people(config, seed)
        pq.write_table(item_table(config, catalogue), folder / "items" / "items-00000.parquet")
        pq.write_table(user_table(config, people), folder / "users" / "users-00000.parquet")
        pq.write_table(item_truth(catalogue), folder / "truth" / "items.parquet")
        pq.write_table(user_truth(people), folder / "truth" / "users.parquet")
        requests = make_requests(config, people, seed)
        model, conversions = _calibrated(ClickModel(config, catalogue, people), requests, seed)

        step = max(1, _FILE_ROWS // config.list_length)
        starts = range(0, len(requests), step)

        def write(number: int) -> tuple[int, int]:
            first = starts[number]
            part = requests.take(slice(first, first + step))
            shown = _shown(model, part, seed, number)
            if conversions is not None:
                shown = with_conversions(model, conversions, part, shown, stream(seed, "conversions", number))
            noise = [
                stream(seed, f"context noise {field}", number).integers(0, config.noise_values, len(part))
                for field in range(config.noise_context_fields)
            ]
            impressions = impression_table(config, part, first, shown, noise)
            clicks = click_table(impressions)
            name = f"{number:05d}.parquet"
            pq.write_table(impressions, folder / "impressions" / f"impressions-{name}")
            pq.write_table(clicks, folder / "clicks" / f"clicks-{name}")
            pq.write_table(truth_table(shown), folder / "truth" / f"impressions-{name}")
            return len(impressions), len(clicks)

        with ThreadPoolExecutor(_THREADS) as pool:
            done = pool.map(write, range(len(starts)))  # NumPy and Parquet release the lock for most of the work
            for rows, clicks in _with_progress(done, len(requests) * config.list_length, quiet):
                counts["impressions"] += rows
                counts["clicks"] += clicks
        counts |= {"items": len(catalogue), "users": len(people), "requests": len(requests)}
    return open_simulation(path)


def settings_of(config: SimulatorData) -> dict[str, Any]:
    """The shop's parameters, JSON-able, without what the configuration adds to them for other stages."""
    return {name: value for name, value in config.model_dump(mode="json").items() if name in SimulatorData.model_fields}


def _shown(model: ClickModel, requests: Requests, seed: int, number: int) -> Impressions:
    lists = make_lists(model.config, model.catalogue, requests, stream(seed, "lists", number))
    return make_impressions(model, requests, lists, stream(seed, "clicks", number))


def _calibrated(model: ClickModel, requests: Requests, seed: int) -> tuple[ClickModel, float | None]:
    """The model with the constant that gives shown items the wanted click rate, found on a sample of all days.

    Beside it the constant of the conversions, None where there are none.
    """
    sample = requests.take(np.unique(np.linspace(0, len(requests) - 1, _SAMPLE_REQUESTS).astype(np.int64)))
    lists = make_lists(model.config, model.catalogue, sample, stream(seed, "sample"))
    request, place = np.nonzero(lists != NONE)
    item = lists[request, place]
    odds = model.log_odds(sample, request, item)
    constant = calibrate(odds, model.config.click_rate)
    conversions = None
    if model.config.conversions:
        clicked = examination(model.config)[place] * sigmoid(odds + constant)
        later = conversion_odds(model, sample, request, item)
        conversions = calibrate(later, model.config.conversion_rate, clicked)
    return ClickModel(model.config, model.catalogue, model.people, constant), conversions


def _with_progress(done: Iterator[tuple[int, int]], total: int, quiet: bool) -> Iterator[tuple[int, int]]:
    """The same pairs, with a bar, rows/s and time left on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} impressions, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        task = bars.add_task("simulating", total=total, rate=0.0)
        for rows, clicks in done:
            yield rows, clicks
            bars.update(task, advance=rows, rate=bars.tasks[task].completed / (bars.tasks[task].elapsed or 1.0))
