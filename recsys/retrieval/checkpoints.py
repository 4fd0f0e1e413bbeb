"""Checkpoints that survive SIGKILL: arrays and a small state in one file, written aside and renamed."""

import json
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.artifacts import atomic_file
from recsys.errors import UserError

KEPT = 2
"""Checkpoints on disk: should the newest be damaged, the one before still serves."""

_NAME = re.compile(r"checkpoint-(\d+)\.npz")
_STATE = "__state__"


def best_file(epoch: int) -> str:
    """The file of the weights after an epoch that was the best so far."""
    return f"best-{epoch:06d}.npz"


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name and the JSON-able state that was saved with them."""

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class CheckpointFolder:
    """Numbered checkpoints of one training run. `fingerprint` names the run; another run's are never restored."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self._told: set[Path] = set()

    def save(self, number: int, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Write checkpoint `number` (rising) durably, then remove all but the newest `KEPT`."""
        self.write(f"checkpoint-{number:012d}.npz", arrays, state)
        for _, old in self._numbered()[:-KEPT]:
            old.unlink()
        for old in sorted(self.folder.glob("best-*.npz"))[:-KEPT]:
            old.unlink()

    def write_best(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the weights of the best epoch so far; `save` removes those that no checkpoint left can mean."""
        self.write(best_file(epoch), arrays, {})

    def require(self, name: str, what: str) -> Checkpoint:
        """Read a file that must be there; raises UserError saying `what` is lost where it is absent or damaged."""
        found = self.read(name)
        if found is None:
            raise UserError(
                f"{self.folder / name}: {what} cannot be read (truncated or removed); remove the folder "
                f"{self.folder} to train from the start."
            )
        return found

    def write(self, name: str, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Write one file durably under a name of its own."""
        text = json.dumps({"fingerprint": self.fingerprint, **state})
        named: dict[str, Any] = {_STATE: np.frombuffer(text.encode(), np.uint8), **arrays}
        with atomic_file(self.folder / name) as file:  # not by way of memory: tables take gigabytes
            np.savez(file, **named)

    def read(self, name: str) -> Checkpoint | None:
        """Read a file; None where it is absent, damaged (zip checks every array's CRC) or another run's."""
        try:
            with np.load(self.folder / name, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            state = json.loads(arrays.pop(_STATE).tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Checkpoint(arrays, state) if state.pop("fingerprint", None) == self.fingerprint else None

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint of this run that is whole; None where there is none yet.

        Says so on standard error where it is not the newest of all, because that cannot be read. Raises UserError where
        there are checkpoints of this run's folder but none can be read.
        """
        numbered = self._numbered()
        for _, path in reversed(numbered):
            found = self.read(path.name)
            if found is not None:
                self._tell_fallen_back(numbered[-1][1], path)
                return found
        if numbered and all(self._is_damaged(path) for _, path in numbered):
            raise UserError(
                f"{numbered[-1][1]}: neither this checkpoint nor the one before it can be read (truncated or altered); "
                f"remove the folder {self.folder} to train from the start."
            )
        return None

    def _tell_fallen_back(self, newest: Path, used: Path) -> None:
        if used == newest or newest in self._told or not self._is_damaged(newest):
            return
        self._told.add(newest)
        message = f"Note: {newest} cannot be read (truncated or altered); training goes on from {used.name} before it."
        print(message, file=sys.stderr, flush=True)

    def _is_damaged(self, path: Path) -> bool:
        try:
            with np.load(path, allow_pickle=False) as file:
                json.loads(file[_STATE].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return True
        return False

    def _numbered(self) -> list[tuple[int, Path]]:
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("checkpoint-*.npz"))
        return sorted((int(match.group(1)), path) for match, path in found if match)
