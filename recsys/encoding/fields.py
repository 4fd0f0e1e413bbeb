"""Raw values of one field to what a data set stores: ingestion encodes columns with it, scoring the queries it gets."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.encoding.arrays import run_starts, stable_order
from recsys.encoding.parsing import parse_numbers, text_or_null
from recsys.encoding.vocabulary import Vocabulary
from recsys.schema import MISSING_ID, Field, Kind

SEPARATOR = "|"
"""Between the values of a multi-valued text where its field names no separator."""


def parse_numeric(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """float32 with NaN where a value is missing, and `[n] bool` whether one is there that is no number."""
    numbers = parse_numbers(values)
    missing = values.is_null(nan_is_null=pa.types.is_floating(values.type))
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        missing = text_or_null(values).is_null()
    bad = pc.and_(numbers.is_null(), pc.invert(missing))
    return pc.fill_null(numbers, float("nan")).cast(pa.float32(), safe=False), bad


def parse_lists(field: Field, values: pa.Array) -> pa.Array:
    """list<string>: lists as they are, text split at the field's separator."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return values.cast(pa.list_(pa.string()))
    return pc.split_pattern(text_or_null(values), pattern=field.separator or SEPARATOR)


def encode_field(field: Field, values: pa.Array, vocabulary: Vocabulary | None) -> pa.Array:
    """Parsed values of one field as the data set stores them (docs/contracts.md); a null is missing."""
    if field.kind is Kind.NUMERIC:
        return values.cast(pa.float32()).fill_null(float("nan"))
    assert vocabulary is not None
    if field.kind is Kind.CATEGORICAL:
        return pa.array(vocabulary.encode(values))
    lists = values.fill_null([])
    offsets = lists.offsets.to_numpy()
    ids = vocabulary.encode(lists.values)[offsets[0] : offsets[-1]]
    return distinct_lists(offsets - offsets[0], ids, MISSING_ID)


def distinct_lists(offsets: np.ndarray, ids: np.ndarray, missing: int) -> pa.Array:
    """list<int32> without repeats and without missing values, each list rising; `[missing]` where nothing is left."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    rows, ids = rows[ids != missing], ids[ids != missing]
    empty = np.setdiff1d(np.arange(len(offsets) - 1), rows)
    rows, ids = np.concatenate([rows, empty]), np.concatenate([ids, np.full(len(empty), missing, np.int32)])
    order = stable_order(rows, stable_order(ids))
    rows, ids = rows[order], ids[order]
    kept = run_starts(rows, ids)
    sizes = np.bincount(rows[kept], minlength=len(offsets) - 1)
    starts = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(ids[kept].astype(np.int32)))
