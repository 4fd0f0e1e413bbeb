"""`recsys recommend`."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from recsys.commands.common import (
    AsJson,
    Overrides,
    Source,
    command_line,
    console,
    find_bundle,
    notes,
    print_json,
    tell_next,
)
from recsys.errors import UserError

if TYPE_CHECKING:
    from recsys.scoring.bundle import Recommended


def recommend(
    source: Source,
    user: Annotated[str | None, typer.Option(help="Raw id of a user.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many items.")] = 10,
    history: Annotated[
        str | None,
        typer.Option(metavar="ITEM,ITEM,…", help="Raw item ids, oldest first, instead of the stored history."),
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A raw user feature; may be repeated.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A raw context field; may be repeated.")
    ] = None,
    seen: Annotated[bool, typer.Option("--seen", help="Let items appear that the user already chose.")] = False,
    bundle: Annotated[str | None, typer.Option(help="Ask this published bundle and not the current one.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Recommend items to one user, beside what the user chose before."""
    from recsys.scoring.bundle import LoadedBundle
    from recsys.scoring.query import Query

    if user is None and history is None and not feature and not context:
        raise UserError("recsys recommend: expected --user USER, or --history ITEM,ITEM,… for someone unknown.")
    loaded = LoadedBundle.open(find_bundle(source, overrides, bundle))
    given = None if history is None else [item for item in history.split(",") if item]
    known_user = user is not None and loaded.knows(user)
    past = loaded.history(user) if given is None and user is not None and known_user else loaded.named_raw(given or [])
    query = Query(user, _pairs(feature, "--feature"), _pairs(context, "--context"), given)
    found = loaded.recommend([query], k, exclude_seen=not seen)[0]
    unknown = loaded.unknown_items(given or [])
    if as_json:
        past_json = [{"item": one.item, "title": one.title} for one in past]
        print_json(
            {
                "bundle": loaded.bundle_id,
                "user": user,
                "known_user": known_user,
                "history": past_json,
                "known_history": None if given is None else len(given) - len(unknown),
                "items": [asdict(one) for one in found],
            }
        )
        return
    print_recommended(loaded.bundle_id, user, found, past, k)
    if user is not None and not known_user:
        notes.print(
            f"User '{user}' is none of the {len(loaded.encoder.users)} that the bundle knows: this is what a newcomer "
            "gets; --history and --feature say more of one.",
            soft_wrap=True,
        )
    if unknown and given is not None:
        some = ", ".join(f"'{item}'" for item in unknown[:3]) + (", …" if len(unknown) > 3 else "")
        known = len(given) - len(unknown)
        notes.print(
            f"The catalogue holds {known} of the {len(given)} items of the history, not {some}.", soft_wrap=True
        )
    tell_next(command_line("serve", source, overrides))


def print_recommended(
    bundle: str, user: str | None, found: "Sequence[Recommended]", past: "Sequence[Recommended]", k: int
) -> None:
    """A table of recommended items and scores beside the newest of the history `past` (oldest first)."""
    table = Table(title=f"User {user or '(unknown)'}, bundle {bundle}", title_justify="left")
    for column, justify in (
        ("", "right"),
        ("recommended", "left"),
        ("score", "right"),
        ("history, newest first", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    recent = [one.title or one.item for one in past[::-1][: max(k, len(found))]]
    for row, (item, before) in enumerate(itertools.zip_longest(found, recent), 1):
        cells = (str(row), item.title or item.item, f"{item.score:.3f}") if item else ("", "", "")
        table.add_row(*cells, before or "")
    console.print(table)
    if len(past) > len(recent):
        console.print(f"… and {len(past) - len(recent)} older ones in the history.")


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {pair}: expected NAME=VALUE.")
        pairs[name] = value
    return pairs
