"""Reading a whole table in tests."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.config import parse_config
from recsys.datasets.load import load_source
from recsys.datasets.source import RawSource, RejectedRow, TableReader


def read_all(reader: TableReader) -> tuple[pa.Table, list[int], list[RejectedRow]]:
    """All accepted rows, their row numbers and the rejected rows."""
    batches = [batch for shard in reader.shards() for batch in reader.read(shard)]
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    table = pa.Table.from_batches([batch.table for batch in batches if len(batch.table)]) if rows else pa.table({})
    return table, rows, [row for batch in batches for row in batch.rejected]


def source_of(data: dict[str, Any], workdir: Path = Path("unused"), seed: int = 1) -> RawSource:
    """The source that a `data` section describes."""
    config = parse_config({"name": "test", "workdir": str(workdir), "data": data})
    return load_source(config.data, seed, workdir)


def files_of(path: Path, **event: Any) -> RawSource:
    """A source of events in one file with columns user, item and time."""
    columns = {"user": "user", "item": "item", "time": "time"} | event.pop("columns", {})
    return source_of({"source": "files", "events": {"paths": [str(path)], "columns": columns, **event}})
