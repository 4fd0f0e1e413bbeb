"""Histories of all users: by time over the splits, without negatives, against plain Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, SPLITS
from recsys.scoring.history import Histories, write_histories


class Shuffled:
    """What `write_histories` reads of a data set whose parts are not one after the other in time (a random split)."""

    path = Path("nowhere")

    def __init__(self, users: int, rows: int, seed: int = 4) -> None:
        random = np.random.default_rng(seed)
        self.users = range(users)
        self.parts = {
            split: pa.table(
                {
                    "user": pa.array(random.integers(0, users, rows) + FIRST_VALUE_ID, pa.int32()),
                    "item": pa.array(random.integers(0, 30, rows) + FIRST_VALUE_ID, pa.int32()),
                    "time": pa.array(np.sort(random.permutation(10 * rows)[:rows]), pa.int64()),
                    "label": pa.array(random.integers(0, 2, rows), pa.int8()),
                }
            )
            for split in SPLITS[::2]
        }

    def event_files(self, split: str) -> list[str]:
        return [split] if split in self.parts else []

    def events(self, split: str, columns: tuple[str, ...]) -> pa.Table:
        return self.parts[split].select(columns)


def test_histories_are_every_users_positives_by_time(tmp_path: Path) -> None:
    dataset: Any = Shuffled(users=9, rows=60)
    write_histories(dataset, tmp_path / "histories")
    found = Histories.open(tmp_path / "histories")
    rows = [row for split in SPLITS for row in (dataset.parts[split].to_pylist() if split in dataset.parts else [])]
    for user in range(FIRST_VALUE_ID, FIRST_VALUE_ID + 9):
        own = sorted((row for row in rows if row["user"] == user and row["label"]), key=lambda row: row["time"])
        assert found.of(user).tolist() == [row["item"] for row in own]
    assert len(found.items) == sum(row["label"] for row in rows)


@pytest.mark.parametrize("user", [0, 1, 2, FIRST_VALUE_ID + 9, 10**6, -1])
def test_who_is_not_in_the_data_has_no_history(tmp_path: Path, user: int) -> None:
    write_histories(Shuffled(users=9, rows=20), tmp_path)  # type: ignore[arg-type]
    assert Histories.open(tmp_path).of(user).tolist() == []


def test_a_truncated_array_is_named(tmp_path: Path) -> None:
    write_histories(Shuffled(users=9, rows=20), tmp_path)  # type: ignore[arg-type]
    (tmp_path / "items.npy").write_bytes((tmp_path / "items.npy").read_bytes()[:-8])
    with pytest.raises(UserError, match=r"items\.npy: not a readable array"):
        Histories.open(tmp_path)
