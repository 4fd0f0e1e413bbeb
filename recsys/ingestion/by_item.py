"""Third stage, an item's events together: exact duplicates, clicks in windows, age."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from recsys.encoding.arrays import GroupedTimes, lexicographic_order, run_starts, shares_keys
from recsys.encoding.point_in_time import UNKNOWN_TIME, age_hours, as_of, clicks_in_window
from recsys.ingestion.carried import is_carried
from recsys.ingestion.cuts import histogram
from recsys.ingestion.elements import column, pack, unpack
from recsys.ingestion.encode import by_key
from recsys.ingestion.progress import Progress
from recsys.ingestion.reading import input_order
from recsys.ingestion.validation import ROW
from recsys.schema import ITEM, LABEL, TIME, USER, Kind, Schema, Statistic

DUPLICATES = "duplicates"
HISTOGRAM = "histogram"
FIRSTS = "firsts"
TIMES = "times"


@dataclass(frozen=True)
class ItemStage:
    """What the stage needs to know."""

    schema: Schema
    lag_ms: int
    refresh_ms: int
    reject_duplicates: bool
    times_wanted: bool


class ByItem(beam.DoFn):
    """(shard, packed batches of its items' events) to (shard of the user, packed batch), and by tag:

    `duplicates`: packed keys of rejected rows; `histogram`: packed counts of order keys; `firsts`: packed items with
    the time of their first event; `times`: packed times alone, where the split needs them. Rows that are carried over
    from an earlier data set count as clicks and go on to their users, and are in no tag but `firsts`.
    """

    def __init__(self, stage: ItemStage, progress: Progress) -> None:
        self._stage, self._progress = stage, progress
        self._side: object = None

    def process(self, element: tuple[int, Iterable[bytes]], shards: int, catalogue: bytes) -> Iterator[object]:
        if self._side is not catalogue:
            self._side, self._available = catalogue, np.frombuffer(catalogue, np.int64)
        stage = self._stage
        table = input_order([unpack(message) for message in element[1]], ROW)
        item, user, time = (column(table, name) for name in (ITEM, USER, TIME))
        order = lexicographic_order(item, time)
        kept = np.ones(len(item), bool)
        carried = is_carried(column(table, ROW))
        if carried.any():
            # An event that the input holds too stands there.
            kept[carried & shares_keys(~carried, item, time, user)] = False
            order = order[kept[order]]
        if stage.reject_duplicates:
            own = order[~carried[order]] if carried.any() else order
            twice = own[repeated(item[own], time[own], user[own])]
            kept[twice] = False
            if len(twice):
                rejected = table.select([USER, ITEM, TIME, ROW]).take(pa.array(np.sort(twice)))
                yield beam.pvalue.TaggedOutput(DUPLICATES, pack(rejected))
                order = order[kept[order]]
        starts = run_starts(item[order])
        firsts = order[starts]
        yield beam.pvalue.TaggedOutput(FIRSTS, pack(pa.table({ITEM: item[firsts], TIME: time[firsts]})))
        for name, values in self._statistics(item[order], time[order], column(table, LABEL)[order] > 0).items():
            placed = np.zeros(len(item), values.dtype)
            placed[order] = values
            table = table.append_column(name, pa.array(placed))
        own = np.flatnonzero(kept & ~carried)
        keys = time[own] if stage.schema.has_time else column(table, ROW)[own]
        yield beam.pvalue.TaggedOutput(HISTOGRAM, pack(histogram(keys)))
        if stage.times_wanted:
            yield beam.pvalue.TaggedOutput(TIMES, pack(pa.table({TIME: keys})))
        yield from by_key(table, user % shards, None if kept.all() else np.flatnonzero(kept))
        self._progress.add("items", len(item) - int(carried.sum()))

    def _statistics(self, item: np.ndarray, time: np.ndarray, positive: np.ndarray) -> dict[str, np.ndarray]:
        """Age and clicks of each row's item, for rows sorted by (item, time)."""
        fields = [f for f in self._stage.schema.fields if f.kind is Kind.POINT_IN_TIME]
        moments = as_of(time, self._stage.lag_ms, self._stage.refresh_ms)
        starts = run_starts(item)
        group = np.cumsum(starts) - 1
        values: dict[str, np.ndarray] = {}
        clicks = GroupedTimes(group[positive], time[positive])
        until: np.ndarray | None = None
        for field in fields:
            if field.statistic is Statistic.AGE:
                since = time[starts]
                if len(self._available):
                    catalogue = self._available[item[starts]]
                    since = np.where(catalogue == UNKNOWN_TIME, since, catalogue)
                values[field.name] = age_hours(moments, since[group])
            elif field.statistic is Statistic.CLICKS:
                until = clicks.up_to(group, moments) if until is None else until
                values[field.name] = clicks_in_window(clicks, group, moments, until, field.window_ms or 0)
        return values


def repeated(item: np.ndarray, time: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Positions of rows, sorted by (item, time, input order), whose user, item and time stood before."""
    starts = run_starts(item, time)
    tied = ~starts
    tied[:-1] |= ~starts[1:]
    rows = np.flatnonzero(tied)
    if not len(rows):
        return rows
    group = (np.cumsum(starts) - 1)[rows]
    order = lexicographic_order(group, user[rows])
    again = ~run_starts(group[order], user[rows][order])
    return rows[order[again]]
