"""What every data source gives to ingestion: a schema, and tables read as Arrow record batches, shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from recsys.schema import Schema


@dataclass(frozen=True)
class Shard:
    """A part of a table that one worker reads: a file, or a range of it. `index` orders the shards of a table."""

    index: int
    file: str
    start: int = 0
    stop: int | None = None


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
    field. Text columns are unparsed; ingestion casts them and rejects what it cannot. `rows` holds each row's 1-based
    line (or row) in the file. `rejected` holds rows that could not even be split into columns.
    """

    table: pa.RecordBatch
    file: str
    rows: pa.Array
    rejected: tuple[RejectedRow, ...] = ()


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
    vectorised rule on `value` such as `>= 4`, or None where every event is positive unless a `label` column says so.
    `inputs` names every file with its size and SHA-256, for the manifest.
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
