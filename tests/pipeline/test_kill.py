"""`recsys run` killed by SIGKILL in every stage and started again ends with what an undisturbed run makes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys import registry
from recsys.artifacts import open_artifact
from tests.cli.command import Outcome, recsys, refused
from tests.tiny_files import write_shop

SECONDS = 200
"""How long a run may take to reach a stage on a busy machine."""

KILLS = (
    ("dataset", ".dataset.writing", 1.0),
    ("model", "checkpoints/*/checkpoint-*.npz", 0.2),
    ("model", "checkpoints/*/checkpoint-*.npz", 0.2),
    ("bundle", ".bundle.writing", 0.1),
    ("report", "✓ index", 1.0),
)
"""What is made; what tells that work on it goes on (in the workdir, or said); until how many seconds later to kill."""

KINDS = {"dataset": "dataset", "model": "model", "bundle": "bundle", "report": "report"}


def start(shop: Path) -> subprocess.Popen:
    """A run in a process group of its own, so that its children die with it."""
    words = [sys.executable, "-m", "recsys.cli", "run", str(shop), "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill(run: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def wait_for(work: Path, pattern: str, run: subprocess.Popen, since: float) -> None:
    """Until a file or folder that matches is there and is no leftover of an earlier run, or until it was said."""
    assert run.stderr is not None
    if pattern.startswith("✓"):
        assert any(pattern in line.decode() for line in run.stderr), f"{pattern} was not said"
        return
    deadline = time.monotonic() + SECONDS
    while not any(path.stat().st_mtime >= since for path in _there(work, pattern)):
        if run.poll() is not None:
            pytest.fail(f"the run ended before {pattern} was there: {run.communicate()[1].decode()[-2000:]}")
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.002)


def _there(work: Path, pattern: str) -> list[Path]:
    return [path for path in work.glob(pattern) if path.exists()]


def identity(work: Path, name: str) -> str:
    return open_artifact(work / name, KINDS[name], 1, verify=True).artifact_id


def truncated_checkpoints_are_named(shop: Path, work: Path) -> None:
    """Where no checkpoint of a killed training can be read, going on is an error that names the file."""
    found = sorted(work.glob("checkpoints/*/checkpoint-*.npz"))
    for path in found:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(recsys("train", shop, "--set", f"workdir={work}", "--quiet"), str(found[-1]), "truncated or altered")
    assert not (work / "model").exists()


def test_killed_runs_end_like_an_undisturbed_one(shop_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Kill at random moments of all stages, twice in training; between the kills nothing half-written is visible."""
    undisturbed = shop_run[0].parent / "work"
    shop = write_shop(tmp_path / "shop")
    work = tmp_path / "shop" / "work"
    moments = random.Random(11)
    cut_short = 0
    for result, sign, seconds in KILLS:
        since = time.time()
        run = start(shop)
        wait_for(work, sign, run, since)
        time.sleep(moments.uniform(0, seconds))
        kill(run)
        cut_short += not (work / "registry" / registry.CURRENT).exists() and run.returncode == -signal.SIGKILL
        for name in KINDS:
            if (work / name).exists():
                assert identity(work, name) == identity(undisturbed, name)
        if result == "model" and not (tmp_path / "broken").exists():
            shutil.copytree(work, tmp_path / "broken")
            truncated_checkpoints_are_named(shop, tmp_path / "broken")
    assert cut_short == len(KILLS)

    last = start(shop)
    _, said = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, said.decode()
    for name in KINDS:
        assert identity(work, name) == identity(undisturbed, name)
    assert registry.current(work / "registry") == registry.current(undisturbed / "registry")
    log = [(entry["action"], entry["bundle"]) for entry in registry.read_log(work / "registry")]
    assert log == [(entry["action"], entry["bundle"]) for entry in registry.read_log(undisturbed / "registry")]
    assert json.loads((work / "report" / "metrics.json").read_text()) == json.loads(
        (undisturbed / "report" / "metrics.json").read_text()
    )
    left = [path.name for path in work.iterdir() if path.name.endswith((".writing", ".old"))]
    assert not left and not (work / "checkpoints").exists()
