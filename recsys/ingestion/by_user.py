"""Fourth stage, a user's events together: split, histories, clusters, and what the vocabularies count."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import apache_beam as beam
import numpy as np
import pyarrow as pa

from recsys.config.ingest import SplitConfig
from recsys.encoding.arrays import lexicographic_order, run_starts, stable_order
from recsys.encoding.clusters import Clusters, co_clicks
from recsys.encoding.histories import (
    Windows,
    listed_without_time,
    trim,
    windows_at_end,
    windows_before,
    windows_without_time,
)
from recsys.encoding.point_in_time import as_of
from recsys.ingestion.carried import is_carried
from recsys.ingestion.cuts import Plan
from recsys.ingestion.elements import column, pack, take, unpack
from recsys.ingestion.encode import id_columns
from recsys.ingestion.progress import Progress
from recsys.ingestion.reading import input_order
from recsys.ingestion.split import TRAIN, cut_validation, split_by_time, split_leave_last_out, split_random
from recsys.ingestion.validation import ROW, SPLIT
from recsys.schema import ITEM, LABEL, SPLITS, TIME, USER, Field, Kind, Schema, Statistic

COUNTED = "counted"
ENDS = "ends"
SKIP = "skip of "


@dataclass(frozen=True)
class UserStage:
    """What the stage needs to know."""

    schema: Schema
    lag_ms: int
    refresh_ms: int
    split: SplitConfig
    seed: int

    @property
    def sequences(self) -> tuple[Field, ...]:
        """The sequence fields."""
        return tuple(f for f in self.schema.fields if f.kind is Kind.SEQUENCE)

    @property
    def clusters(self) -> Field | None:
        """The co-click cluster field, if there is one."""
        found = (f for f in self.schema.fields if f.kind is Kind.POINT_IN_TIME and f.statistic is Statistic.CLUSTER)
        return next(found, None)


def user_order(messages: Iterable[bytes], has_time: bool) -> pa.Table:
    """All events of a shard of users by (user, time, input order)."""
    table = input_order([unpack(message) for message in messages], ROW)
    user = column(table, USER)
    return take(table, lexicographic_order(user, column(table, TIME)) if has_time else stable_order(user))


def split_of(table: pa.Table, stage: UserStage, plan: Plan) -> np.ndarray:
    """`[n] int8` part of each event of a table in `user_order`."""
    split = stage.split
    if split.kind == "time":
        return split_by_time(column(table, TIME), plan)
    if split.kind == "given":
        assert isinstance(split.validation, float)
        return cut_validation(
            column(table, SPLIT), column(table, ROW), column(table, ITEM), split.validation, stage.seed
        )
    if split.kind == "leave_last_out":
        return split_leave_last_out(column(table, USER), column(table, LABEL) > 0)
    assert isinstance(split.validation, float) and isinstance(split.test, float)
    return split_random(column(table, ROW), column(table, ITEM), split.validation, split.test, stage.seed)


class PairsByUser(beam.DoFn):
    """(shard, packed events of its users) to packed co-clicks `first`, `second` (int32), `time`, `train` (bool)."""

    def __init__(self, stage: UserStage) -> None:
        self._stage = stage

    def process(self, element: tuple[int, Iterable[bytes]], plan: Plan) -> Iterator[bytes]:
        table = user_order(element[1], self._stage.schema.has_time)
        # What is carried over is not known in full, and the numbers of clusters are learned anew.
        table = table.filter(pa.array(~is_carried(column(table, ROW))))
        positive = column(table, LABEL) > 0
        train = (split_of(table, self._stage, plan) == TRAIN)[positive]
        user, item, time = (column(table, name)[positive] for name in (USER, ITEM, TIME))
        first, second, when = co_clicks(user, item, time)
        both = (user[1:] == user[:-1]) & (item[1:] != item[:-1])
        columns = {"first": first, "second": second, "time": when, "train": (train[1:] & train[:-1])[both]}
        yield pack(pa.table(columns))


class ByUser(beam.DoFn):
    """(shard, packed events of its users) to (output file, packed rows with histories), and by tag:

    `counted`: (id column, packed training counts by provisional id); `ends`: packed users with their sequences as of
    the end of the data. The key of an output file is its part times the number of files plus its place in order.
    """

    def __init__(self, stage: UserStage, progress: Progress) -> None:
        self._stage, self._progress = stage, progress

    def process(self, element: tuple[int, Iterable[bytes]], plan: Plan, clusters: Clusters | None) -> Iterator[object]:
        stage = self._stage
        table = user_order(element[1], stage.schema.has_time)
        user, item, time, row = (column(table, name) for name in (USER, ITEM, TIME, ROW))
        positive = column(table, LABEL) > 0
        carried = is_carried(row)
        split = np.full(len(row), TRAIN, np.int8)
        split[~carried] = split_of(table.filter(pa.array(~carried)) if carried.any() else table, stage, plan)
        train = (split == TRAIN) & ~carried
        columns = {name: table[name] for name in table.column_names if name != SPLIT}
        if stage.clusters is not None:
            assert clusters is not None
            columns[stage.clusters.name] = clusters.changes.at(item, as_of(time, stage.lag_ms, stage.refresh_ms))
        yield from self._counts(table, train, positive)
        group = np.cumsum(run_starts(user)) - 1
        listed = np.flatnonzero(positive) if stage.schema.has_time else listed_without_time(user, positive, split)
        lists = {field.name: _event_column(columns, field)[listed] for field in stage.sequences}
        windows = {
            field.name: windows_before(group, time, positive, field.length or 1, stage.lag_ms)
            if stage.schema.has_time
            else windows_without_time(group, listed, split, field.length or 1)
            for field in stage.sequences
        }
        yield beam.pvalue.TaggedOutput(ENDS, pack(self._ends(columns, user[listed], listed)))
        keys = split.astype(np.int64) * (len(plan.edges) + 1)
        keys += np.searchsorted(plan.edges, time if stage.schema.has_time else row, side="right")
        order = stable_order(keys)
        order = order[~carried[order]] if carried.any() else order
        taken = take(pa.table(columns), order)
        bounds = np.append(np.flatnonzero(run_starts(keys[order])), len(order))
        for start, stop in pairwise(bounds):
            part = taken.slice(start, stop - start)
            for name, values in lists.items():
                part = with_windows(part, name, windows[name].take(order[start:stop]), values)
            yield int(keys[order[start]]), pack(part)
        self._progress.add("users", len(order))

    def _counts(self, table: pa.Table, train: np.ndarray, positive: np.ndarray) -> Iterator[beam.pvalue.TaggedOutput]:
        """Training positives by user and item, training events by context value."""
        for name in id_columns(self._stage.schema):
            rows = train & positive if name in (USER, ITEM) else train
            values = table[name].combine_chunks()
            if pa.types.is_list(values.type):
                ids = values.filter(pa.array(rows)).flatten().to_numpy()
            else:
                ids = values.to_numpy()[rows]
            found, counts = np.unique(ids[ids >= 0], return_counts=True)
            yield beam.pvalue.TaggedOutput(COUNTED, (name, pack(pa.table({"id": found, "count": counts}))))

    def _ends(self, columns: dict, user: np.ndarray, listed: np.ndarray) -> pa.Table:
        """Each user with positives, and each sequence field after all of them."""
        ends: pa.Table | None = None
        for field in self._stage.sequences:
            users, windows = windows_at_end(user, field.length or 1)
            ends = pa.table({USER: users}) if ends is None else ends
            ends = with_windows(ends, field.name, windows, _event_column(columns, field)[listed])
        return pa.table({USER: np.zeros(0, np.int32)}) if ends is None else ends


def _event_column(columns: dict, field: Field) -> np.ndarray:
    values = columns[field.of]
    return values if isinstance(values, np.ndarray) else values.to_numpy()


def with_windows(table: pa.Table, name: str, windows: Windows, values: np.ndarray) -> pa.Table:
    """The table with windows on shared values as a list-view column (and what each leaves out in a second one)."""
    windows, values = trim(windows, values)
    starts = pa.array(windows.start.astype(np.int32))
    views = pa.ListViewArray.from_arrays(starts, pa.array(windows.size), pa.array(values.astype(np.int32)))
    table = table.append_column(name, views)
    if windows.skip is not None:
        inside = np.where(windows.skip >= 0, windows.skip - windows.start, -1)
        table = table.append_column(SKIP + name, pa.array(inside.astype(np.int32)))
    return table


def windows_of(table: pa.Table, name: str) -> tuple[Windows, np.ndarray]:
    """The windows and values that `with_windows` put into a table."""
    views = table[name].combine_chunks()
    start = views.offsets.to_numpy().astype(np.int64)
    skip = None
    if SKIP + name in table.column_names:
        inside = column(table, SKIP + name)
        skip = np.where(inside >= 0, start + inside, -1)
    return Windows(start, views.sizes.to_numpy(), skip), views.values.to_numpy()


def parts_of(key: int, plan: Plan) -> tuple[str, int]:
    """The part's name and the place in order of an output file's key."""
    part, place = divmod(key, len(plan.edges) + 1)
    return SPLITS[part], place
