"""A raw question to the arrays that the query tower reads, with the vocabularies and tables of one bundle."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.dataset_folder import dense_column, pad_lists
from recsys.encoding.fields import encode_field, parse_lists, parse_numeric
from recsys.encoding.parsing import text_or_null
from recsys.encoding.vocabulary import Vocabulary
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, ITEM, MISSING_ID, PADDING_ID, USER, Field, Kind, Schema, Side


@dataclass(frozen=True)
class Query:
    """What someone asks, all of it raw: a known user's id, or what is known of a stranger, or both.

    `features` overrides the stored user features by field name, `context` gives the context fields; a multi-valued one
    is a list. `history` (raw item ids, oldest first) replaces the stored history; None keeps it.
    """

    user: str | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class QueryEncoder:
    """Encodes queries as ingestion encoded the data set.

    `users` is the data set's users table (row = id - 3). A history given with a query fills the sequences of items; a
    sequence of another column (an item's cluster at the time) is missing for each of them, as no time is given.
    """

    schema: Schema
    vocabularies: Mapping[str, Vocabulary]
    users: pa.Table

    def encode(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """Arrays by data set column, batch first (docs/contracts.md, 'SavedModel signature'; numeric float32).

        Raises UserError naming the query's field that the schema lacks or whose value has the wrong type.
        """
        ids = self.user_ids(queries)
        arrays: dict[str, np.ndarray] = {USER: ids}
        static = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)
        user_fields, context_fields = self.schema.of(Side.USER, *static), self.schema.of(Side.CONTEXT, *static)
        _check_names("features", (query.features for query in queries), user_fields)
        _check_names("context", (query.context for query in queries), context_fields)
        for one in user_fields:
            stored = self._stored[one.name][ids]
            arrays[one.name] = self._overridden(one, stored, [query.features for query in queries], "features")
        for one in context_fields:
            nothing = _missing(one, len(queries))
            arrays[one.name] = self._overridden(one, nothing, [query.context for query in queries], "context")
        for one in self.schema.fields:
            if one.kind is Kind.SEQUENCE and one.side is not Side.ITEM:
                arrays[one.name] = self._sequence(one, ids, queries)
        return arrays

    def user_ids(self, queries: Sequence[Query]) -> np.ndarray:
        """User ids, `[n] int32`: 1 where none is given, 2 for one that the data set does not hold."""
        return self.vocabularies[USER].encode(_strings([query.user for query in queries], "user"))

    def item_ids(self, raw: Sequence[str]) -> np.ndarray:
        """Item ids of raw ones, `[n] int32`, 2 for those that the catalogue does not hold."""
        return self.vocabularies[ITEM].encode(_strings(list(raw), "history"))

    @cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        """The users' features by id, the special ids in front."""
        static = self.schema.of(Side.USER, Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)
        return {one.name: dense_column(self.users[one.name], one) for one in static}

    def _overridden(self, one: Field, arrays: np.ndarray, given: Sequence[Mapping[str, Any]], where: str) -> np.ndarray:
        """`arrays` (changed in place) with the rows replaced whose query gives a raw value (null: missing)."""
        rows = [row for row, values in enumerate(given) if one.name in values]
        if not rows:
            return arrays
        raw = [given[row][one.name] for row in rows]
        encoded = self._encoded(one, raw, f"{where}.{one.name}")
        if one.kind is Kind.MULTI_VALUED:
            width = max(encoded.shape[1], arrays.shape[1])
            arrays, encoded = _widen(arrays, width), _widen(encoded, width)
        arrays[rows] = encoded
        return arrays

    def _encoded(self, one: Field, raw: Sequence[Any], where: str) -> np.ndarray:
        """Raw values as the data set stores them; numbers that are none are named, as ingestion rejects them."""
        if one.kind is Kind.NUMERIC:
            numbers, bad = parse_numeric(_texts(raw, where))
            if pc.any(bad).as_py():
                raise UserError(f"{where}: expected a number or null, found {raw[bad.index(True).as_py()]!r}.")
            return encode_field(one, numbers, None).to_numpy(zero_copy_only=False)
        vocabulary = self.vocabularies[one.vocabulary_name]
        if one.kind is Kind.CATEGORICAL:
            return encode_field(one, text_or_null(_texts(raw, where)), vocabulary).to_numpy(zero_copy_only=False)
        lists = pa.concat_arrays([_list(one, value, where) for value in raw])
        return pad_lists(encode_field(one, lists, vocabulary), keep_last=False)

    def _sequence(self, one: Field, ids: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
        """Sequence field `[n, length] int32`: from the users table, or from the query's own history."""
        assert one.length is not None
        known = ids >= FIRST_VALUE_ID
        arrays = np.full((len(queries), one.length), PADDING_ID, np.int32)
        if known.any():
            rows = pa.array(ids[known].astype(np.int64) - FIRST_VALUE_ID)
            arrays[known] = pad_lists(self.users[one.name].take(rows), one.length)
        for row, query in enumerate(queries):
            if query.history is not None:
                items = self.item_ids(query.history[-one.length :])
                values = items if one.of == ITEM else np.full(len(items), MISSING_ID, np.int32)
                arrays[row] = PADDING_ID
                arrays[row, : len(values)] = values
        return arrays


def _check_names(where: str, given: Iterable[Mapping[str, Any]], fields: Sequence[Field]) -> None:
    known = [one.name for one in fields]
    unknown = sorted({name for values in given for name in values} - set(known))
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: the data set has no such field; it has {known or 'none on this side'}.")


def _missing(one: Field, rows: int) -> np.ndarray:
    if one.kind is Kind.NUMERIC:
        return np.full(rows, np.nan, np.float32)
    return np.full((rows, 1) if one.kind is Kind.MULTI_VALUED else rows, MISSING_ID, np.int32)


def _widen(arrays: np.ndarray, width: int) -> np.ndarray:
    return np.pad(arrays, ((0, 0), (0, width - arrays.shape[1])), constant_values=PADDING_ID)


def _list(one: Field, value: Any, where: str) -> pa.Array:
    """One multi-valued field of one query as `[1] list<string>`: a list, or text with separators as in a file."""
    if value is None or isinstance(value, str):
        return parse_lists(one, pa.array([value], pa.string()))
    if isinstance(value, list | tuple):
        return pa.array([_texts(value, where).to_pylist()], pa.list_(pa.string()))
    raise UserError(f"{where}: expected a list of values, found {value!r}.")


def _texts(values: Sequence[Any], where: str) -> pa.Array:
    """JSON's scalars as text, as Arrow writes them: so a number means what it means in a file."""
    texts = []
    for value in values:
        if value is not None and not isinstance(value, str | int | float | bool):
            raise UserError(f"{where}: expected text, a number or null, found {value!r}.")
        texts.append(_text(value))
    return _strings(texts, where)


def _strings(values: Sequence[str | None], where: str) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        raise UserError(f"{where}: expected text that UTF-8 can hold, found a lone surrogate.") from None


def _text(value: str | float | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    # Python's own digits for whole numbers: they may be beyond int64. (A bool is an int, but is written as a word.)
    return str(value) if type(value) is int else pa.scalar(value).cast(pa.string()).as_py()
