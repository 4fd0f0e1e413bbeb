"""Positives that a data set carries over from those that it extends: what users did before its own log begins."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.arrays import lexicographic_order, shares_keys
from recsys.errors import UserError
from recsys.schema import ITEM, LABEL, SPLITS, TIME, USER

CARRIED = "carried"
"""In a data set that extends another one: the folder with `users.npy`, `items.npy` and `times.npy`."""


@dataclass(frozen=True, eq=False)
class Positives:
    """Positive events: `users` and `items` `[n] int32` ids, `times` `[n] int64` ms; by user and time."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> "Positives":
        """Map the arrays that `write` wrote; none where the folder is not there."""
        if not folder.is_dir():
            return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
        try:
            return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("users", "items", "times")))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: not readable as arrays ({error}); make the data set again.") from None

    def write(self, folder: Path) -> None:
        """Write three arrays into `folder`, made here."""
        folder.mkdir(parents=True)
        for name in ("users", "items", "times"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    def take(self, rows: np.ndarray) -> "Positives":
        """Some of them, by position or mask."""
        return Positives(self.users[rows], self.items[rows], self.times[rows])


def carried_positives(dataset: DatasetFolder) -> Positives:
    """What a data set carries over, less the events that its own log holds too (same user, item and time)."""
    return _known(dataset)[0]


def all_positives(dataset: DatasetFolder) -> Positives:
    """What a data set carries over and its own positives of all splits, by user and time (then split and row)."""
    carried, own = _known(dataset)
    users, items, times = (
        np.concatenate([getattr(carried, name), getattr(own, name)]) for name in ("users", "items", "times")
    )
    order = lexicographic_order(users, times)
    return Positives(users[order], items[order], times[order])


def _known(dataset: DatasetFolder) -> tuple[Positives, Positives]:
    """Carried and own positives."""
    carried = Positives.read(dataset.path / CARRIED)
    parts = []
    for split in (split for split in SPLITS if dataset.event_files(split)):
        events = dataset.events(split, (USER, ITEM, TIME, LABEL))
        columns = [events[name].to_numpy() for name in (USER, ITEM, TIME)]
        if len(carried.users):
            keys = zip((carried.users, carried.items, carried.times), columns, strict=True)
            both = [np.concatenate(pair) for pair in keys]
            own = np.arange(len(both[0])) >= len(carried.users)
            carried = carried.take(~shares_keys(own, *both)[: len(carried.users)])
        positive = events[LABEL].to_numpy() == 1
        parts.append([values[positive] for values in columns])
    return carried, Positives(*(np.concatenate(values) for values in zip(*parts, strict=True)))
