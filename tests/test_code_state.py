"""Cells of the benchmarks say by which code they were trained, and the evidence says where they differ."""

import json
from pathlib import Path

import pytest

from benchmarks.parts import code_state
from benchmarks.parts.code_state import code_state as state_of
from benchmarks.parts.code_state import remember, trained_by


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of a package with one module and a file beside it."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "one.py").write_text("a = 1\n")
    (tmp_path / "beside.py").write_text("b = 1\n")
    monkeypatch.setattr(code_state, "ROOT", tmp_path)
    state_of.cache_clear()
    yield tmp_path
    state_of.cache_clear()


def digest_of(*places: str) -> str:
    state_of.cache_clear()
    return state_of(*places)["digest"]


def test_a_digest_follows_the_sources_that_it_is_of(tree: Path) -> None:
    """Their text and their names; nothing else in the tree."""
    before = digest_of("room")
    (tree / "beside.py").write_text("b = 2\n")
    assert digest_of("room") == before != digest_of("room", "beside.py")
    (tree / "room" / "one.py").write_text("a = 2\n")
    changed = digest_of("room")
    (tree / "room" / "one.py").rename(tree / "room" / "two.py")
    assert len({before, changed, digest_of("room")}) == 3


def test_a_cell_keeps_the_code_that_trained_it(tree: Path) -> None:
    """Read back, it is not trained again, and the evidence warns when other cells have other code."""
    file = tree / "cells" / "one.json"
    first = remember(file, ("room",), lambda: {"recall": 0.5})
    (tree / "room" / "one.py").write_text("a = 2\n")
    state_of.cache_clear()
    assert remember(file, ("room",), lambda: pytest.fail("trained twice")) == first == json.loads(file.read_text())
    second = remember(tree / "cells" / "two.json", ("room",), lambda: {"recall": 0.6})
    assert "different" not in trained_by([first, first])
    told = trained_by([first, second, first, {"recall": 0.4}])
    assert "different states" in told
    for number, digest in ((2, first["code"]["digest"]), (1, second["code"]["digest"]), (1, "not recorded")):
        assert f"{number} by {digest}" in told
