"""A table without its closed rows: what OptFS exports (specification, section 8)."""

from dataclasses import replace

import numpy as np

from recsys.features.spec import TableSpec
from recsys.schema import FIRST_VALUE_ID, PADDING_ID

CLOSED_ROW = FIRST_VALUE_ID
"""The row of zeros in a pruned table. Padding, missing and unseen keep theirs, and kept values follow."""


def prune_table(spec: TableSpec, kept: np.ndarray) -> tuple[TableSpec, np.ndarray]:
    """The table of the kept rows alone, and for each of its rows the old one, `[rows] int64`, -1 for zeros.

    `kept` `[old rows] bool`. Ids of closed rows lead to the closed row, be they values, missing or unseen; ids beyond
    the map go the way of the unseen. Padding is no value and stays as it is.
    """
    special, values = np.arange(FIRST_VALUE_ID), np.flatnonzero(kept)
    stays = np.asarray(kept, bool).copy()
    stays[PADDING_ID] = True
    values = values[values >= FIRST_VALUE_ID]
    old_rows = np.concatenate([np.where(stays[special], special, -1), [-1], values])
    new_row = np.full(spec.rows, CLOSED_ROW, np.int64)
    new_row[old_rows[old_rows >= 0]] = np.flatnonzero(old_rows >= 0)
    return replace(spec, row_of=new_row[spec.row_of], closed_row=CLOSED_ROW), old_rows.astype(np.int64)


def pruned_rows(table: np.ndarray, old_rows: np.ndarray, scale: float) -> np.ndarray:
    """The weights of a pruned table: `scale` (the open gate's c) x the kept rows of `table`, zeros elsewhere."""
    found = np.zeros((len(old_rows), *table.shape[1:]), table.dtype)
    there = old_rows >= 0
    found[there] = table[old_rows[there]] * np.asarray(scale, table.dtype)
    return found
