"""Append-only vocabularies: raw values to stable int32 ids and back."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, MISSING_ID, UNSEEN_ID

COLUMNS = pa.schema(
    [("value", pa.string()), ("count", pa.int64()), ("id", pa.int32()), ("generation", pa.int32())],
)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The values of one field in id order: row r holds the value with id r + 3.

    `table` has the columns value (string), count (int64, in the training part), id (int32), generation (int32).
    """

    name: str
    table: pa.Table

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read `vocabulary/<name>.parquet`; raises UserError where it is not one."""
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a readable vocabulary ({error}); make the data set again.") from None
        if not table.schema.equals(COLUMNS):
            raise UserError(f"{path}: expected columns {COLUMNS.names}, found {table.schema.names}.")
        return cls(Path(path).stem, table.combine_chunks())

    @classmethod
    def build(
        cls,
        name: str,
        values: pa.Array,
        counts: np.ndarray,
        *,
        min_count: int = 0,
        max_size: int | None = None,
        earlier: "Vocabulary | None" = None,
    ) -> "Vocabulary":
        """A vocabulary of distinct `[n]` string values with training `counts` `[n] int64`, most frequent first.

        Values below `min_count` are left out, and the rarest ones beyond `max_size`. Every value of `earlier` stays,
        under its id and generation; values that it lacks follow under a new generation.
        """
        counts = np.asarray(counts, np.int64)
        known = earlier.table if earlier is not None else COLUMNS.empty_table()
        rows = pc.index_in(known["value"], value_set=values)
        kept_counts = pc.fill_null(pa.array(counts).take(rows), 0) if len(values) else pa.nulls(len(known), pa.int64())
        fresh = counts >= min_count
        if len(known):
            fresh &= ~pc.is_in(values, value_set=known["value"].combine_chunks()).to_numpy(zero_copy_only=False)
        table = pa.table({"value": values.filter(pa.array(fresh)), "count": counts[fresh]})
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        if max_size is not None:
            table = table.slice(0, max(max_size - len(known), 0))
        generation = (earlier.generation if earlier is not None else 0) + 1
        first = FIRST_VALUE_ID + len(known)
        added = pa.table(
            {
                "value": table["value"],
                "count": table["count"],
                "id": pa.array(np.arange(first, first + len(table), dtype=np.int32)),
                "generation": pa.array(np.full(len(table), generation, np.int32)),
            },
            schema=COLUMNS,
        )
        place = COLUMNS.get_field_index("count")
        known = known.set_column(place, COLUMNS.field(place), pc.fill_null(kept_counts, 0))
        return cls(name, pa.concat_tables([known, added]).combine_chunks())

    def write(self, path: Path) -> None:
        """Write `vocabulary/<name>.parquet`."""
        pq.write_table(self.table, path)

    @property
    def size(self) -> int:
        """Number of ids, the three special ones included: rows of an embedding table that holds all."""
        return len(self.table) + FIRST_VALUE_ID

    @property
    def generation(self) -> int:
        """The newest generation in it (0 where it is empty)."""
        return int(pc.max(self.table["generation"]).as_py() or 0)

    @cached_property
    def counts(self) -> np.ndarray:
        """`[size] int64`: count by id, 0 for the special ids."""
        counts = np.zeros(self.size, np.int64)
        counts[FIRST_VALUE_ID:] = self.table["count"].to_numpy()
        return counts

    def encode(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Ids of raw values, `[n] int32`: MISSING_ID for nulls, UNSEEN_ID for values that the vocabulary lacks."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        rows = pc.index_in(values.cast(pa.string()), value_set=self._values)
        ids = pc.fill_null(pc.add(rows, FIRST_VALUE_ID), UNSEEN_ID).to_numpy(zero_copy_only=False).astype(np.int32)
        if values.null_count:
            ids[values.is_null().to_numpy(zero_copy_only=False)] = MISSING_ID
        return ids

    def decode(self, ids: np.ndarray) -> pa.Array:
        """Raw values of ids; null for the special ids. Raises IndexError for an id beyond the vocabulary."""
        rows = pa.array(np.asarray(ids, np.int64) - FIRST_VALUE_ID)
        return self._values.take(pc.if_else(pc.less(rows, 0), pa.scalar(None, pa.int64()), rows))

    @cached_property
    def _values(self) -> pa.Array:
        return self.table["value"].combine_chunks()
