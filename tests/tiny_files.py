"""A shop of two blocks as CSV files and a configuration: even users like even items."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

USERS, ITEMS, LIKES, NEW_USERS = 60, 40, 14, 10
START = 1_700_000_000
HOUR = 3600


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file with a header line."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def events(seed: int = 0) -> list[tuple[str, str, int, str]]:
    """(user, item, time in s, device) in order of time; the last users come late, so they are new in the test part."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        start = START + (0 if user < USERS - NEW_USERS else 9 * HOUR)
        for place, item in enumerate(random.permutation(np.arange(user % 2, ITEMS, 2))[:LIKES]):
            time = start + place * HOUR + int(random.integers(HOUR))
            rows.append((f"u{user}", f"i{item}", time, str(random.choice(["phone", "desk"]))))
    return sorted(rows, key=lambda row: row[2])


def write_shop(folder: Path) -> Path:
    """Write events.csv, items.csv, users.csv and shop.yaml into `folder`; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "events.csv", ("user", "item", "time", "device"), events())
    items = ((f"i{item}", f"Item {item}", ("red", "blue")[item % 2], 10 + item / 2) for item in range(ITEMS))
    write_csv(folder / "items.csv", ("item", "title", "colour", "price"), items)
    write_csv(folder / "users.csv", ("user", "club"), ((f"u{user}", "ab"[user % 2]) for user in range(USERS)))
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(settings(folder)), encoding="utf-8")
    return path


def settings(folder: Path) -> dict[str, Any]:
    """The configuration of the shop, small enough for every stage to take seconds."""
    return {
        "name": "shop",
        "workdir": str(folder / "work"),
        "data": {
            "source": "files",
            "time_unit": "s",
            "events": {"paths": str(folder / "events.csv"), "columns": {"time": "time"}},
            "items": {"paths": str(folder / "items.csv"), "columns": {"title": "title"}},
            "users": {"paths": str(folder / "users.csv")},
            "fields": [
                {"name": "colour", "side": "item", "kind": "categorical"},
                {"name": "price", "side": "item", "kind": "numeric"},
                {"name": "club", "side": "user", "kind": "categorical"},
                {"name": "device", "side": "context", "kind": "categorical"},
                {"name": "history", "side": "user", "kind": "sequence", "of": "item", "length": 8},
            ],
        },
        "train": {
            "epochs": 24,
            "batch_size": 128,
            "patience": 24,
            "optimiser": {"learning_rate": 0.02},
            "validation": {"k": 5},
            "checkpoint": {"every_steps": 3},
        },
        "evaluate": {"baselines": ["popularity", "item_knn"], "ks": [5, 10], "main_k": 5, "bootstrap": 50},
    }
