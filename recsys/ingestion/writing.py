"""Last stage: one output file's events put in time order, with final ids and histories as lists, written as Parquet."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.encoding.arrays import stable_order
from recsys.encoding.histories import expand
from recsys.ingestion.by_user import parts_of, windows_of
from recsys.ingestion.cuts import Plan
from recsys.ingestion.elements import column, unpack
from recsys.ingestion.encode import id_columns
from recsys.ingestion.progress import Progress
from recsys.ingestion.statistics import Moments, event_numbers
from recsys.ingestion.validation import ROW
from recsys.ingestion.vocabularies import Encoders
from recsys.schema import ITEM, LABEL, TIME, USER, VALUE, Kind, Schema, Side

ROW_GROUP_ROWS = 65_536
PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "row_group_size": ROW_GROUP_ROWS}
"""Writer options are fixed, so equal tables are equal bytes."""


def event_schema(schema: Schema) -> pa.Schema:
    """The columns of `events/*.parquet` (docs/contracts.md)."""
    ids = pa.int32()
    kinds = {
        Kind.CATEGORICAL: ids,
        Kind.MULTI_VALUED: pa.list_(ids),
        Kind.SEQUENCE: pa.list_(ids),
        Kind.NUMERIC: pa.float32(),
    }
    columns = [(USER, ids), (ITEM, ids), (TIME, pa.int64()), (LABEL, pa.int8())]
    if schema.has_value:
        columns.append((VALUE, pa.float32()))
    columns += [(f.name, kinds[f.kind]) for f in schema.of(Side.CONTEXT, Kind.CATEGORICAL, Kind.MULTI_VALUED)]
    columns += [(f.name, pa.float32()) for f in schema.of(Side.CONTEXT, Kind.NUMERIC, Kind.OUTCOME)]
    columns += [(f.name, kinds[f.kind]) for f in schema.fields if f.kind is Kind.SEQUENCE]
    numbers = {f.name for f in event_numbers(schema)}
    measured = [f for f in schema.fields if f.kind is Kind.POINT_IN_TIME]
    columns += [(f.name, pa.float32() if f.name in numbers else ids) for f in measured]
    return pa.schema(columns)


class WriteEvents(beam.DoFn):
    """(output file, packed rows) to a Parquet file in `folder`, and one (output file, its positives and moments)."""

    def __init__(self, schema: Schema, folder: Path, progress: Progress) -> None:
        self._schema, self._folder, self._progress = schema, folder, progress

    def process(
        self, element: tuple[int, Iterable[bytes]], plan: Plan, encoders: Encoders
    ) -> Iterator[tuple[int, tuple[int, dict[str, Moments]]]]:
        key, messages = element
        part, place = parts_of(key, plan)
        table = pa.concat_tables([unpack(message) for message in messages]).combine_chunks()
        order = np.argsort(column(table, ROW))
        order = stable_order(column(table, TIME), order)
        columns = event_schema(self._schema)
        path = self._folder / f"{part}-{place:05d}.parquet"
        gathered = _Rows(table, self._schema, encoders)
        with pq.ParquetWriter(path, columns, compression="zstd", compression_level=1) as writer:
            for start in range(0, len(order), ROW_GROUP_ROWS):
                rows = order[start : start + ROW_GROUP_ROWS]
                arrays = [gathered.take(name, rows).cast(columns.field(name).type) for name in columns.names]
                writer.write_table(pa.table(arrays, schema=columns), row_group_size=ROW_GROUP_ROWS)
        numbers = event_numbers(self._schema)
        moments = {f.name: Moments.of(column(table, f.name)[order]) for f in numbers}
        self._progress.add("write", len(order))
        yield key, (int(column(table, LABEL).sum()), moments)


class _Rows:
    """Rows of a gathered table with final ids, column by column."""

    def __init__(self, table: pa.Table, schema: Schema, encoders: Encoders) -> None:
        self._table, self._encoders = table, encoders
        self._ids = set(id_columns(schema))
        self._sequences = {
            f.name: (windows_of(table, f.name), f.of == ITEM) for f in schema.fields if f.kind is Kind.SEQUENCE
        }

    def take(self, name: str, rows: np.ndarray) -> pa.Array:
        """One column of some rows."""
        if name in self._sequences:
            (windows, values), items = self._sequences[name]
            offsets, shown = expand(windows.take(rows), values)
            shown = self._encoders.final[ITEM][shown] if items else shown
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(shown))
        values = self._table[name].take(pa.array(rows)).combine_chunks()
        if name not in self._ids:
            return values
        final = self._encoders.final[name]
        if pa.types.is_list(values.type):
            return pa.ListArray.from_arrays(values.offsets, pa.array(final[values.values.to_numpy()]))
        return pa.array(final[values.to_numpy()])
