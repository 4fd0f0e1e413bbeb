"""A synthetic data set folder for the training benchmark, and the same rows as plain arrays for its peers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND
from recsys.encoding.vocabulary import COLUMNS, Vocabulary
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side

USERS, ITEMS, HISTORY = 50_000, 20_000, 20
CATEGORIES, BRANDS, TAGS, TAGS_OF_AN_ITEM = 200, 2_000, 1_000, 5
ROW_GROUP = 131_072
FIELDS = ("category", "brand", "tags")
SCHEMA = Schema(
    fields=(
        Field(name="category", side=Side.ITEM, kind=Kind.CATEGORICAL),
        Field(name="brand", side=Side.ITEM, kind=Kind.CATEGORICAL),
        Field(name="tags", side=Side.ITEM, kind=Kind.MULTI_VALUED),
        Field(name="history", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=HISTORY),
    ),
    has_time=False,
)


def write_training_data(path: Path, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Write the folder; return the rows: user, item, category, history (`[rows, 20]`, padded with 0), item counts.

    Every user and item occurs (at least 50,000 rows); items follow a power law with exponent 0.8; histories have 1 to
    19 items, 10 on average; items have a category, a brand and 1 to 5 tags. Values are random: this is for timing.
    """
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ITEMS + 1.0) ** 0.8
    share /= share.sum()

    def items(count: int) -> np.ndarray:
        return (rng.choice(ITEMS, count, p=share) + FIRST_VALUE_ID).astype(np.int32)

    category = (rng.integers(0, CATEGORIES, ITEMS) + FIRST_VALUE_ID).astype(np.int32)
    every_item = np.arange(ITEMS, dtype=np.int32) + FIRST_VALUE_ID
    item = rng.permutation(np.concatenate([every_item, items(rows - ITEMS)]))
    user = (rng.permutation(rows) % USERS + FIRST_VALUE_ID).astype(np.int32)
    sizes = rng.integers(1, HISTORY, rows)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    values = items(int(offsets[-1]))
    history = np.zeros((rows, HISTORY), np.int32)
    history[np.arange(HISTORY) < sizes[:, None]] = values
    counts = np.bincount(item, minlength=ITEMS + FIRST_VALUE_ID)
    payload = {"schema": SCHEMA.model_dump(mode="json"), "rows": {"in": rows, "accepted": rows, "rejected": 0}}
    with write_artifact(path, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("events", "items", "users", "vocabulary"):
            (folder / name).mkdir()
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        columns = {"user": user, "item": item, "time": np.zeros(rows, np.int64), "label": np.ones(rows, np.int8)}
        pq.write_table(
            pa.table({**columns, "history": lists}), folder / "events" / "train-00000.parquet", row_group_size=ROW_GROUP
        )
        sets = np.concatenate([[0], np.cumsum(rng.integers(1, TAGS_OF_AN_ITEM + 1, ITEMS))]).astype(np.int32)
        tags = (rng.integers(0, TAGS, int(sets[-1])) + FIRST_VALUE_ID).astype(np.int32)
        features = {
            "category": category,
            "brand": (rng.integers(0, BRANDS, ITEMS) + FIRST_VALUE_ID).astype(np.int32),
            "tags": pa.ListArray.from_arrays(pa.array(sets), pa.array(tags)),
        }
        pq.write_table(_entities("item", counts, features), folder / "items" / "items-00000.parquet")
        user_counts = np.bincount(user, minlength=USERS + FIRST_VALUE_ID)
        pq.write_table(_entities("user", user_counts, {}), folder / "users" / "users-00000.parquet")
        sizes_of = dict(zip(FIELDS, (CATEGORIES, BRANDS, TAGS), strict=True))
        values_of = {name: np.ones(size + FIRST_VALUE_ID, np.int64) for name, size in sizes_of.items()}
        for name, count in {"user": user_counts, "item": counts, **values_of}.items():
            _vocabulary(name, count).write(folder / "vocabulary" / f"{name}.parquet")
        alike = {"fields": FIELDS, "matrix": np.eye(len(FIELDS)).tolist(), "id": [1.0] * len(FIELDS)}
        statistics = {"numeric": {}, "mutual_information": {"item": alike}}
        (folder / "statistics.json").write_text(json.dumps(statistics), encoding="utf-8")
    of_item = np.concatenate([np.zeros(FIRST_VALUE_ID, np.int32), category])
    return {"user": user, "item": item, "category": of_item[item], "history": history, "counts": counts}


def _entities(name: str, counts: np.ndarray, features: dict[str, Any]) -> pa.Table:
    ids = np.arange(FIRST_VALUE_ID, len(counts), dtype=np.int32)
    known = {"raw": [str(i) for i in ids], "count": counts[FIRST_VALUE_ID:]}
    return pa.table({name: ids, **known, "available_from": np.zeros(len(ids), np.int64), **features})


def _vocabulary(name: str, counts: np.ndarray) -> Vocabulary:
    ids = np.arange(FIRST_VALUE_ID, len(counts), dtype=np.int32)
    columns = [[str(i) for i in ids], counts[FIRST_VALUE_ID:].astype(np.int64), ids, np.ones(len(ids), np.int32)]
    return Vocabulary(name, pa.table(columns, schema=COLUMNS))
