"""What every data source gives to ingestion: a schema, and tables read as Arrow record batches, shard by shard."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from recsys.artifacts import sha256_file
from recsys.schema import Schema


@dataclass(frozen=True)
class Shard:
    """A part of a table that one worker reads: a file, or a range of it. `index` orders the shards of a table.

    `start` and `stop` count in whatever unit the reader chose (Parquet: row groups); `split` is set where the files of
    each split are given.
    """

    index: int
    file: str
    start: int = 0
    stop: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not accepted: where it stands (1-based line or row), why, and as it was read."""

    file: str
    row: int
    reason: str
    raw: str


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of a shard under their canonical names, values still as the file has them.

    Event columns: `user`, `item`, `time`, `value` and `label` where the source has them, `split` where it is given, and
    one column a context field, by field name. Entity columns: `item` or `user`, `title`, `available_from`, and one a
    field. Text columns are unparsed; ingestion casts them and rejects what it cannot. Multi-valued columns are lists,
    or text to be split at the field's `separator`. `rows` holds each row's 1-based line (or row) in the file, int64.
    `rejected` holds rows that could not even be split into columns. `names` are the file's own names of the columns,
    by canonical name, where they are columns of the file; rejected rows are shown under them.
    """

    table: pa.RecordBatch
    file: str
    rows: pa.Array
    rejected: tuple[RejectedRow, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


class TableReader(Protocol):
    """A raw table. Picklable, so that a Beam worker can read its share."""

    def shards(self) -> list[Shard]:
        """All parts, in their order; raises UserError for a missing file or an empty glob."""
        ...

    def read(self, shard: Shard) -> Iterator[RawBatch]:
        """The rows of one part, in order; raises UserError for a missing column or a truncated file."""
        ...


@dataclass(frozen=True)
class RawSource:
    """A source of raw data, ready for ingestion.

    `time_unit` is one of s, ms, us, ns (numbers since 1970, UTC) or `iso` (text with date and time). `positive` is a
    rule on `value` such as `>= 4` (`recsys.datasets.positive`), or None where every event is positive unless a `label`
    column says so. `notes` go into the manifest.
    """

    name: str
    schema: Schema
    events: TableReader
    items: TableReader | None = None
    users: TableReader | None = None
    time_unit: str = "ms"
    positive: str | None = None
    given_split: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def inputs(self) -> dict[str, dict[str, int | str]]:
        """Size and SHA-256 of every input file, by its path below the folder that all share: the same wherever it is.

        Reads every byte once; `{"ratings.csv": {"bytes": 1979173, "sha256": "06416e…"}}`.
        """
        tables = [table for table in (self.events, self.items, self.users) if table is not None]
        files = sorted({Path(shard.file).resolve() for table in tables for shard in table.shards()})
        if not files:
            return {}
        root = Path(os.path.commonpath([file.parent for file in files]))
        return {
            file.relative_to(root).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in files
        }
