"""Parts of the queries and of the targets that are looked at on their own."""

import numpy as np

from recsys.evaluation.queries import Queries

OVERALL = "overall"
USER_SLICES = ("known_users", "new_users")
ITEM_SLICES = ("head", "torso", "tail", "new_items")


def popularity_classes(counts: np.ndarray, head_share: float, tail_share: float) -> np.ndarray:
    """Index into ITEM_SLICES of every item, `[catalogue] int8`, by its training positives `counts`.

    Items are taken from the most popular on: head until they hold `head_share` of all positives, then torso, and tail
    for those that start beyond 1 - `tail_share`. An item without any is new. Equal counts are in one class.
    """
    order = np.argsort(-counts, kind="stable")
    ranked = counts[order]
    before = (np.cumsum(ranked) - ranked) / max(int(counts.sum()), 1)
    # Items of one count share the place of the first of them.
    first = np.searchsorted(-ranked, -ranked, side="left")
    before = before[first]
    classes = np.empty(len(counts), np.int8)
    classes[order] = np.where(before < head_share, 0, np.where(before < 1 - tail_share, 1, 2))
    classes[counts == 0] = 3
    return classes


def slice_targets(
    queries: Queries, user_counts: np.ndarray, classes: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Targets of each slice, ragged over all queries: offsets `[n + 1]` and columns; a query outside has none.

    A slice of users keeps all targets of its users; a slice of items keeps the targets in its class.
    """
    offsets, columns = queries.targets.block(0, len(queries))
    owners = np.repeat(np.arange(len(queries)), np.diff(offsets))
    new = (user_counts[queries.users] == 0)[owners]
    masks = {"known_users": ~new, "new_users": new}
    for number, name in enumerate(ITEM_SLICES):
        masks[name] = classes[columns] == number
    slices = {OVERALL: (offsets, columns)}
    for name, mask in masks.items():
        sizes = np.bincount(owners[mask], minlength=len(queries))
        slices[name] = (np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), columns[mask])
    return slices
