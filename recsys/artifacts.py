"""Versioned folders with a manifest and checksums, written aside and renamed into place.

An artefact is a folder whose `manifest.json` names its kind, format, parents and the size and SHA-256 of every file. It
appears whole or not at all: files are written into a hidden sibling, fsynced, and the sibling is renamed. A manifest
holds no clock time and no absolute path, so equal content has equal bytes, and `artifact_id` identifies content.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from recsys.errors import UserError
from recsys.exchange import exchange

MANIFEST = "manifest.json"


def latency_file(artifact: Path) -> Path:
    """Where a measured latency is published: beside the artefact, as a clock has no place in it."""
    return artifact.with_name(f"{artifact.name}.latency.json")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order: equal settings have equal fingerprints."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fsync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file aside, fsync it and rename it into place: readers see the old bytes or the new, never a part."""
    with atomic_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """The same for who writes piece by piece; nothing is renamed where writing raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(aside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    fsync_folder(path.parent)


@dataclass(frozen=True)
class Artifact:
    """An artefact on disk: its folder and its parsed manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def artifact_id(self) -> str:
        """16 hex digits that identify the content (the manifest lists a checksum of every file)."""
        return fingerprint(self.manifest)[:16]


def _fsync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(root))


@contextlib.contextmanager
def write_artifact(path: Path, kind: str, format_version: int, payload: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill; on a clean exit add the manifest and rename it to `path`, replacing what was there.

    `payload` may be filled until the block ends; its entries become top-level keys of the manifest. On an exception the
    folder is removed and `path` stays as it was. Leftovers of a killed writer are removed by the next one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    aside = path.parent / f".{path.name}.writing"
    _remove(aside)
    aside.mkdir()
    try:
        yield aside
        files = {
            file.relative_to(aside).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in sorted(aside.rglob("*"))
            if file.is_file()
        }
        manifest = {"kind": kind, "format": format_version, **payload, "files": files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _fsync_tree(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _replace(aside, path)


def copy_artifact(source: Artifact, target: Path) -> None:
    """Copy an artefact whole or not at all; the copy has the same manifest, so the same id, and is read-only."""
    payload = {key: value for key, value in source.manifest.items() if key not in ("kind", "format", "files")}
    with write_artifact(target, source.manifest["kind"], source.manifest["format"], payload) as folder:
        for name in source.manifest["files"]:
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, copy)
            copy.chmod(0o444)


def _replace(aside: Path, path: Path) -> None:
    """Put `aside` in the place of `path` and remove what was there."""
    if not path.exists():
        os.replace(aside, path)
        fsync_folder(path.parent)
    elif exchange(aside, path):
        fsync_folder(path.parent)
        _remove(aside)
    else:
        old = _old(path)
        _remove(old)
        os.replace(path, old)
        # A kill here leaves nothing at `path`: whoever comes next finds the old one again by `recover`.
        os.replace(aside, path)
        fsync_folder(path.parent)
        _remove(old)


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def recover(path: Path) -> None:
    """Bring back the artefact that a writer killed between two renames moved away, if one did."""
    if not path.exists() and _old(path).exists():
        os.replace(_old(path), path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_artifact(path: Path, kind: str, format_version: int, *, verify: bool = False) -> Artifact:
    """Open a folder written by `write_artifact`.

    Always checks that every listed file is there with its size; with `verify`, that its SHA-256 holds too. Raises
    UserError naming the folder or file for a missing, foreign, newer, truncated or altered artefact.
    """
    path = Path(path)
    with contextlib.suppress(OSError):  # a reader may lack the right to rename; then it finds nothing
        recover(path)
    manifest_path = path / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no {kind} here (no {MANIFEST}); make one first, or check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{manifest_path}: not a readable manifest ({error}); make the {kind} again.") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise UserError(f"{manifest_path}: expected an artefact of kind '{kind}', found '{found}'.")
    if manifest.get("format") != format_version:
        raise UserError(
            f"{manifest_path}: {kind} format {manifest.get('format')} is not format {format_version}, which this "
            "version of recsys reads; make it again with this version."
        )
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file}: listed in {MANIFEST} but missing; make the {kind} again.")
        if file.stat().st_size != entry["bytes"]:
            raise UserError(
                f"{file}: {file.stat().st_size} bytes, but {MANIFEST} says {entry['bytes']}; it was truncated or "
                f"altered. Make the {kind} again."
            )
        if verify and sha256_file(file) != entry["sha256"]:
            raise UserError(f"{file}: its SHA-256 differs from {MANIFEST}; it was altered. Make the {kind} again.")
    return Artifact(path, manifest)
