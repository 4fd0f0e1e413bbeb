"""What every folder under docs/evidence says of the run that it comes from."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recsys.artifacts import write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "apache-beam", "faiss-cpu", "numpy", "pyarrow")


def surroundings() -> dict[str, str | int]:
    """The commit (with `+` where the tree was altered), Python, the cores and the packages that figures depend on."""
    found: dict[str, str | int] = {
        "commit": commit(),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
    }
    return found | {name: version(name) for name in PACKAGES}


def surroundings_line() -> str:
    """The same as a sentence for a README."""
    found = surroundings()
    commit, cores = found.pop("commit"), found.pop("cores")
    return f"Run at commit {commit} on {cores} cores, with {', '.join(f'{name} {one}' for name, one in found.items())}."


def command() -> str:
    """What was typed, less where the figures were to go besides."""
    words = sys.argv[1:]
    if "--json" in words:
        place = words.index("--json")
        words = words[:place] + words[place + 2 :]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def write_speed_evidence(name: str, title: str, notes: str, printed: str, document: Mapping[str, Any]) -> Path:
    """docs/evidence/<name>/: README.md with the command, the machine and what was printed, and figures.json."""
    folder = ROOT / "docs" / "evidence" / name
    lines = [
        f"# {title}",
        "",
        f"    {command()}",
        "",
        surroundings_line(),
        notes,
        "",
        "```",
        printed.rstrip(),
        "```",
        "",
    ]
    write_atomic(folder / "README.md", "\n".join(lines).encode())
    write_atomic(folder / "figures.json", (json.dumps(document, indent=1) + "\n").encode())
    return folder


def commit() -> str:
    """The short commit of the tree, with `+` where it was altered; `unknown` outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"
