"""What the commands share: their options, where they print, and how they say what was made."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from recsys.config import Config
    from recsys.workdir import Made

# Tables that go to a file or a pipe are not squeezed to the 80 columns that Rich takes there.
console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
notes = Console(stderr=True, highlight=False)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML configuration, for example configs/demo.yaml.")
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG|REGISTRY|BUNDLE", help="A YAML configuration (its workdir's registry), or a folder."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key of the configuration; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again though it is there.")]
Why = Annotated[str, typer.Option("--why", help="Reason, kept in the registry's log.")]


def read_config(path: Path, overrides: list[str] | None) -> "Config":
    """Load the configuration with its `--set` overrides."""
    from recsys.config import load_config

    return load_config(path, tuple(overrides or ()))


def find_registry(source: Path, overrides: list[str] | None) -> Path:
    """The registry that a command's argument means: the folder itself, or that of a configuration's workdir."""
    return source if source.is_dir() else read_config(source, overrides).workdir / "registry"


def find_bundle(source: Path, overrides: list[str] | None, bundle: str | None) -> Path:
    """The bundle that a command means: a bundle folder, or one of a registry (by id; default: the current one)."""
    from recsys import registry

    if source.is_dir() and not registry.is_registry(source) and bundle is None:
        return source
    return registry.bundle_path(find_registry(source, overrides), bundle)


def print_json(value: Any) -> None:
    """Print a JSON-able value on standard output, and nothing else."""
    typer.echo(json.dumps(value, indent=1, sort_keys=True, default=str))


def made_as_json(made: "Made") -> dict[str, Any]:
    """A stage's result for `--json`."""
    return {
        "stage": made.stage,
        "path": str(made.path),
        "id": made.identity,
        "seconds": made.seconds,
        "note": made.note,
    }


def tell_made(made: "Made") -> None:
    """One line: what a stage made and where, or that it was there already."""
    if made.seconds is None:
        how = "[dim]already there, made from the same inputs and settings[/]"
    else:
        how = f"in {made.seconds:.1f} s"
    notes.print(f"[bold green]✓[/] {made.stage:<9}{made.path} [dim]{made.identity}[/] {how}", soft_wrap=True)
    if made.note:
        notes.print(made.note, soft_wrap=True, markup=False)


def tell_next(*lines: str) -> None:
    """What to run next."""
    notes.print("Next: " + "\n      ".join(lines), soft_wrap=True, markup=False)


def command_line(command: str, source: Path, overrides: list[str] | None = None, rest: str = "") -> str:
    """A command as the user can paste it, with the same configuration and overrides."""
    words = ["recsys", command, str(source), *(word for item in overrides or () for word in ("--set", item))]
    return " ".join([shlex.join(words), rest]).strip()
