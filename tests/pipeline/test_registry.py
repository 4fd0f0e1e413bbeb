"""The registry: one path to become current, rollback as its inverse, and crash safety at every step."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import registry
from recsys.artifacts import Artifact, open_artifact, write_artifact
from recsys.errors import UserError


def make_bundle(path: Path, number: int, files: int = 2) -> Artifact:
    payload = {"dataset": f"dataset{number}"}
    with write_artifact(path, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT, payload) as folder:
        (folder / "model").mkdir()
        for index in range(files):
            (folder / "model" / f"{index}.txt").write_text(f"{number}:{index}" * 100)
    return open_artifact(path, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT)


def publish(root: Path, tmp_path: Path, number: int) -> str:
    bundle = make_bundle(tmp_path / f"bundle{number}", number)
    return registry.publish(root, bundle.path, metrics={"recall@10": number / 10}).artifact_id


def test_published_copy_has_the_same_id_and_outlives_its_source(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", 1)
    copy = registry.publish(tmp_path / "registry", bundle.path)
    (bundle.path / "model" / "0.txt").write_text("altered")
    assert copy.artifact_id == bundle.artifact_id == copy.path.name
    assert open_artifact(copy.path, "bundle", 1, verify=True).artifact_id == bundle.artifact_id
    assert not os.stat(copy.path / "model" / "0.txt").st_mode & 0o222


def test_publishing_again_changes_nothing_and_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    first = publish(root, tmp_path, 1)
    log = (root / registry.LOG).read_bytes()
    assert publish(root, tmp_path, 1) == first
    assert (root / registry.LOG).read_bytes() == log
    bundle = make_bundle(tmp_path / "bundle2", 2)
    text = (bundle.path / "model" / "0.txt").read_text()
    (bundle.path / "model" / "0.txt").write_text(text.replace("2", "3"))  # same size, other bytes
    with pytest.raises(UserError, match="SHA-256 differs"):
        registry.publish(root, bundle.path)
    assert [row.bundle for row in registry.listing(root)] == [first]


def test_promote_and_rollback(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    a, b, c = (publish(root, tmp_path, number) for number in (1, 2, 3))
    with pytest.raises(UserError, match="no bundle is current"):
        registry.current(root)
    assert registry.promote(root, a) == registry.Current(a, None)
    assert registry.promote(root, b, why="better") == registry.Current(b, a)
    assert registry.promote(root, b) == registry.Current(b, a)  # already current: nothing happens
    assert registry.promote(root, c[:9]) == registry.Current(c, b)
    assert registry.rollback(root, why="worse") == registry.Current(b, a)
    assert registry.rollback(root) == registry.Current(a, None)
    with pytest.raises(UserError, match="no predecessor"):
        registry.rollback(root)
    changes = [entry for entry in registry.read_log(root) if entry["action"] != registry.PUBLISH]
    assert [(e["action"], e["bundle"], e["replaces"], e["why"]) for e in changes] == [
        ("promote", a, None, ""),
        ("promote", b, a, "better"),
        ("promote", c, b, ""),
        ("rollback", b, c, "worse"),
        ("rollback", a, b, ""),
    ]
    assert {row.bundle: row.status for row in registry.listing(root)} == {a: "current", b: "", c: ""}
    assert registry.bundle_path(root).name == a


def test_errors_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no registry here"):
        registry.listing(tmp_path)
    root = tmp_path / "registry"
    publish(root, tmp_path, 1)
    with pytest.raises(UserError, match="no published bundle with id 'zzz'"):
        registry.promote(root, "zzz")
    publish(root, tmp_path, 2)
    with pytest.raises(UserError, match="2 bundles with id ''"):
        registry.promote(root, "")
    (root / registry.CURRENT).write_text("[]")
    with pytest.raises(UserError, match=r"current\.json: expected"):
        registry.current(root)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.sampled_from(["promote 0", "promote 1", "promote 2", "rollback"]), max_size=12))
def test_any_sequence_equals_a_plain_stack(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    tmp_path = tmp_path_factory.mktemp("steps")
    root = tmp_path / "registry"
    ids = [publish(root, tmp_path, number) for number in range(3)]
    stack: list[str] = []
    for step in steps:
        if step == "rollback":
            if len(stack) < 2:
                with pytest.raises(UserError):
                    registry.rollback(root)
                continue
            stack.pop()
            registry.rollback(root)
        else:
            name = ids[int(step[-1])]
            if not stack or stack[-1] != name:
                stack.append(name)
            registry.promote(root, name)
        assert registry.current(root) == registry.Current(stack[-1], stack[-2] if len(stack) > 1 else None)


@pytest.mark.parametrize("torn", [b"", b'{"action": "promote", "bund'])
def test_a_change_cut_off_after_its_log_line_is_completed(tmp_path: Path, torn: bytes) -> None:
    root = tmp_path / "registry"
    a, b = publish(root, tmp_path, 1), publish(root, tmp_path, 2)
    registry.promote(root, a)
    before = (root / registry.CURRENT).read_bytes()
    registry.promote(root, b)
    (root / registry.CURRENT).write_bytes(before)  # as if killed before current.json was renamed into place
    with open(root / registry.LOG, "ab") as file:
        file.write(torn)
    assert registry.promote(root, b) == registry.Current(b, a)
    assert [entry["bundle"] for entry in registry.read_log(root) if entry["action"] == "promote"] == [a, b]
    assert (root / registry.LOG).read_bytes().endswith(b"\n")


WRITER = """
import sys, itertools
from pathlib import Path
from recsys import registry
root, bundles = Path(sys.argv[1]), sys.argv[2:]
print("ready", flush=True)
for bundle in itertools.cycle(bundles):
    registry.promote(root, registry.publish(root, Path(bundle), metrics={"m": 1.0}).artifact_id)
"""


def test_sigkill_leaves_a_whole_registry(tmp_path: Path) -> None:
    """Kill a process that publishes and promotes without end; every time the registry is whole and goes on."""
    root = tmp_path / "registry"
    bundles = [str(make_bundle(tmp_path / f"bundle{n}", n, files=20).path) for n in range(2)]
    moments = random.Random(5)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(root), *bundles], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for folder in (root / registry.BUNDLES).iterdir():
            if not folder.name.startswith("."):
                assert open_artifact(folder, "bundle", 1, verify=True).artifact_id == folder.name
        if (root / registry.CURRENT).exists():
            json.loads((root / registry.CURRENT).read_text())
            assert registry.bundle_path(root).is_dir()
    last = registry.publish(root, Path(bundles[0]), metrics={"m": 1.0}).artifact_id
    assert registry.promote(root, last).bundle == last
    promoted = [e["bundle"] for e in registry.read_log(root) if e["action"] == "promote"]
    assert all(one != two for one, two in itertools.pairwise(promoted))
