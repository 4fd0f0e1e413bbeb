"""A tiny data set folder with a known optimum, written straight to the contract (docs/contracts.md).

Two blocks: even users like even items and odd users like odd items. The items of a block are as popular as
each other, so only taste helps: a right model ranks the unseen items of the user's own block first. The last users are
new: they have no training events, only a history before their test events.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND
from recsys.encoding.vocabulary import COLUMNS, Vocabulary
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side

MINUTE = 60_000
START = 1_700_000_000_000


def tiny_schema(length: int = 8) -> Schema:
    """One field of each static kind on the item side, one on the user side, context and the history."""
    return Schema(
        fields=(
            Field(name="colour", side=Side.ITEM, kind=Kind.CATEGORICAL),
            Field(name="tags", side=Side.ITEM, kind=Kind.MULTI_VALUED),
            Field(name="price", side=Side.ITEM, kind=Kind.NUMERIC),
            Field(name="club", side=Side.USER, kind=Kind.CATEGORICAL),
            Field(name="device", side=Side.CONTEXT, kind=Kind.CATEGORICAL),
            Field(name="history", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=length),
        )
    )


def write_tiny_dataset(
    path: Path, *, users: int = 40, items: int = 24, likes: int = 10, new_users: int = 6, seed: int = 7
) -> Path:
    """Write the folder and return its path. Even ids (0-based) form one block, odd ids the other."""
    rng = np.random.default_rng(seed)
    schema = tiny_schema()
    length = schema.field("history").length or 1
    rows = []  # (time, user, item, split)
    for user in range(users):
        own = rng.permutation(np.arange(user % 2, items, 2))[:likes]
        train_until = 0 if user >= users - new_users else likes - 2
        for place, item in enumerate(own):
            if place < train_until:
                split, day = "train", 0
            elif place < likes - 1:
                split, day = "validation", 1
            else:
                split, day = "test", 2
            time = START + day * 1_000 * MINUTE + int(rng.integers(0, 900)) * MINUTE + user
            rows.append((time, user, int(item), split))
    rows.sort()

    def vocabulary(name: str, values: list[str], counts: np.ndarray) -> Vocabulary:
        ids = np.arange(len(values), dtype=np.int32) + FIRST_VALUE_ID
        table = pa.table(
            {"value": values, "count": counts, "id": ids, "generation": np.ones(len(values), np.int32)}, schema=COLUMNS
        )
        return Vocabulary(name, table)

    trained = [(user, item) for _, user, item, split in rows if split == "train"]
    user_counts = np.bincount([user for user, _ in trained], minlength=users)
    item_counts = np.bincount([item for _, item in trained], minlength=items)
    # Ids follow falling count as in a real data set, so row order differs from the 0-based numbers above.
    user_order = np.lexsort((np.arange(users), -user_counts))
    item_order = np.lexsort((np.arange(items), -item_counts))
    user_id = np.empty(users, np.int32)
    user_id[user_order] = np.arange(users) + FIRST_VALUE_ID
    item_id = np.empty(items, np.int32)
    item_id[item_order] = np.arange(items) + FIRST_VALUE_ID

    past: dict[int, list[int]] = {user: [] for user in range(users)}
    columns: dict[str, dict[str, list]] = {}
    for time, user, item, split in rows:
        column = columns.setdefault(
            split, {name: [] for name in ("user", "item", "time", "label", "device", "history")}
        )
        column["user"].append(user_id[user])
        column["item"].append(item_id[item])
        column["time"].append(time)
        column["label"].append(1)
        column["device"].append(FIRST_VALUE_ID + (time // MINUTE) % 2)
        column["history"].append(past[user][-length:])
        past[user] = [*past[user], int(item_id[item])]

    events = pa.schema(
        [
            ("user", pa.int32()),
            ("item", pa.int32()),
            ("time", pa.int64()),
            ("label", pa.int8()),
            ("device", pa.int32()),
            ("history", pa.list_(pa.int32())),
        ]
    )
    prices = rng.normal(20, 5, items).astype(np.float32)
    first = np.full(items, START, np.int64)
    vocabularies = [
        vocabulary("user", [f"u{user}" for user in user_order], user_counts[user_order]),
        vocabulary("item", [f"i{item}" for item in item_order], item_counts[item_order]),
        vocabulary("colour", ["red", "blue"], np.array([items - items // 2, items // 2])),
        vocabulary("tags", ["even", "odd", "any"], np.array([items - items // 2, items // 2, items])),
        vocabulary("club", ["a", "b"], np.array([users - users // 2, users // 2])),
        vocabulary("device", ["phone", "desk"], np.array([1, 1])),
    ]
    payload = {
        "schema": schema.model_dump(mode="json"),
        "rows": {
            "in": len(rows),
            "accepted": len(rows),
            "rejected": 0,
            "by_split": {split: len(column["user"]) for split, column in columns.items()},
            "by_reason": {},
        },
        "split": {"kind": "time"},
        "vocabularies": {v.name: {"generation": v.generation, "size": v.size} for v in vocabularies},
    }
    with write_artifact(path, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("events", "items", "users", "vocabulary", "rejected"):
            (folder / name).mkdir()
        for split, column in columns.items():
            pq.write_table(pa.table(column, schema=events), folder / "events" / f"{split}-00000.parquet")
        pq.write_table(
            pa.table(
                {
                    "item": np.arange(items, dtype=np.int32) + FIRST_VALUE_ID,
                    "raw": [f"i{item}" for item in item_order],
                    "title": [f"Item {item}" for item in item_order],
                    "count": item_counts[item_order],
                    "available_from": first,
                    "colour": (item_order % 2 + FIRST_VALUE_ID).astype(np.int32),
                    "tags": pa.array(
                        [[FIRST_VALUE_ID + item % 2, FIRST_VALUE_ID + 2] for item in item_order], pa.list_(pa.int32())
                    ),
                    "price": prices[item_order],
                }
            ),
            folder / "items" / "items-00000.parquet",
        )
        pq.write_table(
            pa.table(
                {
                    "user": np.arange(users, dtype=np.int32) + FIRST_VALUE_ID,
                    "raw": [f"u{user}" for user in user_order],
                    "count": user_counts[user_order],
                    "club": (user_order % 2 + FIRST_VALUE_ID).astype(np.int32),
                    "history": pa.array([past[user][-length:] for user in user_order], pa.list_(pa.int32())),
                }
            ),
            folder / "users" / "users-00000.parquet",
        )
        for v in vocabularies:
            v.write(folder / "vocabulary" / f"{v.name}.parquet")
        statistics = {
            "numeric": {
                "price": {
                    "mean": float(prices.mean()),
                    "std": float(prices.std()),
                    "min": float(prices.min()),
                    "max": float(prices.max()),
                    "missing": 0,
                }
            },
            "mutual_information": {
                "item": {
                    "fields": ["colour", "tags", "price"],
                    "matrix": [[0.69, 0.35, 0.0], [0.35, 0.35, 0.0], [0.0, 0.0, 2.2]],
                    "id": [0.69, 0.35, 2.2],
                },
                "user": {"fields": ["club"], "matrix": [[0.69]], "id": [0.69]},
            },
        }
        (folder / "statistics.json").write_text(json.dumps(statistics, indent=1, sort_keys=True) + "\n")
    return path
