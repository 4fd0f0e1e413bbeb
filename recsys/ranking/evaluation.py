"""How good a ranker is on a part of a data set: overall, by slice of time, and by how often its values were seen."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.config.ranking import TaskConfig
from recsys.dataset_folder import DatasetFolder
from recsys.encoding.arrays import lexicographic_order, run_starts
from recsys.evaluation.inputs import query_inputs
from recsys.ranking.measure import Shown, measure_shown, reliability
from recsys.ranking.metrics import calibration_bins
from recsys.ranking.retrieval_score import RowScores
from recsys.schema import FIRST_VALUE_ID, ITEM, LABEL, RETRIEVAL_SCORE, TIME, USER, Kind, Side

MANIFEST, REPORT = "manifest.json", "ranking.json"
SIZES = ("backbone", "fields", "values", "rows", "bytes", "live")
"""What the report takes over from the ranker's own record."""
RESAMPLED_ROWS = 1 << 27
"""Rows x resamples at most: a large split needs fewer resamples for as steady an interval."""

OF_PROBABILITY = ("log_loss", "normalised_entropy", "calibration_error", "predicted_over_observed")
"""Figures that ask what a probability means, not only which is larger."""
RAREST = "rarest value"
DECILES = 10
MAX_TIME_SLICES = 14
_HOUR_MS = 3_600_000
_WIDTHS_MS = tuple(_HOUR_MS * hours for hours in (1, 2, 3, 6, 12, 24, 48, 168, 720, 2160, 8760))


