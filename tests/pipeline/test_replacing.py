"""Replacing an artefact: a writer killed at any of its steps leaves the old one or the new one, never nothing."""

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import artifacts
from recsys.artifacts import Artifact, open_artifact, write_artifact
from recsys.exchange import exchange

# Writes text `new` into the artefact argv[1]; kills itself before or after the n-th change of names or removal.
WRITER = """
import os, signal, sys
from recsys import artifacts
path, deadly, moment, swap = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "swap"
calls = 0
def counted(change):
    def call(*given, **named):
        global calls
        calls += 1
        if calls == deadly and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = change(*given, **named)
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
artifacts.exchange = counted(artifacts.exchange) if swap else lambda one, other: False
artifacts.os.replace = counted(os.replace)
artifacts.shutil.rmtree = counted(artifacts.shutil.rmtree)
with artifacts.write_artifact(path, "thing", 1, {}) as folder:
    (folder / "text").write_text("new")
"""


def write(path: Path, text: str) -> str:
    with write_artifact(path, "thing", 1, {}) as folder:
        (folder / "text").write_text(text)
    return text_of(path)


def text_of(path: Path) -> str:
    found: Artifact = open_artifact(path, "thing", 1, verify=True)
    return (found.path / "text").read_text()


@pytest.mark.parametrize("way", ["swap", "two renames"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, way: str, moment: str) -> None:
    path = tmp_path / "thing"
    left = []
    for step in itertools.count(1):
        write(path, "old")
        done = subprocess.run([sys.executable, "-c", WRITER, str(path), str(step), moment, way], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert way == "two renames" or path.is_dir()  # a swap needs no recovery, even for those who only look
        left.append(text_of(path))
    assert left[-1] == "new" and left == sorted(left, reverse=True)
    assert write(path, "again") == "again"
    assert [one.name for one in tmp_path.iterdir()] == ["thing"]


def test_the_next_writer_does_not_delete_what_it_finds_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path, "old")
    path.rename(tmp_path / ".thing.old")  # as a writer leaves it that is killed between two renames
    with pytest.raises(KeyboardInterrupt), write_artifact(path, "thing", 1, {}):
        raise KeyboardInterrupt
    assert text_of(path) == "old"


def test_swapped_where_the_system_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write(one, "1")
    write(other, "2")
    swapped = exchange(one, other)
    assert (text_of(one), text_of(other)) == (("2", "1") if swapped else ("1", "2"))
    if swapped:
        with pytest.raises(FileNotFoundError):
            exchange(one, tmp_path / "none")
    monkeypatch.setattr(artifacts, "exchange", lambda one, other: False)
    assert write(one, "3") == "3"
