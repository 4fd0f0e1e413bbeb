"""Second stage: text to provisional ids (rank by value), so that from here on only narrow numbers are shuffled.

The final ids need the training counts, which need the split, which needs the accepted times. Provisional ids are
mapped to them where the events are written.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.encoding.arrays import run_starts, stable_order
from recsys.encoding.fields import distinct_lists
from recsys.ingestion.elements import gather, pack, take, unpack
from recsys.schema import ITEM, USER, Kind, Schema, Side

MISSING = -1
"""Provisional id of a missing value: the last entry of a map by provisional id."""


def id_columns(schema: Schema) -> tuple[str, ...]:
    """Event columns whose text becomes ids: user, item, and the id fields of the context."""
    return (USER, ITEM, *(f.name for f in schema.of(Side.CONTEXT, Kind.CATEGORICAL, Kind.MULTI_VALUED)))


def merge_distinct(element: tuple[str, Iterable[bytes]]) -> tuple[str, bytes]:
    """All distinct values of one column, sorted: a value's place is its provisional id."""
    name, messages = element
    table = gather(messages)
    assert table is not None
    values = pc.unique(table["value"].combine_chunks())
    return name, pack(pa.table({"value": values.take(pc.sort_indices(values))}))


class Provisional:
    """The sorted distinct values by column, from packed side input."""

    def __init__(self, elements: Iterable[tuple[str, bytes]], names: Iterable[str]) -> None:
        self.values = {name: pa.array([], pa.string()) for name in names}
        for name, message in elements:
            self.values[name] = unpack(message)["value"].combine_chunks()

    def encode(self, name: str, values: pa.Array) -> np.ndarray:
        """`[n] int32` provisional ids of text, dictionary-encoded text; MISSING for null."""
        if pa.types.is_dictionary(values.type):
            ids = np.append(self.encode(name, values.dictionary), np.int32(MISSING))
            return ids[values.indices.fill_null(len(values.dictionary)).to_numpy()]
        return pc.index_in(values, value_set=self.values[name]).fill_null(MISSING).to_numpy().astype(np.int32)


class EncodeEvents(beam.DoFn):
    """Packed validated batches to (shard of the item, packed batch with provisional ids)."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._side: object = None

    def process(self, message: bytes, values: list[tuple[str, bytes]], shards: int) -> Iterator[tuple[int, bytes]]:
        if self._side is not values:
            self._side, self._provisional = values, Provisional(values, id_columns(self._schema))
        table = unpack(message).combine_chunks()
        for name in id_columns(self._schema):
            place = table.schema.get_field_index(name)
            column = table.column(place).combine_chunks()
            table = table.set_column(place, name, encode_column(self._provisional, name, column))
        item = table[ITEM].to_numpy()
        yield from by_key(table, item % shards)


def encode_column(provisional: Provisional, name: str, column: pa.Array) -> pa.Array:
    """One id column in provisional ids: int32, or list<int32> of distinct ids in rising order."""
    if not pa.types.is_list(column.type):
        return pa.array(provisional.encode(name, column))
    lists = column.fill_null([])
    offsets = lists.offsets.to_numpy()
    ids = provisional.encode(name, lists.values)[offsets[0] : offsets[-1]]
    return distinct_lists(offsets - offsets[0], ids, MISSING)


def by_key(table: pa.Table, keys: np.ndarray, rows: np.ndarray | None = None) -> Iterator[tuple[int, bytes]]:
    """The table (or some of its rows) in one packed part per key, rows in their order."""
    order = stable_order(keys if rows is None else keys[rows])
    order = order if rows is None else rows[order]
    if not len(order):
        return
    sorted_keys = keys[order]
    taken = take(table, order)
    starts = np.append(np.flatnonzero(run_starts(sorted_keys)), len(order))
    for start, stop in pairwise(starts):
        yield int(sorted_keys[start]), pack(taken.slice(start, stop - start))
