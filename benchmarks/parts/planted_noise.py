"""The planted-noise data of the OptFS specification, section 10, as a data set folder, and what is true of it."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND
from recsys.encoding.vocabulary import COLUMNS, Vocabulary
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side, Statistic

INFORMATIVE, VALUES, LIVE, RANK = 6, 40, 130, 4
HIGH, HIGH_VALUES = 3, 1500
LOW, LOW_VALUES = 2, 20
SPREAD = 2.05
"""Standard deviation of the true logit, which the specification does not give: the Bayes AUC is then its 0.831."""
SKEW = 0.8
"""Zipf exponent of the informative values' frequencies, which the specification does not give either. Were they alike,
even the true probability given the most frequent values alone would reach an AUC of .58; its control reaches .70."""
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
SIZES = [VALUES] * INFORMATIVE + [HIGH_VALUES] * HIGH + [LOW_VALUES] * LOW
NAMES = (
    [f"informative_{n}" for n in range(INFORMATIVE)]
    + [f"noise_high_{n}" for n in range(HIGH)]
    + [f"noise_low_{n}" for n in range(LOW)]
)
TOTAL = sum(SIZES)
OF_ITEM = ("informative_3", "informative_4", "informative_5", "noise_high_2", "noise_low_1")
"""Fields of the item as of the event, so that a ranker of two towers has both; all others are of the context."""


@dataclass(frozen=True, eq=False)
class Truth:
    """`kind` `[fields][values]`: live, dead, high or low, by field name; `bayes` the true test probabilities `[n]`."""

    kind: dict[str, np.ndarray]
    bayes: np.ndarray


def write_planted_noise(path: Path, rows: int, seed: int) -> Truth:
    """Write the folder. Labels are drawn from a rank-4 FM over the live values of six fields; all else is noise."""
    rng = np.random.default_rng([seed, 10])
    live = np.zeros(INFORMATIVE * VALUES, bool)
    live[rng.permutation(len(live))[:LIVE]] = True
    live = live.reshape(INFORMATIVE, VALUES)
    latent = rng.normal(size=(INFORMATIVE, VALUES, RANK)) * live[..., None]
    share = 1 / np.arange(1, VALUES + 1) ** SKEW
    shares = [rng.permutation(share / share.sum()) for _ in range(INFORMATIVE)] + [None] * (HIGH + LOW)
    values = np.stack([rng.choice(size, rows, p=p) for size, p in zip(SIZES, shares, strict=True)], axis=1)
    vectors = latent[np.arange(INFORMATIVE), values[:, :INFORMATIVE]]
    logits = 0.5 * (np.square(vectors.sum(1)) - np.square(vectors).sum(1)).sum(1)
    logits *= SPREAD / logits.std()
    probabilities = 1 / (1 + np.exp(-logits))
    labels = (rng.random(rows) < probabilities).astype(np.int8)
    _write(path, values, labels)
    first = round(rows * (1 - SHARES["test"]))
    kind = {name: np.full(size, name.split("_")[1]) for name, size in zip(NAMES, SIZES, strict=True)}
    for field in range(INFORMATIVE):
        kind[NAMES[field]] = np.where(live[field], "live", "dead")
    return Truth(kind, probabilities[first:])


def _write(path: Path, values: np.ndarray, labels: np.ndarray) -> None:
    schema = Schema(fields=tuple(map(_field, NAMES, SIZES)), has_time=False)
    rows = len(labels)
    cuts = np.round(np.cumsum([0.0, *SHARES.values()]) * rows).astype(int)
    parts = dict(zip(SHARES, itertools.pairwise(cuts), strict=True))
    payload = {"schema": schema.model_dump(mode="json"), "rows": {"in": rows, "accepted": rows, "rejected": 0}}
    with write_artifact(path, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("events", "items", "users", "vocabulary"):
            (folder / name).mkdir()
        one = np.full(rows, FIRST_VALUE_ID, np.int32)
        columns = {"user": one, "item": one, "time": np.zeros(rows, np.int64), "label": labels}
        columns |= {name: (values[:, n] + FIRST_VALUE_ID).astype(np.int32) for n, name in enumerate(NAMES)}
        for split, (start, stop) in parts.items():
            table = pa.table({name: column[start:stop] for name, column in columns.items()})
            pq.write_table(table, folder / "events" / f"{split}-00000.parquet")
        for name in ("user", "item"):
            row = {name: pa.array([FIRST_VALUE_ID], pa.int32()), "raw": ["0"], "count": [rows]}
            pq.write_table(pa.table({**row, "available_from": [0]}), folder / f"{name}s" / f"{name}s-00000.parquet")
        counts = {"user": np.array([rows]), "item": np.array([rows])}
        training = slice(*parts["train"])
        for n, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
            counts[name] = np.bincount(values[training, n], minlength=size)
        for name, count in counts.items():
            _vocabulary(name, count).write(folder / "vocabulary" / f"{name}.parquet")
        (folder / "statistics.json").write_text(json.dumps({"numeric": {}}), encoding="utf-8")


def _field(name: str, size: int) -> Field:
    if name not in OF_ITEM:
        return Field(name=name, side=Side.CONTEXT, kind=Kind.CATEGORICAL)
    return Field(name=name, side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLUSTER, clusters=size)


def _vocabulary(name: str, counts: np.ndarray) -> Vocabulary:
    """Values in order of their number, which here is no order of frequency."""
    ids = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + len(counts), dtype=np.int32)
    columns = [[str(n) for n in range(len(counts))], counts.astype(np.int64), ids, np.ones(len(ids), np.int32)]
    return Vocabulary(name, pa.table(columns, schema=COLUMNS))
