"""What a data set is: its fields, whom each describes, of which kind it is, how its values get ids.

Pure data, imported by every other room and importing none. A schema travels inside the manifest of a data set and of a
model bundle, so a model always knows the meaning of its input columns.
"""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, model_validator

PADDING_ID = 0
"""Fills the end of ragged rows; never a value."""
MISSING_ID = 1
"""The row has no value in this field."""
UNSEEN_ID = 2
"""The row has a value that the vocabulary does not hold."""
FIRST_VALUE_ID = 3
"""Ids from here on are values; an id never changes its meaning (contract 1 in docs/contracts.md)."""

USER = "user"
ITEM = "item"
TIME = "time"
VALUE = "value"
LABEL = "label"
RETRIEVAL_SCORE = "retrieval_score"
"""A ranker's input that holds the retrieval model's score, float32; no field of a data set."""
SPLITS = ("train", "validation", "test")


class Side(StrEnum):
    """Whom a field describes."""

    USER = "user"
    ITEM = "item"
    CONTEXT = "context"


class Kind(StrEnum):
    """How a field's values are stored and read by a model."""

    CATEGORICAL = "categorical"  # int32 id
    MULTI_VALUED = "multi_valued"  # list<int32> ids, unordered, without repeats
    NUMERIC = "numeric"  # float32, NaN where missing
    SEQUENCE = "sequence"  # list<int32> ids, oldest first: what a user did before the event
    POINT_IN_TIME = "point_in_time"  # value of an item as it was at the event's time, less the lag
    OUTCOME = "outcome"  # float32 known only after the event, NaN where unknown: a label or weight, never an input


class Statistic(StrEnum):
    """What a point-in-time field measures about its item."""

    AGE = "age"  # float32 hours since the item appeared
    CLICKS = "clicks"  # float32 count of positive events in `window_ms` before the event
    CLUSTER = "cluster"  # int32 id of the item's co-click cluster, MISSING_ID until enough is known


class Field(BaseModel):
    """One column of a data set besides user, item, time, value and label.

    `column` is the source column (default: `name`). `vocabulary` names the field whose vocabulary is shared (default:
    its own). A sequence collects the event column `of` ("item", or a point-in-time field) over the user's last `length`
    positive events. A point-in-time field measures `statistic`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    side: Side
    kind: Kind
    column: str | None = None
    separator: str | None = None
    vocabulary: str | None = None
    min_count: int = 1
    max_size: int | None = None
    length: int | None = None
    of: str | None = None
    statistic: Statistic | None = None
    window_ms: int | None = None
    clusters: int | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Field":
        if self.kind is Kind.SEQUENCE and (not self.length or not self.of):
            raise ValueError(f"sequence field '{self.name}' needs 'of' (the event column it collects) and 'length'")
        if self.kind is Kind.POINT_IN_TIME:
            if self.statistic is None:
                raise ValueError(f"point-in-time field '{self.name}' needs 'statistic': age, clicks or cluster")
            if self.statistic is Statistic.CLICKS and not self.window_ms:
                raise ValueError(f"point-in-time field '{self.name}' counts clicks and needs 'window_ms'")
            if self.statistic is Statistic.CLUSTER and not self.clusters:
                raise ValueError(f"point-in-time field '{self.name}' needs 'clusters', how many there are")
        if self.kind is Kind.OUTCOME and self.side is not Side.CONTEXT:
            raise ValueError(f"field '{self.name}' is the outcome of an event: it needs 'side: context'")
        return self

    @property
    def vocabulary_name(self) -> str:
        """The vocabulary that gives this field's values their ids."""
        if self.vocabulary:
            return self.vocabulary
        return self.of if self.kind is Kind.SEQUENCE and self.of else self.name

    @property
    def is_input(self) -> bool:
        """Whether models may read it: it is known when scores are asked for."""
        return self.kind is not Kind.OUTCOME

    @property
    def is_id(self) -> bool:
        """Whether the column holds vocabulary ids (not float32 numbers, not cluster numbers)."""
        return self.kind in (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.SEQUENCE)


def check_names(fields: Iterable[Field]) -> None:
    """Raise ValueError where a field's name is reserved, or stands twice."""
    reserved = {USER, ITEM, TIME, VALUE, LABEL, RETRIEVAL_SCORE, "raw", "title", "count", "available_from", "split"}
    seen: set[str] = set()
    for field in fields:
        if field.name in reserved:
            raise ValueError(f"field name '{field.name}' is reserved; rename it and keep 'column: {field.name}'")
        if field.name in seen:
            raise ValueError(f"field '{field.name}' is declared twice")
        seen.add(field.name)


def check_references(fields: Iterable[Field]) -> None:
    """Raise ValueError where a field names another one that is not there, or of a kind that cannot serve it."""
    by_name = {field.name: field for field in fields}
    clusters = [field.name for field in by_name.values() if field.statistic is Statistic.CLUSTER]
    if len(clusters) > 1:
        raise ValueError(f"'{clusters[0]}' and '{clusters[1]}' are both cluster fields; a data set has one at most")
    for field in by_name.values():
        if field.kind is Kind.SEQUENCE and field.of not in (ITEM, *clusters):
            other = by_name.get(field.of or "")
            found = "there is no such field" if other is None else f"'{field.of}' is {other.kind}"
            raise ValueError(
                f"sequence field '{field.name}' is 'of: {field.of}', but {found}; it collects 'item', or a "
                "point-in-time field with statistic cluster"
            )
        if field.vocabulary and field.vocabulary not in (USER, ITEM, field.name):
            owner = by_name.get(field.vocabulary)
            if owner is None or owner.kind not in (Kind.CATEGORICAL, Kind.MULTI_VALUED) or owner.vocabulary:
                raise ValueError(
                    f"field '{field.name}' has 'vocabulary: {field.vocabulary}'; expected the name of a categorical or "
                    "multi-valued field that has a vocabulary of its own"
                )


class Schema(BaseModel):
    """The fields of a data set. `user`, `item`, `time` and `label` are always there; `has_value` adds `value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: tuple[Field, ...] = ()
    has_time: bool = True
    has_value: bool = False

    @model_validator(mode="after")
    def _names(self) -> "Schema":
        check_names(self.fields)
        return self

    def field(self, name: str) -> Field:
        """The field called `name`; raises KeyError where there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def of(self, side: Side, *kinds: Kind) -> tuple[Field, ...]:
        """The fields of one side, of the given kinds only where any are given, in their declared order."""
        return tuple(f for f in self.fields if f.side is side and (not kinds or f.kind in kinds))

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Names of all vocabularies of the data set: user and item first, then fields in their declared order."""
        names = dict.fromkeys((USER, ITEM))
        for field in self.fields:
            if field.is_id and field.vocabulary_name not in {f.name for f in self.fields if not f.is_id}:
                names[field.vocabulary_name] = None
        return tuple(names)
