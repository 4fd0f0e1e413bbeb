"""The items and users tables of a data set: one row an id, dense, with encoded features."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.encoding.fields import encode_field
from recsys.encoding.histories import expand
from recsys.encoding.vocabulary import Vocabulary
from recsys.ingestion.by_user import windows_of
from recsys.ingestion.statistics import Moments
from recsys.ingestion.validation import AVAILABLE_FROM, RAW_KINDS, TITLE
from recsys.ingestion.writing import PARQUET
from recsys.schema import FIRST_VALUE_ID, ITEM, USER, Field, Kind, Schema, Side


def entity_rows(
    key: str,
    schema: Schema,
    raw: pa.Table | None,
    vocabularies: dict[str, Vocabulary],
    earlier: pa.Table | None,
) -> dict[str, pa.Array]:
    """Columns `item` or `user`, `raw`, `title` (items), `count` and the side's fields, for ids from 3 on.

    An id without a raw row has the features that the `earlier` data set gave it, else missing ones.
    """
    vocabulary = vocabularies[key]
    rows = len(vocabulary.table)
    ids = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + rows, dtype=np.int32)
    columns: dict[str, pa.Array] = {
        key: pa.array(ids),
        "raw": vocabulary.table["value"].combine_chunks(),
        "count": vocabulary.table["count"].combine_chunks(),
    }
    source = np.full(rows, -1, np.int64)
    if raw is not None:
        source[vocabulary.encode(raw[key]) - FIRST_VALUE_ID] = np.arange(raw.num_rows)
    given = pa.array(source, mask=source < 0)
    old_rows = 0 if earlier is None else min(earlier.num_rows, rows)
    old = pa.array(np.arange(rows), mask=(source >= 0) | (np.arange(rows) >= old_rows))
    names = [(TITLE, pa.string())] if key == ITEM else []
    for name, kind in names:
        column = pa.nulls(rows, kind) if raw is None or name not in raw.column_names else raw[name].take(given)
        columns[name] = pc.coalesce(_flat(column), _earlier(earlier, name, old, kind))
    for field in schema.of(Side(key), *RAW_KINDS):
        shared = vocabularies.get(field.vocabulary_name)
        if raw is None or field.name not in raw.column_names:
            encoded = encode_field(field, pa.nulls(rows, _raw_type(field)), shared)
        else:
            encoded = encode_field(field, _flat(raw[field.name].take(given)), shared)
        kept = _earlier(earlier, field.name, old, encoded.type)
        columns[field.name] = pc.if_else(kept.is_valid(), kept, encoded)
    return columns


def listed(written: pa.Table, raw: pa.Table | None, key: str) -> int:
    """How many rows of the `raw` items or users table (without repeats) stand in the written one."""
    if raw is None:
        return 0
    return int(pc.sum(pc.is_in(written["raw"], value_set=_flat(raw[key]))).as_py() or 0)


def available_from(
    columns: dict[str, pa.Array], raw: pa.Table | None, firsts: np.ndarray, earlier: pa.Table | None
) -> pa.Array:
    """`[items] int64` ms: what the earlier data set said, else the catalogue's time, else the first event's; 0 if none.

    `firsts` `[items] int64`: time of the first event, negative where there is none.
    """
    rows = len(columns[ITEM])
    times = pa.array(firsts, mask=firsts < 0)
    if raw is not None and AVAILABLE_FROM in raw.column_names:
        lookup = pc.index_in(columns["raw"], value_set=_flat(raw[ITEM]))
        times = pc.coalesce(_flat(raw[AVAILABLE_FROM].take(lookup)), times)
    if earlier is not None:
        old = pa.array(np.arange(rows), mask=np.arange(rows) >= earlier.num_rows)
        before = _earlier(earlier, AVAILABLE_FROM, old, pa.int64())
        times = pc.coalesce(pc.if_else(pc.greater(before, 0), before, pa.scalar(None, pa.int64())), times)
    return times.fill_null(0)


def end_sequences(
    field: Field, users: int, ends: list[pa.Table], final: dict[str, np.ndarray], earlier: pa.Table | None
) -> pa.Array:
    """A sequence field of each user as of the end of the data; users without events keep what `earlier` had."""
    offsets_by_user = np.zeros(users, np.int64)
    flat: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for table in ends:
        windows, values = windows_of(table, field.name)
        offsets, shown = expand(windows, values)
        owner = final[USER][table[USER].to_numpy()] - FIRST_VALUE_ID
        offsets_by_user[owner] = np.diff(offsets)
        owners.append(np.repeat(owner, np.diff(offsets)))
        flat.append(final[ITEM][shown] if field.of == ITEM else shown)
    if earlier is not None and field.name in earlier.column_names:
        lists = earlier[field.name].combine_chunks()
        sizes = np.diff(lists.offsets.to_numpy())
        idle = offsets_by_user[: len(sizes)] == 0
        offsets_by_user[: len(sizes)][idle] = sizes[idle]
        owners.append(np.repeat(np.flatnonzero(idle), sizes[idle]))
        flat.append(lists.filter(pa.array(idle)).flatten().to_numpy())
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    values = np.concatenate(flat) if flat else np.zeros(0, np.int32)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(offsets_by_user)]).astype(np.int32)
    ordered = values[np.argsort(owner, kind="stable")].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ordered))


def write_entities(folder: Path, name: str, table: pa.Table, file_rows: int) -> None:
    """Write `<name>-00000.parquet` and so on."""
    for place, start in enumerate(range(0, max(table.num_rows, 1), file_rows)):
        pq.write_table(table.slice(start, file_rows), folder / f"{name}-{place:05d}.parquet", **PARQUET)


def numeric_summaries(table: pa.Table, fields: tuple[Field, ...]) -> dict[str, Any]:
    """Statistics of the numeric fields of an entity table."""
    return {
        field.name: Moments.of(table[field.name].to_numpy()).summary(with_log=False)
        for field in fields
        if field.kind is Kind.NUMERIC
    }


def _raw_type(field: Field) -> pa.DataType:
    if field.kind is Kind.NUMERIC:
        return pa.float32()
    return pa.list_(pa.string()) if field.kind is Kind.MULTI_VALUED else pa.string()


def _earlier(earlier: pa.Table | None, name: str, rows: pa.Array, kind: pa.DataType) -> pa.Array:
    if earlier is None or name not in earlier.column_names:
        return pa.nulls(len(rows), kind)
    return _flat(earlier[name].take(rows)).cast(kind)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
