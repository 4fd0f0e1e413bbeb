"""The folder that a configuration's stages work in: one command at a time, and stamps of what was made from what.

After a stage its fingerprint (settings, identities of its inputs, version) and the identity of what it made are stamped
into `<workdir>/.stamps/<stage>.json`; a stage whose stamp and result still fit is not run again.
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys import __version__
from recsys.artifacts import fingerprint, write_atomic
from recsys.errors import UserError

LOCK_SECONDS = 10.0
"""How long a command waits for another one in the same workdir (a killed one's last child, say) before it gives up."""

Identity = Callable[[Path], str]
"""The identity of a result on disk; raises UserError where it is missing or damaged."""
Make = Callable[[str], object]
"""Makes a result; it is given the fingerprint."""


@dataclass(frozen=True)
class Made:
    """What a stage made: where it is, which content it has, and how long it took (None: it was there already).

    `note` is what the user should know besides.
    """

    stage: str
    path: Path
    identity: str
    seconds: float | None
    note: str | None = None


def make_once(
    workdir: Path,
    stage: str,
    inputs: Mapping[str, Any],
    path: Path,
    identity: Identity,
    make: Make,
    *,
    force: bool = False,
) -> Made:
    """Make `path`, unless (without `force`) it is there, whole, and was made from the same `inputs` (JSON-able).

    Inputs that are identities of other results (texts) are kept in the stamp by their name.
    """
    key = fingerprint({"stage": stage, "version": __version__, **inputs})
    stamp = read_stamp(workdir, stage)
    if stamp is not None and stamp.get("fingerprint") == key and not force:
        with contextlib.suppress(UserError):
            if identity(path) == stamp["made"]:
                return Made(stage, path, stamp["made"], None)
    started = time.perf_counter()
    make(key)
    made = Made(stage, path, identity(path), time.perf_counter() - started)
    links = {name: value for name, value in inputs.items() if isinstance(value, str)}
    stamp = {**links, "fingerprint": key, "made": made.identity}
    write_atomic(_stamp_path(workdir, stage), json.dumps(stamp, indent=1).encode("utf-8"))
    return made


def read_stamp(workdir: Path, stage: str) -> dict[str, Any] | None:
    """What a stage was last made from; None where it never was, or the stamp cannot be read."""
    try:
        return json.loads(_stamp_path(workdir, stage).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def _stamp_path(workdir: Path, stage: str) -> Path:
    return workdir / ".stamps" / f"{stage}.json"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the workdir alone: two commands that make the same thing at once would take it from each other.

    Raises UserError where it cannot be a folder, or another command keeps it for longer than LOCK_SECONDS.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"workdir: {workdir} is no folder and cannot be made one ({error.strerror}); expected a folder, or a place "
            "where one can be made."
        ) from None
    deadline = time.monotonic() + LOCK_SECONDS
    with open(workdir / ".lock", "w", encoding="utf-8") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{workdir}: another recsys command works in this folder; wait for it to end, or choose "
                        "another one with --set workdir=FOLDER."
                    ) from None
                time.sleep(0.1)
        yield
