"""First stage: shards of the source as validated batches, their distinct values, and what was rejected."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindows

from recsys.datasets.source import RawBatch, Shard, TableReader
from recsys.encoding.arrays import is_sorted
from recsys.ingestion.elements import column, pack
from recsys.ingestion.progress import Progress
from recsys.ingestion.validation import EventRules, validate_entities, validate_events
from recsys.schema import TIME, Field

ROWS = "rows"
VALUES = "values"
REJECTED = "rejected"
COUNTS = "counts"
BEGINNINGS = "beginnings"
_COMPACT_AT = 4


def coalesce(batches: Iterable[RawBatch], batch_rows: int) -> Iterator[RawBatch]:
    """Consecutive batches of a shard in pieces of at most `batch_rows`; small ones are put together."""
    waiting: list[RawBatch] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.table.num_rows or (start == 0 and batch.rejected):
            length = min(batch_rows - rows, batch.table.num_rows - start)
            early = batch.rejected if start == 0 else ()
            piece = replace(
                batch, table=batch.table.slice(start, length), rows=batch.rows.slice(start, length), rejected=early
            )
            waiting.append(piece)
            rows += length
            start += max(length, 1)
            if rows >= batch_rows:
                yield _joined(waiting)
                waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[RawBatch]) -> RawBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches([batch.table for batch in batches]).combine_chunks()
    merged = table.to_batches()
    empty = batches[0].table.slice(0, 0)
    rows = pa.concat_arrays([batch.rows for batch in batches])
    early = tuple(row for batch in batches for row in batch.rejected)
    return replace(batches[0], table=merged[0] if merged else empty, rows=rows, rejected=early)


class ReadEvents(beam.DoFn):
    """Shards to batches of accepted events (main output, packed), and by tag:

    `values`: (name of an id column, packed distinct values); `rejected`: (shard, packed rejected rows);
    `counts`: (rows in, rows rejected); `beginnings`: the earliest time of a batch.
    """

    def __init__(
        self, reader: TableReader, rules: EventRules, ids: tuple[str, ...], batch_rows: int, progress: Progress
    ):
        self._reader, self._rules, self._ids = reader, rules, ids
        self._batch_rows, self._progress = batch_rows, progress

    def start_bundle(self) -> None:
        self._distinct = {name: Distinct() for name in self._ids}

    def process(self, shard: Shard) -> Iterator[object]:
        for batch in coalesce(self._reader.read(shard), self._batch_rows):
            table, rejected = validate_events(batch, shard.index, self._rules)
            count = batch.table.num_rows + len(batch.rejected)
            yield beam.pvalue.TaggedOutput(COUNTS, (count, rejected.num_rows if rejected else 0))
            if rejected:
                yield beam.pvalue.TaggedOutput(REJECTED, (shard.index, pack(rejected)))
            if table.num_rows:
                for name, distinct in self._distinct.items():
                    distinct.add(_distinct_values(table[name]))
                yield beam.pvalue.TaggedOutput(BEGINNINGS, int(column(table, TIME).min()))
                yield pack(table)
            self._progress.add("read", count)

    def finish_bundle(self) -> Iterator[object]:
        for name, distinct in self._distinct.items():
            values = distinct.values()
            if values is not None:
                element = (name, pack(pa.table({"value": values})))
                yield beam.pvalue.TaggedOutput(VALUES, GlobalWindows.windowed_value(element))


class ReadEntities(beam.DoFn):
    """Shards of the items or users table to packed accepted rows; rejected rows and counts by tag as for events."""

    def __init__(self, reader: TableReader, key: str, fields: tuple[Field, ...], time_unit: str, batch_rows: int):
        self._reader, self._key, self._fields = reader, key, fields
        self._time_unit, self._batch_rows = time_unit, batch_rows

    def process(self, shard: Shard) -> Iterator[object]:
        for batch in coalesce(self._reader.read(shard), self._batch_rows):
            table, rejected = validate_entities(batch, shard.index, self._key, self._fields, self._time_unit)
            count = batch.table.num_rows + len(batch.rejected)
            yield beam.pvalue.TaggedOutput(COUNTS, (count, rejected.num_rows if rejected else 0))
            if rejected:
                yield beam.pvalue.TaggedOutput(REJECTED, (shard.index, pack(rejected)))
            if table.num_rows:
                yield pack(table)


class Distinct:
    """Distinct text values of many batches; hashed again only when what waits is several times what is kept."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._kept = self._waiting = 0

    def add(self, values: pa.Array) -> None:
        """Add distinct values of one batch."""
        self._chunks.append(values)
        self._waiting += len(values)
        if self._waiting > _COMPACT_AT * max(self._kept, 1):
            self.values()

    def values(self) -> pa.Array | None:
        """All distinct values so far, in no order; None where nothing was added."""
        if not self._chunks:
            return None
        if len(self._chunks) > 1:
            self._chunks = [pc.unique(pa.concat_arrays(self._chunks))]
        self._kept, self._waiting = len(self._chunks[0]), 0
        return self._chunks[0]


def _distinct_values(values: pa.ChunkedArray) -> pa.Array:
    """Distinct non-null text of a dictionary or list column."""
    merged = values.combine_chunks()
    if pa.types.is_dictionary(merged.type):
        return pc.unique(merged.dictionary.take(pc.unique(merged.indices).drop_null()))
    return pc.unique(merged.flatten()).drop_null()


def input_order(tables: list[pa.Table], key: str) -> pa.Table:
    """Tables put in the order of their first `key`, then as one."""
    whole = pa.concat_tables(sorted(tables, key=lambda table: table[key][0].as_py())).combine_chunks()
    keys = column(whole, key)
    return whole if is_sorted(keys) else whole.sort_by(key)
