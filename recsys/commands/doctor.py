"""`recsys doctor`."""

import importlib
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from types import ModuleType

import typer
from rich.table import Table

from recsys.commands.common import AsJson, console, notes, print_json, tell_next

MAKE_VENV = "run 'make venv'"
BEAM = "apache_beam"


@dataclass(frozen=True)
class Check:
    """One thing looked for: what was found (None: nothing), whether the main road needs it, and the fix."""

    name: str
    found: str | None
    needed: bool
    fix: str


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed here and how to mend what is missing; exit code 1 where something needed is missing."""
    checks = [
        Check("Python 3.11", _python(), True, "install Python 3.11, then " + MAKE_VENV),
        *(
            Check(name, _version(module), True, MAKE_VENV)
            for name, module in (
                ("TensorFlow", "recsys._tensorflow"),
                ("TensorFlow Recommenders", "tensorflow_recommenders"),
                ("FAISS", "faiss"),
                ("Apache Beam", BEAM),
                ("implicit (baselines)", "implicit"),
                ("FastAPI", "fastapi"),
            )
        ),
        Check("GPU", _gpu(), False, "on a machine with an NVIDIA GPU: 'make venv EXTRA=gpu'; training runs without"),
        Check("Java (Flink runner)", _tool("java", "-version"), False, "install OpenJDK 17; only Flink needs it"),
        Check("Maven (Flink runner)", _tool("mvn", "--version"), False, "install Maven 3.8; only Flink needs it"),
    ]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = Table("", "looked for", "found", "fix")
        for check in checks:
            mark = "[green]✓[/]" if check.found else "[bold red]✗[/]" if check.needed else "[yellow]–[/]"
            table.add_row(mark, check.name, check.found or "nothing", "" if check.found else check.fix)
        console.print(table)
    missing = [check.name for check in checks if check.needed and not check.found]
    if missing:
        notes.print(f"Missing: {', '.join(missing)}.")
        raise typer.Exit(1)
    if not as_json:
        tell_next("recsys demo")


def _python() -> str | None:
    return platform.python_version() if sys.version_info[:2] == (3, 11) else None


def _version(module: str) -> str | None:
    try:
        loaded = _beam() if module == BEAM else importlib.import_module(module)
    except Exception:  # a broken installation raises anything, and counts as not found
        return None
    return getattr(getattr(loaded, "tf", loaded), "__version__", "there")


def _beam() -> ModuleType:
    from recsys.ingestion.runner import import_beam

    return import_beam()


def _gpu() -> str | None:
    try:
        from recsys._tensorflow import tf
    except Exception:
        return None
    devices = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(one).get("device_name", one.name) for one in devices]
    return ", ".join(names) or None


def _tool(name: str, option: str) -> str | None:
    """First line of a tool's version, None where it is not installed."""
    if shutil.which(name) is None:
        return None
    done = subprocess.run([name, option], capture_output=True, text=True, timeout=60, check=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).splitlines()
    return next(iter(lines), name)
