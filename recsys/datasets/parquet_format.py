"""Reading Parquet: typed columns, in shards of whole row groups."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.datasets.columns import MAX_ROWS, Wanted, sliced, unreadable
from recsys.datasets.source import RawBatch, Shard

_SHARD_ROWS = 1_000_000


def row_group_ranges(path: str) -> list[tuple[int, int]]:
    """Consecutive ranges of row groups with about a million rows each; a function of the file alone."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "Parquet", error) from None
    ranges, start, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= _SHARD_ROWS:
            ranges.append((start, group + 1))
            start, rows = group + 1, 0
    if start < metadata.num_row_groups or not ranges:
        ranges.append((start, metadata.num_row_groups))
    return ranges


def read_parquet_shard(shard: Shard, wanted: Wanted) -> Iterator[RawBatch]:
    """The rows of a range of row groups; `rows` are 1-based row numbers of the file. Dictionaries are unpacked."""
    path = shard.file
    try:
        with pq.ParquetFile(path) as file:
            wanted.check(path, file.schema_arrow.names)
            groups = range(shard.start, file.num_row_groups if shard.stop is None else shard.stop)
            first = 1 + sum(file.metadata.row_group(group).num_rows for group in range(shard.start))
            if not len(groups):
                return
            for batch in file.iter_batches(MAX_ROWS, row_groups=list(groups), columns=wanted.sources):
                columns = {name: _plain(batch.column(name)) for name in wanted.sources}
                rows = pa.array(np.arange(first, first + len(batch), dtype=np.int64))
                first += len(batch)
                yield from sliced(wanted.batch(columns), path, rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "Parquet", error) from None


def _plain(column: pa.Array) -> pa.Array:
    """Without dictionary encoding or the large variants of text and lists."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_large_list(kind):
        return _plain(column.cast(pa.list_(kind.value_type)))
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return column.cast(pa.list_(kind.value_type.value_type))
    return column
