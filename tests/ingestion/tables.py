"""Raw tables in memory, as a source gives them, and random small logs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.datasets.source import RawBatch, RawSource, RejectedRow, Shard
from recsys.schema import Field, Kind, Schema, Side, Statistic

START = 1_700_000_000_000


@dataclass(frozen=True)
class MemoryTable:
    """A TableReader over tables in memory, one shard each, read in batches of `batch` rows."""

    tables: tuple[pa.Table, ...]
    files: tuple[str, ...]
    batch: int = 7
    broken: tuple[RejectedRow, ...] = ()

    def shards(self) -> list[Shard]:
        return [Shard(index, file) for index, file in enumerate(self.files)]

    def read(self, shard: Shard) -> Iterator[RawBatch]:
        first = 1
        for batch in self.tables[shard.index].combine_chunks().to_batches(max_chunksize=self.batch):
            rows = pa.array(np.arange(first, first + batch.num_rows))
            yield RawBatch(batch, shard.file, rows, self.broken if first == 1 else ())
            first += batch.num_rows


def memory_table(folder: Any, name: str, tables: list[pa.Table], batch: int = 7) -> MemoryTable:
    """Tables that stand for files: the manifest wants their bytes, so something is written for each."""
    files = []
    for index, table in enumerate(tables):
        path = folder / f"{name}-{index}.txt"
        path.write_text(str(table.to_pydict()), encoding="utf-8")
        files.append(str(path))
    return MemoryTable(tuple(tables), tuple(files), batch)


def full_schema(has_time: bool = True) -> Schema:
    """Every kind of field on every side that can have it."""
    fields = [
        Field(name="brand", side=Side.ITEM, kind=Kind.CATEGORICAL, min_count=2),
        Field(name="tags", side=Side.ITEM, kind=Kind.MULTI_VALUED, max_size=3),
        Field(name="price", side=Side.ITEM, kind=Kind.NUMERIC),
        Field(name="town", side=Side.USER, kind=Kind.CATEGORICAL),
        Field(name="likes", side=Side.USER, kind=Kind.MULTI_VALUED, vocabulary="brand"),
        Field(name="device", side=Side.CONTEXT, kind=Kind.CATEGORICAL),
        Field(name="words", side=Side.CONTEXT, kind=Kind.MULTI_VALUED),
        Field(name="speed", side=Side.CONTEXT, kind=Kind.NUMERIC),
        Field(name="history", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=3),
    ]
    if has_time:
        fields += [
            Field(name="age_hours", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.AGE),
            Field(
                name="clicks_5", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLICKS, window_ms=5_000
            ),
            Field(
                name="clicks_60", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLICKS, window_ms=60_000
            ),
            Field(
                name="cluster",
                side=Side.ITEM,
                kind=Kind.POINT_IN_TIME,
                statistic=Statistic.CLUSTER,
                clusters=3,
                window_ms=4_000,
            ),
            Field(name="clusters_before", side=Side.USER, kind=Kind.SEQUENCE, of="cluster", length=4),
        ]
    return Schema(fields=tuple(fields), has_time=has_time, has_value=True)


def random_events(
    random: np.random.Generator, rows: int, users: int, items: int, given: bool = False, step_ms: int = 1000
) -> pa.Table:
    """A log with ties in time, exact repeats, missing context, and rows that must be rejected."""

    def pick(values: list, share: float) -> list:
        return [None if random.random() < share else values[random.integers(len(values))] for _ in range(rows)]

    times = START + random.integers(0, 60, rows) * step_ms + random.integers(0, 2, rows) * 500
    columns: dict[str, Any] = {
        "user": pick([f"u{n}" for n in range(users)], 0.01),
        "item": pick([f"i{n}" for n in range(items)], 0.01),
        "time": [str(time) for time in times],
        "value": [str(number) for number in random.integers(1, 6, rows)],
        "device": pick(["phone", "desk", " ", "tablet"], 0.1),
        "words": pick(["a|b|a", "c", "", "b|d|a"], 0.1),
        "speed": pick(["1.5", "-2", "3e1"], 0.1),
    }
    for name, wrong in (("time", "yesterday"), ("value", "many"), ("speed", "fast")):
        columns[name][random.integers(rows)] = wrong
    if given:
        columns["split"] = pick(["train", "train", "validation", "test"], 0)
    return pa.table(columns)


def random_items(random: np.random.Generator, items: int) -> pa.Table:
    """A catalogue with an unlisted item, an item without events, a repeated row and a wrong price."""
    names = [f"i{n}" for n in range(1, items + 2)] + ["i1"]
    count = len(names)
    return pa.table(
        {
            "item": names,
            "title": [f"Item {name}" if random.random() < 0.8 else None for name in names],
            "available_from": [
                str(START + int(random.integers(0, 40)) * 1000) if random.random() < 0.6 else None for _ in names
            ],
            "brand": [["x", "y", "z", "w", None][random.integers(5)] for _ in names],
            "tags": [["p|q", "q", "r|s|p", None][random.integers(4)] for _ in names],
            "price": ["1.25", *(str(round(float(random.normal()), 3)) for _ in range(count - 2)), "dear"],
        }
    )


def random_users(random: np.random.Generator, users: int) -> pa.Table:
    """A users table that knows one user too few and one too many."""
    names = [f"u{n}" for n in range(1, users + 1)]
    return pa.table(
        {
            "user": names,
            "town": [["A", "B", None][random.integers(3)] for _ in names],
            "likes": [["x|y", "w", None, "nothing"][random.integers(4)] for _ in names],
        }
    )


def random_source(folder: Any, seed: int, rows: int = 80, has_time: bool = True, given: bool = False) -> RawSource:
    """A source over two files of events, with items and users; an even seed spreads the log over ten minutes."""
    random = np.random.default_rng(seed)
    users, items = int(random.integers(2, 7)), int(random.integers(2, 8))
    events = random_events(random, rows, users, items, given, 1000 if seed % 2 else 10_000)
    if not has_time:
        events = events.drop_columns(["time"])
    events = pa.concat_tables([events, events.slice(3, 6)])
    cut = int(random.integers(1, rows))
    return RawSource(
        name="random",
        schema=full_schema(has_time),
        events=memory_table(folder, "events", [events.slice(0, cut), events.slice(cut)]),
        items=memory_table(folder, "items", [random_items(random, items)]),
        users=memory_table(folder, "users", [random_users(random, users)]),
        time_unit="ms",
        positive="value >= 3",
        given_split=given,
    )
