"""What every user did, as of the end of the data: the items that an answer leaves out and a person wants to see.

A sequence field holds only a user's last few positives and a schema may have none, so a bundle carries all of them, as
two memory-mapped arrays (CSR).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.carried import all_positives
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID

OFFSETS = "offsets.npy"
ITEMS = "items.npy"


@dataclass(frozen=True, eq=False)
class Histories:
    """Positives of all users: those of the user with id `u` are `items[offsets[u - 3] : offsets[u - 2]]`.

    `offsets` `[users + 1] int64`; `items` `[events] int32` ids, oldest first, an item as often as it was chosen.
    """

    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> "Histories":
        """Map the two arrays; raises UserError naming the file that is missing or truncated."""
        return cls(map_array(folder / OFFSETS), map_array(folder / ITEMS))

    def of(self, user: int) -> np.ndarray:
        """Item ids of one user id, oldest first, `[n] int32`; empty for the special ids and ids not in the data."""
        row = user - FIRST_VALUE_ID
        if not 0 <= row < len(self.offsets) - 1:
            return np.empty(0, np.int32)
        return np.asarray(self.items[self.offsets[row] : self.offsets[row + 1]])


def map_array(path: Path) -> np.ndarray:
    """A saved array, memory-mapped; raises UserError naming the file where it is missing or truncated."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable array ({error}); make the bundle again.") from None


def write_histories(dataset: DatasetFolder, folder: Path) -> None:
    """Write the positives of all splits, and of the data sets that this one extends, into `folder`, made here."""
    positives = all_positives(dataset)
    counts = np.bincount(positives.users - FIRST_VALUE_ID, minlength=len(dataset.users))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / OFFSETS, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    np.save(folder / ITEMS, positives.items.astype(np.int32))
