"""`recsys registry`, `promote` and `rollback`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from recsys.commands.common import (
    AsJson,
    Overrides,
    Source,
    Why,
    command_line,
    console,
    find_registry,
    notes,
    print_json,
    tell_next,
)


def registry(source: Source, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the published bundles: which one is current, which one a rollback returns to, and their figures."""
    from recsys.registry import listing

    folder = find_registry(source, overrides)
    rows = listing(folder)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    table = Table(title=f"{len(rows)} bundle{'s' * (len(rows) != 1)} in {folder}", title_justify="left")
    for column in ("bundle", "published (UTC)", "status", "data set"):
        table.add_column(column)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        figures = [f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in names]
        style = "bold green" if row.status == "current" else None
        table.add_row(row.bundle, row.published.removesuffix("+00:00"), row.status, row.dataset, *figures, style=style)
    console.print(table)
    tell_next(command_line("promote", source, overrides, "BUNDLE"), command_line("rollback", source, overrides))


def promote(
    source: Source,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE_ID", help="Its id, or an unambiguous beginning.")],
    why: Why = "",
    force: Annotated[
        bool, typer.Option("--force", help="Although its ranker is not proved to be calibrated; needs --why.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a published bundle the current one."""
    from recsys import registry

    now = registry.promote(find_registry(source, overrides), bundle, why=why, force=force)
    _tell_current(now, source, overrides, as_json)


def rollback(source: Source, why: Why = "", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Return to the bundle that was current before the present one."""
    from recsys import registry

    now = registry.rollback(find_registry(source, overrides), why=why)
    _tell_current(now, source, overrides, as_json)


def _tell_current(now: object, source: Source, overrides: list[str] | None, as_json: bool) -> None:
    from recsys.registry import Current

    assert isinstance(now, Current)
    if as_json:
        print_json(asdict(now))
        return
    notes.print(f"[bold green]✓[/] current is bundle {now.bundle}; a rollback returns to {now.previous or 'nothing'}.")
    tell_next(command_line("registry", source, overrides), command_line("serve", source, overrides))
