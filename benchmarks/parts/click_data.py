"""Synthetic click rows for the ranker's training benchmark: categorical fields of very unequal sizes, skewed values."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.config.ranking import RankerConfig
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND
from recsys.encoding.vocabulary import COLUMNS, Vocabulary
from recsys.features.spec import full_table
from recsys.ranking.spec import FieldSpec, RankerSpec, Reading
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side

FIELDS = 26
SMALLEST = 10
NAMES = tuple(f"field_{n:02d}" for n in range(FIELDS))


def field_sizes(total: int) -> np.ndarray:
    """Values of each field, `[26] int64`: from 10 on in equal ratios, `total` together."""
    low, high = 1.0, float(total)
    for _ in range(60):
        ratio = 0.5 * (low + high)
        if SMALLEST * np.sum(ratio ** np.arange(FIELDS, dtype=np.float64)) > total:
            high = ratio
        else:
            low = ratio
    sizes = np.floor(SMALLEST * low ** np.arange(FIELDS)).astype(np.int64)
    sizes[-1] += total - sizes.sum()
    return sizes


def click_rows(sizes: np.ndarray, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data-set ids `[rows, 26] int32` and labels `[rows] int8`.

    Values follow a power law (density u^3 of the place: the first tenth has 46 % of the rows), in an order of their
    own; a label's logit is the sum of a number a value, of some fields.
    """
    rng = np.random.default_rng(seed)
    values = np.empty((rows, FIELDS), np.int32)
    logits = np.full(rows, -1.0)
    for place, size in enumerate(sizes):
        ranks = np.minimum((size * rng.random(rows) ** 3).astype(np.int64), size - 1)
        found = _scattered(ranks, int(size))
        values[:, place] = found + FIRST_VALUE_ID
        if bears_on_labels(place):
            logits += np.sin(found * 12.9898 + place)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return values, labels


def bears_on_labels(place: int) -> bool:
    """Whether the field at a place tells of the label: 9 of the 26 do."""
    return place % 3 == 0


def last_seen(sizes: np.ndarray, steps: int, batch: int, seed: int) -> np.ndarray:
    """The step, of 1 to `steps`, whose batch last had each table row, 0 for never: `[rows] int64`."""
    rng = np.random.default_rng(seed)
    parts = []
    for size in sizes:
        ranks = np.arange(size, dtype=np.int64)
        a_step = batch * np.diff((np.arange(size + 1) / size) ** (1 / 3))
        ago = np.floor(rng.exponential(1 / a_step))
        part = np.zeros(size + FIRST_VALUE_ID, np.int64)
        part[FIRST_VALUE_ID + _scattered(ranks, int(size))] = np.maximum(steps - ago, 0)
        parts.append(part)
    return np.concatenate(parts)


def _scattered(ranks: np.ndarray, size: int) -> np.ndarray:
    """Ranks in an order of their own, as ids are no order of frequency: times a number without a divisor of `size`."""
    multiplier = 2_654_435_761 % size or 1
    while np.gcd(multiplier, size) != 1:
        multiplier += 1
    return ranks * multiplier % size


def click_spec(sizes: np.ndarray, config: RankerConfig) -> RankerSpec:
    """The ranker over such rows, without a data set folder."""
    fields = tuple(FieldSpec(name, Side.CONTEXT, Reading.ID, name) for name in NAMES)
    tables = tuple(full_table(name, int(size) + FIRST_VALUE_ID) for name, size in zip(NAMES, sizes, strict=True))
    return RankerSpec(config, fields, tables)


def write_click_data(path: Path, sizes: np.ndarray, values: np.ndarray, labels: np.ndarray) -> None:
    """The rows as the training part of a data set folder."""
    schema = Schema(
        fields=tuple(Field(name=name, side=Side.CONTEXT, kind=Kind.CATEGORICAL) for name in NAMES), has_time=False
    )
    rows = len(labels)
    payload = {"schema": schema.model_dump(mode="json"), "rows": {"in": rows, "accepted": rows, "rejected": 0}}
    with write_artifact(path, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("events", "items", "users", "vocabulary"):
            (folder / name).mkdir()
        one = np.full(rows, FIRST_VALUE_ID, np.int32)
        columns = {"user": one, "item": one, "time": np.zeros(rows, np.int64), "label": labels}
        columns |= {name: values[:, place] for place, name in enumerate(NAMES)}
        pq.write_table(pa.table(columns), folder / "events" / "train-00000.parquet", row_group_size=131_072)
        for name in ("user", "item"):
            row = {name: pa.array([FIRST_VALUE_ID], pa.int32()), "raw": ["0"], "count": [rows]}
            pq.write_table(pa.table({**row, "available_from": [0]}), folder / f"{name}s" / f"{name}s-00000.parquet")
            _vocabulary(name, 1).write(folder / "vocabulary" / f"{name}.parquet")
        for name, size in zip(NAMES, sizes, strict=True):
            _vocabulary(name, int(size)).write(folder / "vocabulary" / f"{name}.parquet")
        (folder / "statistics.json").write_text(json.dumps({"numeric": {}}), encoding="utf-8")


def _vocabulary(name: str, size: int) -> Vocabulary:
    ids = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + size, dtype=np.int32)
    values = pa.array(ids).cast(pa.string())
    return Vocabulary(name, pa.table([values, np.ones(size, np.int64), ids, np.ones(size, np.int32)], schema=COLUMNS))
