"""Raw batches as typed rows: what is accepted, and what is rejected with its reason."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.datasets.positive import parse_rule, positive_mask
from recsys.datasets.source import RawBatch
from recsys.encoding.fields import parse_lists, parse_numeric
from recsys.encoding.parsing import parse_numbers, parse_times, text_or_null
from recsys.errors import UserError
from recsys.schema import ITEM, LABEL, SPLITS, TIME, USER, VALUE, Field, Kind, Schema, Side

ROW_BITS = 40
"""A row's key is its shard's index and, in the low 40 bits, its line in the file: unique, and in input order."""
ROW = "row"
SPLIT = "split"
AFTER_END = "at or after ingest.split.end"
TITLE = "title"
AVAILABLE_FROM = "available_from"
RAW_KINDS = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC, Kind.OUTCOME)


@dataclass(frozen=True)
class EventRules:
    """How events are read: the schema, the unit of their times, what makes one positive, whether the split is given,
    and the time (ms) from which on they are left out."""

    schema: Schema
    time_unit: str
    positive: str | None
    given_split: bool
    end: int | None = None

    def __post_init__(self) -> None:
        if self.positive is not None:
            parse_rule(self.positive)
        if self.schema.has_time and self.time_unit not in ("s", "ms", "us", "ns", "iso"):
            raise UserError(f"data: the time unit is '{self.time_unit}'; expected s, ms, us, ns or iso.")


class Rejections:
    """Reasons by row; the first reason of a row stands."""

    def __init__(self, rows: int) -> None:
        self.reasons = np.full(rows, "", object)

    def mark(self, mask: pa.Array | pa.ChunkedArray, reason: str) -> None:
        """Reject the rows of a boolean mask (null: not rejected) that have no reason yet."""
        bad = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        if bad.any():
            self.reasons[bad & self.accepted] = reason

    @property
    def accepted(self) -> np.ndarray:
        """`[rows] bool`."""
        return np.asarray(self.reasons == "")

    def table(self, batch: RawBatch) -> pa.Table | None:
        """The rejected rows as they were read, for rejected/*.jsonl."""
        bad = np.flatnonzero(~self.accepted)
        if not len(bad) and not batch.rejected:
            return None
        names = [batch.names.get(name, name) for name in batch.table.schema.names]
        # Two canonical columns may come from one of the file.
        raw = [dict(zip(names, row.values(), strict=True)) for row in batch.table.take(pa.array(bad)).to_pylist()]
        early = batch.rejected
        rows = batch.rows.take(pa.array(bad)).cast(pa.int64()).to_pylist()
        return rejected_table(
            [*(r.file for r in early), *([batch.file] * len(bad))],
            [*(r.row for r in early), *rows],
            [*(r.reason for r in early), *self.reasons[bad]],
            [*(r.raw for r in early), *(json.dumps(row, ensure_ascii=False, default=str) for row in raw)],
        )


def rejected_table(files: list[str], rows: list[int], reasons: list[str], raw: list[str]) -> pa.Table:
    """A table of rejected rows."""
    return pa.table(
        {
            "file": pa.array(files, pa.string()),
            "row": pa.array(rows, pa.int64()),
            "reason": pa.array(reasons, pa.string()),
            "raw": pa.array(raw, pa.string()),
        }
    )


def validate_events(batch: RawBatch, shard: int, rules: EventRules) -> tuple[pa.Table, pa.Table | None]:
    """Accepted events and rejected rows of one batch.

    Accepted: `user`, `item` and categorical context fields as text, dictionary-encoded; multi-valued context as
    list<string>; `time` int64 ms, `row` int64, `label` int8, `value` and numeric context float32, `split` int8.
    """
    raw, schema = batch.table, rules.schema
    rejections = Rejections(raw.num_rows)
    columns: dict[str, pa.Array] = {}
    for name in (USER, ITEM):
        columns[name] = _dictionary(_required(raw, name, batch.file), rejections, f"{name} is missing")
    if schema.has_time:
        given = _required(raw, TIME, batch.file)
        columns[TIME] = parse_times(given, rules.time_unit)
        rejections.mark(given.is_null(), "time is missing")
        rejections.mark(columns[TIME].is_null(), f"time is not a time between 1970 and 2109 in '{rules.time_unit}'")
        if rules.end is not None:
            rejections.mark(pc.greater_equal(columns[TIME], rules.end), AFTER_END)
    else:
        columns[TIME] = pa.array(np.zeros(raw.num_rows, np.int64))
    columns[ROW] = pc.add(batch.rows.cast(pa.int64()), shard << ROW_BITS)
    columns |= _labels(raw, batch.file, rules, rejections)
    if rules.given_split:
        split = pc.index_in(text_or_null(_required(raw, SPLIT, batch.file)), value_set=pa.array(SPLITS))
        rejections.mark(split.is_null(), "split is not one of train, validation, test")
        columns[SPLIT] = split.cast(pa.int8())
    for field in schema.of(Side.CONTEXT, *RAW_KINDS):
        columns[field.name] = field_values(field, _required(raw, field.name, batch.file), rejections)
    table = pa.table(columns)
    accepted = rejections.accepted
    rejected = rejections.table(batch)
    return (table if accepted.all() else table.filter(pa.array(accepted)), rejected)


def validate_entities(
    batch: RawBatch, shard: int, key: str, fields: tuple[Field, ...], time_unit: str
) -> tuple[pa.Table, pa.Table | None]:
    """Accepted rows of the items (`key` "item") or users table, as text and numbers, and the rejected ones."""
    raw = batch.table
    rejections = Rejections(raw.num_rows)
    identity = text_or_null(_required(raw, key, batch.file))
    rejections.mark(identity.is_null(), f"{key} is missing")
    columns: dict[str, pa.Array] = {key: identity, ROW: pc.add(batch.rows.cast(pa.int64()), shard << ROW_BITS)}
    if TITLE in raw.schema.names:
        columns[TITLE] = text_or_null(raw[TITLE])
    if AVAILABLE_FROM in raw.schema.names:
        given = raw[AVAILABLE_FROM]
        columns[AVAILABLE_FROM] = parse_times(given, time_unit)
        unread = pc.and_(columns[AVAILABLE_FROM].is_null(), text_or_null(given).is_valid())
        rejections.mark(unread, f"available_from is not a time between 1970 and 2109 in '{time_unit}'")
    for field in fields:
        columns[field.name] = field_values(field, _required(raw, field.name, batch.file), rejections)
    rejected = rejections.table(batch)
    return pa.table(columns).filter(pa.array(rejections.accepted)), rejected


def field_values(field: Field, values: pa.Array, rejections: Rejections) -> pa.Array:
    """One field's values: dictionary of text, list<string> without repeats kept in order, or float32 with NaN."""
    if field.kind in (Kind.NUMERIC, Kind.OUTCOME):
        numbers, bad = parse_numeric(values)
        rejections.mark(bad, f"{field.name} is not a number")
        return numbers
    if field.kind is Kind.CATEGORICAL:
        return _dictionary(values, rejections, None)
    return parse_lists(field, values)


def _required(raw: pa.RecordBatch, name: str, file: str) -> pa.Array:
    if name not in raw.schema.names:
        raise UserError(f"{file}: column '{name}' is missing; the file gives {raw.schema.names}.")
    return raw[name]


def _dictionary(values: pa.Array, rejections: Rejections, missing: str | None) -> pa.Array:
    """Text as dictionary<int32, string>, hashing each value once before any of it is turned into text."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    names = text_or_null(values.dictionary)
    rows = values.indices.cast(pa.int32())
    encoded = pa.DictionaryArray.from_arrays(rows, names.fill_null(""))
    nulls = names.take(rows).is_null() if names.null_count else rows.is_null()
    if missing is not None:
        rejections.mark(nulls, missing)
    if names.null_count:
        encoded = pa.DictionaryArray.from_arrays(
            pc.if_else(nulls, pa.scalar(None, pa.int32()), rows), encoded.dictionary
        )
    return encoded


def _labels(raw: pa.RecordBatch, file: str, rules: EventRules, rejections: Rejections) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    if rules.schema.has_value or rules.positive is not None:
        given = _required(raw, VALUE, file)
        value = parse_numbers(given)
        rejections.mark(given.is_null(), "value is missing")
        rejections.mark(value.is_null(), "value is not a number")
        if rules.schema.has_value:
            columns[VALUE] = pc.fill_null(value, 0.0).cast(pa.float32(), safe=False)
    if rules.positive is not None:
        columns[LABEL] = positive_mask(value, rules.positive).cast(pa.int8())
    elif LABEL in raw.schema.names:
        label = parse_numbers(raw[LABEL])
        known = pc.fill_null(pc.is_in(label, value_set=pa.array([0.0, 1.0])), False)
        rejections.mark(pc.invert(known), "label is not 0 or 1")
        columns[LABEL] = pc.if_else(known, label, 0.0).cast(pa.int8())
    else:
        columns[LABEL] = pa.array(np.ones(raw.num_rows, np.int8))
    return columns