def evaluate_ranker(
    dataset: DatasetFolder,
    folder: Path,
    split: str,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    model: Path | None = None,
) -> dict[str, Any] | None:
    """The ranker in `folder` on the impressions of a split, for the report; None where all have the same label.

    What `evaluate_shown` gives, with the ranker's own record of the sets of values that it tried and of what was kept
    (SIZES), and with `tasks` by name where it has any (`evaluate_task`). A ranker that neutralises the position is
    asked as serving asks it; its probabilities are then of the neutral position, so what they mean (OF_PROBABILITY, the
    reliability curve) is measured on the impressions that were shown there (`position`). A ranker that reads the
    retrieval score gets that of the retrieval `model`, a folder.
    """
    from recsys.scoring.ranker import load_ranker

    events = dataset.events(split)
    if len(np.unique(events[LABEL].to_numpy())) < 2:
        return None
    ranker = load_ranker(folder)
    inputs = impression_inputs(dataset, events, ranker.inputs)
    if RETRIEVAL_SCORE in ranker.inputs and model is not None:
        inputs[RETRIEVAL_SCORE] = RowScores.open(dataset, model).of_rows(events)
    predicted = ranker.probabilities(inputs)
    shown = shown_in(dataset, split, predicted["probability"])
    resamples = min(resamples, max(100, RESAMPLED_ROWS // len(shown)))
    frequencies = training_frequencies(dataset, split)
    settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("ranking", {})
    record = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    neutral, position = np.ones(len(shown), bool), None
    if settings.get("position"):
        name, raw = settings["position"]["field"], settings["position"]["neutral"]
        neutral = events[name].to_numpy() == dataset.vocabulary(name).encode(pa.array([raw]))[0]
        position = {"field": name, "neutral": raw, "rows": int(neutral.sum())}
    measured = evaluate_shown(
        shown, frequencies, neutral=neutral, resamples=resamples, confidence=confidence, seed=seed
    )
    measured |= {"split": split, "position": position, "retrieval_score": record.get("retrieval_score")}
    measured |= {name: record.get(name) for name in SIZES}
    judged = [one for one in record["sets"] if one["validation_auc"] is not None]
    measured["sets"] = [one | {"auc": one["validation_auc"]} for one in judged]
    tasks = {name: TaskConfig.model_validate(task) for name, task in settings.get("tasks", {}).items()}
    if tasks:
        measured["tasks"] = {
            name: evaluate_task(
                task, events, shown, predicted[f"probability_{name}"], neutral, resamples, confidence, seed
            )
            for name, task in tasks.items()
        }
    return measured


def evaluate_task(
    task: TaskConfig,
    events: pa.Table,
    shown: Shown,
    probabilities: np.ndarray,
    neutral: np.ndarray,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """The figures of another task: `overall` over the impressions whose outcome is known, as it is exported.

    Of a task of clicks, an impression without a click has the outcome 0; `given_click` are the figures of the
    conditional probability on the clicked rows. Figures OF_PROBABILITY are of the rows at the `neutral` position.
    """
    values = events[task.label_field].to_numpy().astype(np.float64)
    clicked = shown.labels > 0
    figures: dict[str, Any] = {"of": task.of, "label_field": task.label_field}
    of_clicks = task.of == "clicks"
    outcomes = np.where(clicked, values, 0.0) if of_clicks else values
    parts = {"overall": (~np.isnan(outcomes), probabilities.astype(np.float64))}
    if of_clicks:
        # A probability can round to 0 where the click's does; what is given the click is then of no matter.
        given = probabilities.astype(np.float64) / np.maximum(shown.probabilities, 1e-30)
        parts["given_click"] = (clicked & ~np.isnan(values), np.clip(given, 0.0, 1.0))
    for name, (known, chances) in parts.items():
        part = replace(shown, labels=np.nan_to_num(outcomes).astype(np.int64), probabilities=chances)
        figures[name] = _measured(part.where(known), neutral[known], resamples, confidence, seed)
    return figures


def _measured(
    shown: Shown, neutral: np.ndarray, resamples: int = 0, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """`measure_shown`, with the figures OF_PROBABILITY of the `neutral` `[n] bool` impressions alone."""
    found = measure_shown(shown, resamples=resamples, confidence=confidence, seed=seed)
    if neutral.all():
        return found
    there = measure_shown(shown.where(neutral), resamples=resamples, confidence=confidence, seed=seed)
    of_order = {name: value for name, value in found.items() if name not in OF_PROBABILITY}
    return of_order | {name: there[name] for name in OF_PROBABILITY if name in there}


def impression_inputs(dataset: DatasetFolder, events: pa.Table, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """A ranker's inputs for rows of the event table: as of each row's time, features of users and items by id."""
    arrays = query_inputs(dataset, events, wanted)
    items = events[ITEM].to_numpy()
    arrays[ITEM] = items
    for name, column in dataset.features(Side.ITEM).items():
        if name in wanted:
            arrays[name] = column[items]
    for field in dataset.schema.of(Side.ITEM, Kind.POINT_IN_TIME):
        if field.name in wanted:
            arrays[field.name] = events[field.name].to_numpy()
    return arrays


def shown_in(dataset: DatasetFolder, split: str, probabilities: np.ndarray) -> Shown:
    """The impressions of a split with a ranker's probabilities `[n]`, in the order of its rows.

    What one user was shown at one moment is a list.
    """
    events = dataset.events(split, (USER, TIME, LABEL))
    users = events[USER].to_numpy().astype(np.int64) - FIRST_VALUE_ID
    times = lists = None
    if dataset.schema.has_time:
        times = events[TIME].to_numpy()
        lists = lists_of(users, times)
    return Shown(events[LABEL].to_numpy(), users, np.asarray(probabilities, np.float64), times, lists)


def lists_of(users: np.ndarray, times: np.ndarray) -> np.ndarray | None:
    """A number for each `[n]` row, the same for rows of one user and moment; None where no two rows share both."""
    order = lexicographic_order(users, times)
    numbers = np.cumsum(run_starts(users[order], times[order])) - 1
    if len(numbers) == 0 or numbers[-1] == len(numbers) - 1:
        return None
    lists = np.empty(len(numbers), np.int64)
    lists[order] = numbers
    return lists


def evaluate_shown(
    shown: Shown,
    frequencies: Mapping[str, np.ndarray],
    *,
    neutral: np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything measured on some impressions, JSON-able.

    `frequencies` gives, by name, how often each row's value was in the training part (`training_frequencies`).
    `neutral` `[n] bool` are the impressions shown as the ranker assumes (None: all): figures OF_PROBABILITY and the
    reliability curve are of these alone, everywhere; a figure that they do not have is left out.
    `overall` (see `measure_shown`), `reliability`, `by_time` (the same figures with `from` and `to` in ms; empty
    without times) and `by_frequency` by name, with the least and the largest count of each decile of the rows.
    """
    neutral = np.ones(len(shown), bool) if neutral is None else neutral
    measured: dict[str, Any] = {
        "overall": _measured(shown, neutral, resamples, confidence, seed),
        "reliability": reliability(shown.where(neutral)) if neutral.any() else [],
        "by_time": [],
    }
    if shown.times is not None and len(shown):
        width = slice_width(shown.times)
        numbers = shown.times // width
        for number in np.unique(numbers):
            part = numbers == number
            figures = _measured(shown.where(part), neutral[part], resamples, confidence, seed)
            measured["by_time"].append({"from": int(number * width), "to": int((number + 1) * width)} | figures)
    measured["by_frequency"] = {name: _by_frequency(shown, neutral, counts) for name, counts in frequencies.items()}
    return measured


def slice_width(times: np.ndarray) -> int:
    """The shortest round span (ms) of which at most MAX_TIME_SLICES cover the times `[n]`."""
    first, last = int(times.min()), int(times.max())
    for width in _WIDTHS_MS:
        if last // width - first // width < MAX_TIME_SLICES:
            return width
    return _WIDTHS_MS[-1]


def _by_frequency(shown: Shown, neutral: np.ndarray, counts: np.ndarray) -> list[dict[str, Any]]:
    deciles = calibration_bins(counts, DECILES)
    found = []
    for decile in np.unique(deciles):
        part = deciles == decile
        span = {"least": int(counts[part].min()), "most": int(counts[part].max())}
        found.append(span | _measured(shown.where(part), neutral[part]))
    return found


def training_frequencies(dataset: DatasetFolder, split: str) -> dict[str, np.ndarray]:
    """How many training impressions had the value that each row of `split` has, `[n] int64`, by name.

    `user`, `item`, and `rarest value`: the least over these and all single-valued categorical fields.
    """
    names = [field.name for field in dataset.schema.of(Side.CONTEXT, Kind.CATEGORICAL)]
    train, asked = (dataset.events(part, (USER, ITEM, *names)) for part in ("train", split))
    counts: dict[str, np.ndarray] = {}
    for name in (USER, ITEM, *names):
        counts[name] = _seen(train[name].to_numpy(), asked[name].to_numpy())
    for side, key in ((Side.USER, USER), (Side.ITEM, ITEM)):
        features = dataset.features(side)
        for field in dataset.schema.of(side, Kind.CATEGORICAL):
            column = features[field.name]
            counts[field.name] = _seen(column[train[key].to_numpy()], column[asked[key].to_numpy()])
    rarest = np.min(np.stack(list(counts.values())), axis=0)
    return {USER: counts[USER], ITEM: counts[ITEM], RAREST: rarest}


def _seen(train: np.ndarray, asked: np.ndarray) -> np.ndarray:
    size = 1 + max(int(train.max(initial=0)), int(asked.max(initial=0)))
    return np.bincount(train, minlength=size)[asked]
