"""Whether a data set that is to be extended is plainly another one than the input belongs to."""

from pathlib import Path

import pyarrow.compute as pc

from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ingestion.elements import unpack
from recsys.ingestion.validation import TITLE
from recsys.ingestion.vocabularies import entity_table
from recsys.schema import ITEM, USER

_TITLES = 20
"""So many items in common, and all under another title, are not of the same catalogue."""


def refuse_foreign(
    _: None, values: list[tuple[str, bytes]], items: list[bytes], users: list[bytes], path: Path
) -> None:
    """Raise UserError where the input plainly belongs to another data set than the one that is extended.

    That is: it has not one user and not one item in common with it, or all the items in common have other titles.
    """
    earlier = DatasetFolder.open(path)
    tables = {ITEM: entity_table(items, ITEM)[0], USER: entity_table(users, USER)[0]}
    found = shared = 0
    for key, table in tables.items():
        parts = [unpack(message)["value"] for name, message in values if name == key]
        parts += [] if table is None else [table[key]]
        for part in parts:
            found += len(part)
            shared += int(pc.sum(pc.is_in(part, value_set=earlier.vocabulary(key).table["value"])).as_py() or 0)
    if found and not shared:
        raise UserError(
            f"ingest.extend: {path} has not one user and not one item in common with this input; expected an earlier "
            "data set of the same users or items. Without extend the input gets ids of its own."
        )
    table = tables[ITEM]
    if table is None or TITLE not in table.column_names:
        return
    before = earlier.items.select(["raw", "title"]).rename_columns([ITEM, "before"])
    both = table.select([ITEM, TITLE]).join(before, ITEM, join_type="inner")
    both = both.filter(pc.and_(both[TITLE].is_valid(), both["before"].is_valid()))
    if both.num_rows >= _TITLES and not pc.any(pc.equal(both[TITLE], both["before"])).as_py():
        row = both.sort_by(ITEM).slice(0, 1).to_pylist()[0]
        raise UserError(
            f"ingest.extend: {path} and this input have {both.num_rows} items in common, all under another title "
            f"('{row[ITEM]}' is '{row['before']}' there and '{row[TITLE]}' here); expected an earlier data set of the "
            "same catalogue. Without data.items.columns.title no titles are compared."
        )
