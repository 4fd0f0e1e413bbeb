"""The registry: published bundles, one of them current (docs/contracts.md, 'Registry folder').

`promote` is the one path by which a bundle becomes current; publishing and rolling back go through it too.

Crash safety is that of a redo log. A change is appended to `log.jsonl` and fsynced first, then `current.json` is
renamed into place. Whoever takes the lock next cuts off a torn last line and completes a change whose second half was
lost, so at every instant the registry is as it was before the change or as it is after it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.artifacts import Artifact, copy_artifact, fsync_folder, open_artifact, write_atomic
from recsys.errors import UserError
from recsys.promotion import calibration_problem

BUNDLE_KIND = "bundle"
BUNDLE_FORMAT = 1

BUNDLES = "bundles"
CURRENT = "current.json"
LOG = "log.jsonl"
PROMOTE = "promote"
ROLLBACK = "rollback"
PUBLISH = "publish"


@dataclass(frozen=True)
class Current:
    """What `current.json` says: the bundle in use and the one that a rollback returns to."""

    bundle: str
    previous: str | None


@dataclass(frozen=True)
class Published:
    """A bundle of the registry, as `recsys registry` lists it."""

    bundle: str
    published: str
    status: str
    dataset: str
    metrics: Mapping[str, float]


def is_registry(path: Path) -> bool:
    """Whether `path` is a registry folder."""
    return (Path(path) / BUNDLES).is_dir()


def publish(
    registry: Path,
    bundle: Path,
    *,
    metrics: Mapping[str, float] | None = None,
    calibration: Mapping[str, Any] | None = None,
    why: str = "",
) -> Artifact:
    """Copy a bundle into the registry under its id, whole or not at all, and return the copy.

    Every checksum is verified. A bundle that is already there is left alone, and logged again only with other `metrics`
    (the figures that `recsys registry` shows beside it) or another `calibration` (the evidence that `promote` asks
    for, `recsys.promotion`). Raises UserError for a folder that is not a whole bundle.
    """
    source = open_artifact(bundle, BUNDLE_KIND, BUNDLE_FORMAT, verify=True)
    name = source.artifact_id
    target = registry / BUNDLES / name
    with _locked(registry):
        if not target.exists():
            copy_artifact(source, target)
        told: dict[str, Any] = {"metrics": dict(metrics or {})}
        if calibration is not None:
            told["calibration"] = dict(calibration)
        known = _published(registry).get(name, {})
        if any(known.get(key) != told.get(key) for key in ("metrics", "calibration")):
            _append(registry, {"action": PUBLISH, "bundle": name, "why": why, **told})
    return Artifact(target, source.manifest)


def promote(registry: Path, bundle: str, *, action: str = PROMOTE, why: str = "", force: bool = False) -> Current:
    """Make a published bundle the current one; the one way in which that ever happens.

    Checks that the bundle is whole, and that its ranker is calibrated where it was trained beside another retrieval
    model (`recsys.promotion`): `force` overrides that, and the log keeps what was overridden and `why`. Promoting what
    is current already changes nothing. Raises UserError where it is not in the registry, is damaged or is refused.
    """
    if force and not why:
        raise UserError("--force: promoting without the check needs a reason, which the log keeps; add --why REASON.")
    with _locked(registry):
        return _promote(registry, bundle, action, why, force)


def rollback(registry: Path, *, why: str = "") -> Current:
    """Promote the bundle that was current before the present one, without asking it for proof again.

    Raises UserError where there is none.
    """
    with _locked(registry):
        now = current(registry)
        if now.previous is None:
            raise UserError(f"{registry / CURRENT}: bundle {now.bundle} has no predecessor to roll back to.")
        return _promote(registry, now.previous, ROLLBACK, why)


def current(registry: Path) -> Current:
    """The bundle in use; raises UserError where nothing was promoted yet."""
    path = registry / CURRENT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Current(found["bundle"], found["previous"])
    except FileNotFoundError:
        raise UserError(
            f"{registry}: no bundle is current here (no {CURRENT}); make and promote one with 'recsys run CONFIG'."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f'{path}: expected {{"bundle": id, "previous": id or null}} ({error}); promote a bundle again with '
            "'recsys promote'."
        ) from None


def bundle_path(registry: Path, bundle: str | None = None) -> Path:
    """Folder of a published bundle, by default of the current one; raises UserError where it is not there.

    An unambiguous beginning of the id will do.
    """
    return registry / BUNDLES / _full_id(registry, bundle or current(registry).bundle)


def listing(registry: Path) -> list[Published]:
    """All published bundles, oldest first; raises UserError where the folder is no registry."""
    if not is_registry(registry):
        raise UserError(f"{registry}: no registry here (no {BUNDLES}/); make one with 'recsys run CONFIG'.")
    now = current(registry) if (registry / CURRENT).exists() else None
    status = {} if now is None else {now.previous: "previous", now.bundle: "current"}
    rows = []
    for name, entry in _published(registry).items():
        manifest = open_artifact(registry / BUNDLES / name, BUNDLE_KIND, BUNDLE_FORMAT).manifest
        dataset = str(manifest.get("dataset", ""))
        rows.append(Published(name, entry["when"], status.get(name, ""), dataset, entry["metrics"]))
    return rows


def read_log(registry: Path) -> list[dict[str, Any]]:
    """Entries of log.jsonl, oldest first; a torn last line, left by a killed writer, does not count."""
    try:
        data = (registry / LOG).read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1]
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise UserError(f"{registry / LOG}: a line is not JSON ({error}); the log was altered by hand.") from None


def _published(registry: Path) -> dict[str, dict[str, Any]]:
    """The newest publication of each bundle, by id, in the order of the first."""
    return {entry["bundle"]: entry for entry in read_log(registry) if entry["action"] == PUBLISH}


def _full_id(registry: Path, beginning: str) -> str:
    folder = registry / BUNDLES
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
    found = [name for name in names if name.startswith(beginning)]
    if beginning in found:
        return beginning
    if len(found) != 1:
        what = "no published bundle" if not found else f"{len(found)} bundles"
        raise UserError(f"{folder}: {what} with id '{beginning}'; published are {names or 'none yet'}.")
    return found[0]


def _promote(registry: Path, bundle: str, action: str, why: str, force: bool = False) -> Current:
    name = _full_id(registry, bundle)
    opened = open_artifact(registry / BUNDLES / name, BUNDLE_KIND, BUNDLE_FORMAT, verify=True)
    history = _history(read_log(registry))
    if history and history[-1] == name:
        return current(registry)
    entry = {"action": action, "bundle": name, "replaces": history[-1] if history else None, "why": why}
    evidence = _published(registry).get(name, {}).get("calibration")
    problem = None if action == ROLLBACK else calibration_problem(opened.manifest, evidence)
    if problem is not None and not force:
        raise UserError(
            f"{registry / BUNDLES / name}: not promoted: {problem}. Train the ranker again beside this model (leave "
            "out ranking.reuse, or 'recsys train --force'), or promote it all the same with 'recsys promote "
            f"{registry} {name} --force --why REASON'."
        )
    if problem is not None:
        entry["overrides"] = problem
    _append(registry, entry)
    return _complete(registry)


def _history(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bundles in the order in which they became current, those rolled back taken out; the last one is current."""
    stack: list[str] = []
    for entry in log:
        if entry["action"] == PROMOTE:
            stack.append(entry["bundle"])
        elif entry["action"] == ROLLBACK:
            stack.pop()
    return stack


def _complete(registry: Path) -> Current:
    """Write `current.json` from the log."""
    history = _history(read_log(registry))
    now = Current(history[-1], history[-2] if len(history) > 1 else None)
    write_atomic(
        registry / CURRENT, (json.dumps({"bundle": now.bundle, "previous": now.previous}) + "\n").encode("utf-8")
    )
    return now


def _append(registry: Path, entry: Mapping[str, Any]) -> None:
    line = json.dumps({"when": datetime.now(UTC).isoformat(timespec="seconds"), **entry}, sort_keys=True)
    with open(registry / LOG, "ab") as file:
        file.write(line.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(registry)


@contextlib.contextmanager
def _locked(registry: Path) -> Iterator[None]:
    """Hold the registry alone, after completing what a killed process left half done."""
    (registry / BUNDLES).mkdir(parents=True, exist_ok=True)
    with open(registry / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = registry / LOG
        if log.exists():
            data = log.read_bytes()
            if not data.endswith(b"\n"):
                os.truncate(log, data.rfind(b"\n") + 1)
            history = _history(read_log(registry))
            if history and (not (registry / CURRENT).exists() or current(registry).bundle != history[-1]):
                _complete(registry)
        yield
