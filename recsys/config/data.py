"""Configuration of where raw data comes from: `data.source` names one of six, each with options of its own."""

from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic
from pydantic import model_validator

from recsys.config.base import Section
from recsys.config.simulator import SimulatorData
from recsys.schema import SPLITS, Field, Kind, Side, check_names, check_references

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
"""Numbers since 1970 (UTC) in this unit, or text with date and time (`2024-01-31T08:15:00`, with or without zone)."""

PositiveRule = Annotated[str, pydantic.Field(pattern=r"^\s*value\s*(>=|<=|==|!=|>|<)\s*-?\d+(\.\d+)?\s*$")]
"""What makes an event positive: `value`, a comparison and a number, for example `value >= 4`."""

Paths = Annotated[
    tuple[str, ...], pydantic.BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)
]
"""Files and globs; one alone may stand without brackets."""

_READ_KINDS = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC, Kind.OUTCOME)


class _Source(Section):
    """What every source shares.

    `fields` are added to the source's own, replacing one of the same name; sequence and point-in-time fields are
    declared here for every source. `drop_fields` removes some of the source's own.
    """

    fields: tuple[Field, ...] = ()
    drop_fields: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        check_names(self.fields)
        return self


class TableFormat(Section):
    """How the files of a table are written.

    `format` follows the extension where it is `auto` (.csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet, each but
    Parquet with or without .gz). `delimiter` defaults to a tab for .tsv and a comma otherwise. `header` lists the
    column names of a CSV that has none in its first line. `multiline` must be set where quoted CSV values hold
    line ends (it is slower). `missing` lists the CSV texts that mean 'no value'.
    """

    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    delimiter: Annotated[str, pydantic.Field(min_length=1, max_length=1)] | None = None
    header: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    multiline: bool = False
    missing: tuple[str, ...] = ("",)


class EventColumns(Section):
    """Source columns of an event. `label` holds 1 (positive) or 0; `split` holds train, validation or test."""

    user: str = "user"
    item: str = "item"
    time: str | None = None
    value: str | None = None
    label: str | None = None
    split: str | None = None


class ItemColumns(Section):
    """Source columns of an item besides its fields; `available_from` is in the events' time unit."""

    item: str = "item"
    title: str | None = None
    available_from: str | None = None


class UserColumns(Section):
    """Source columns of a user besides its fields."""

    user: str = "user"


class EventFiles(TableFormat):
    """The events: `paths`, or where the split is given `splits` with the paths of each."""

    paths: Paths = ()
    splits: dict[Literal["train", "validation", "test"], Paths] = pydantic.Field(default_factory=dict)
    columns: EventColumns = EventColumns()

    @model_validator(mode="after")
    def _once(self) -> "EventFiles":
        if bool(self.paths) == bool(self.splits):
            raise ValueError(f"expected files either in 'paths' or, by split ({', '.join(SPLITS)}), in 'splits'")
        if self.splits and self.columns.split:
            raise ValueError("the split is given twice: by 'splits' and by 'columns.split'")
        return self


class ItemFiles(TableFormat):
    """The catalogue: files or globs with one row an item."""

    paths: Paths
    columns: ItemColumns = ItemColumns()


class UserFiles(TableFormat):
    """The users: files or globs with one row a user."""

    paths: Paths
    columns: UserColumns = UserColumns()


class FilesData(_Source):
    """A user's own files. `time_unit` holds for events and for the items' `available_from`.

    An event is positive where its `label` is 1; without a label column where `positive` holds; without both always.
    """

    source: Literal["files"]
    events: EventFiles
    items: ItemFiles | None = None
    users: UserFiles | None = None
    time_unit: TimeUnit = "s"
    positive: PositiveRule | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "FilesData":
        check_references(self.fields)
        columns = self.events.columns
        if self.positive and not columns.value:
            raise ValueError("'positive' is a rule on the value, but 'events.columns.value' names no column")
        if self.positive and columns.label:
            raise ValueError("'positive' and 'events.columns.label' both say what is positive; keep one")
        if self.drop_fields:
            raise ValueError("'drop_fields' is for sources with fields of their own; leave the field out of 'fields'")
        for side, table in ((Side.ITEM, self.items), (Side.USER, self.users)):
            for field in self.fields:
                if field.side is side and field.kind in _READ_KINDS and table is None:
                    raise ValueError(f"field '{field.name}' describes {side}s, but '{side}s' names no files")
        return self


class MovieLensData(_Source):
    """MovieLens ratings in one of its three file formats, from `folder`.

    With `download`, files that are not there are fetched from grouplens.org first (see its licence: research use).
    """

    source: Literal["movielens"]
    folder: Path
    variant: Literal["100k", "1m", "latest-small"] = "100k"
    download: bool = False
    positive: PositiveRule | None = "value >= 4"


class GloboData(_Source):
    """Globo.com news clicks, one CSV an hour in `folder`; `hours` keeps files from the first up to before the last."""

    source: Literal["globo"]
    folder: Path
    hours: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _range(self) -> "GloboData":
        if self.hours and not 0 <= self.hours[0] < self.hours[1]:
            raise ValueError(f"'hours' is [first, before], expected 0 <= first < before, got {list(self.hours)}")
        return self


class GowallaData(_Source):
    """The list format of collaborative-filtering benchmarks: a line is a user followed by its items, no time.

    The split is given: `train` and `test` are files in `folder`.
    """

    source: Literal["gowalla"]
    folder: Path
    train: str = "train.txt"
    test: str = "test.txt"


class FrappeData(_Source):
    """Frappe app usage as the BARS benchmark splits it: a CSV file a part in `folder`, with a 0/1 label and no time.

    A user, item and context may stand there more than once: ingest with `duplicates: keep`.
    """

    source: Literal["frappe"]
    folder: Path
    train: str = "train.resampled_negatives.csv.gz"
    validation: str = "valid.csv.gz"
    test: str = "test.csv.gz"


class SimulatorSource(SimulatorData, _Source):
    """The simulator of a drifting shop (docs/simulator.md); its logs are written to `<workdir>/raw`.

    `events` chooses what becomes an event: every impression with its label, or the clicks alone, at the time of the
    click.
    """

    source: Literal["simulator"]
    events: Literal["impressions", "clicks"] = "impressions"


DataConfig = Annotated[
    FilesData | MovieLensData | GloboData | GowallaData | FrappeData | SimulatorSource,
    pydantic.Field(discriminator="source"),
]
"""Where raw data comes from, by `source`."""
