"""By which code the cells of an experiment were trained, so that no table mixes two states of it unsaid.

A cell is kept in a file named by its settings and is not trained again when the code has changed since: that would
throw away hours for a changed comment. Instead each says what it was trained by, and the evidence where they differ.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.parts.evidence import commit
from recsys.artifacts import write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = "code"
"""Where a cell says by which code it was trained."""
TOWERS = tuple(f"recsys/{room}" for room in ("config", "encoding", "evaluation", "features", "retrieval", "scoring"))
"""What recall of trained towers depends on; ingestion is told by the data set's id."""
RANKERS = (*TOWERS, "recsys/ranking")


@cache
def code_state(*places: str) -> dict[str, str]:
    """Commit and a digest of the Python sources at `places` (files and folders of the repository), as first asked for.

    Of one process all cells have one state: what was imported at its start stays while the tree is edited.
    """
    found = (ROOT / place for place in places)
    files = [file for one in found for file in (sorted(one.rglob("*.py")) if one.is_dir() else [one])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return {"commit": commit(), "digest": digest.hexdigest()[:12]}


def remember(file: Path, places: tuple[str, ...], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What `make` gives and by which code, from `file` where it was made before."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    state = code_state(*places)
    found = {**make(), CODE: state}
    write_atomic(file, json.dumps(found, indent=1).encode())
    return found


def trained_by(cells: Iterable[Mapping[str, Any]]) -> str:
    """A line for the evidence: the one state of the code behind all cells, or a warning with the number of each."""
    numbers: Counter[str] = Counter()
    commits: dict[str, str] = {}
    for cell in cells:
        state = cell.get(CODE, {"digest": "not recorded", "commit": "unknown"})
        numbers[state["digest"]] += 1
        commits.setdefault(state["digest"], state["commit"])
    named = {digest: f"{digest} (as at commit {commits[digest]})" for digest in numbers}
    if len(numbers) == 1:
        return f"Code that trained all cells: {next(iter(named.values()))}."
    listed = ", ".join(f"{number} by {named[digest]}" for digest, number in numbers.items())
    return f"**Cells were trained by different states of the code**: {listed}."
