"""The training events, all or the positives, as a sequence of row groups, in an order fixed by (seed, epoch)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.schema import ITEM, LABEL, USER


@dataclass(frozen=True)
class RowGroup:
    """One Parquet row group and how many positives it holds."""

    file: Path
    index: int
    positives: int


@dataclass(frozen=True, eq=False)
class PositiveEvents:
    """The positives (or all rows) of some splits: where they are, and how often each user and item occurs among them.

    `counts["user"]` and `counts["item"]` are `[ids] int64`.
    """

    groups: tuple[RowGroup, ...]
    counts: dict[str, np.ndarray]
    all_labels: bool = False

    @property
    def rows(self) -> int:
        """Number of positives."""
        return sum(group.positives for group in self.groups)


def scan_positives(dataset: DatasetFolder, splits: tuple[str, ...], *, all_labels: bool = False) -> PositiveEvents:
    """Count positives by row group, user and item; reads three columns, one row group at a time.

    With `all_labels`, what a ranker learns from, rows of label 0 count and are read as well.
    """
    counts = {name: np.zeros(dataset.vocabulary(name).size, np.int64) for name in (USER, ITEM)}
    groups = []
    for split in splits:
        for file in dataset.event_files(split):
            reader = _open(file)
            for index in range(reader.num_row_groups):
                table = _read(reader, file, index, [USER, ITEM, LABEL])
                table = table if all_labels else _positives(table)
                groups.append(RowGroup(file, index, len(table)))
                for name, total in counts.items():
                    total += np.bincount(table[name].to_numpy(), minlength=len(total))
    if not any(group.positives for group in groups):
        raise UserError(
            f"{dataset.path}: no positive events (label 1) in {' and '.join(splits)}; training needs some. Check "
            "data.positive and ingest.split."
        )
    return PositiveEvents(tuple(groups), counts, all_labels)


def positive_pairs(events: PositiveEvents) -> tuple[np.ndarray, np.ndarray]:
    """User and item ids of all positives, `[positives] int32` each, in memory at once."""
    tables = [
        _positives(_read(_open(group.file), group.file, group.index, [USER, ITEM, LABEL])) for group in events.groups
    ]
    table = pa.concat_tables(tables)
    return table[USER].to_numpy(), table[ITEM].to_numpy()


@dataclass(frozen=True, eq=False)
class EventReader:
    """Yields the positives of an epoch as whole batches.

    Row groups are gathered into buffers of about `buffer_rows` positives, of which one is in memory at a time (a data
    set that fits into one buffer is decoded once). `shuffled`: row groups come in random order and the rows of a buffer
    are permuted. `time`: buffers are of consecutive row groups, each is cut into runs of `batch_size` consecutive rows,
    from a random start (less than a batch of a buffer is left out), and the runs are permuted. All is drawn from
    (seed, epoch), so a batch is known by its number.
    """

    events: PositiveEvents
    columns: tuple[str, ...]
    batch_size: int
    buffer_rows: int
    in_time_order: bool
    seed: int

    @property
    def steps(self) -> int:
        """Batches of an epoch: full ones only, as a short batch has few negatives, but at least one."""
        if self.in_time_order:
            return max(1, sum(self._kept(_rows(groups)) for groups in self._consecutive()) // self.batch_size)
        return max(1, self.events.rows // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[pa.Table]:
        """Batches `first`, `first + 1`, … of an epoch as tables of `columns`, `[batch_size]` rows each."""
        rng = np.random.default_rng([self.seed, epoch])
        position, start = 0, first * self.batch_size
        stop = min(self.steps * self.batch_size, self.events.rows)
        carried: list[pa.Table] = []
        waiting = 0
        for groups in self._buffers(rng):
            order = self._order(rng, _rows(groups))  # of skipped buffers too, so that later ones stay as they are
            begin, end = max(start - position, 0), min(stop - position, len(order))
            position += len(order)
            if begin >= end:
                continue
            table = self._buffer(groups)
            while begin < end:
                taken = min(self.batch_size - waiting, end - begin)
                carried.append(table.take(pa.array(order[begin : begin + taken])))
                waiting += taken
                begin += taken
                if waiting == self.batch_size:
                    yield pa.concat_tables(carried)
                    carried, waiting = [], 0
        if waiting:
            yield pa.concat_tables(carried)

    def _buffers(self, rng: np.random.Generator) -> list[list[RowGroup]]:
        if self.in_time_order:
            buffers = self._consecutive()
            return [buffers[place] for place in rng.permutation(len(buffers))]
        groups = [group for group in self.events.groups if group.positives]
        return self._gathered([groups[place] for place in rng.permutation(len(groups))])

    def _consecutive(self) -> list[list[RowGroup]]:
        return self._gathered([group for group in self.events.groups if group.positives])

    def _gathered(self, groups: list[RowGroup]) -> list[list[RowGroup]]:
        """Row groups in the given order, as buffers of at least `buffer_rows` and a batch."""
        buffers: list[list[RowGroup]] = [[]]
        for group in groups:
            if _rows(buffers[-1]) >= max(self.buffer_rows, self.batch_size):
                buffers.append([])
            buffers[-1].append(group)
        return buffers

    def _kept(self, rows: int) -> int:
        """How many rows of a buffer take part where order is by time: whole runs, or all rows of tiny data."""
        return rows if self.events.rows < self.batch_size else rows // self.batch_size * self.batch_size

    def _order(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        if not self.in_time_order:
            return rng.permutation(rows)
        kept = self._kept(rows)
        places = np.arange(kept) + rng.integers(rows - kept + 1)
        if kept < self.batch_size:
            return places
        return rng.permutation(places.reshape(-1, self.batch_size)).reshape(-1)

    def _buffer(self, groups: list[RowGroup]) -> pa.Table:
        if self.events.rows <= self.buffer_rows:
            tables = [self._whole[group.file, group.index] for group in groups]
        else:
            tables = [self._decode(group) for group in groups]
        return pa.concat_tables(tables).combine_chunks()

    @cached_property
    def _whole(self) -> dict[tuple[Path, int], pa.Table]:
        return {(group.file, group.index): self._decode(group) for group in self.events.groups}

    def _decode(self, group: RowGroup) -> pa.Table:
        columns = list(dict.fromkeys([*self.columns, LABEL]))
        table = _read(_open(group.file), group.file, group.index, columns)
        return (table if self.events.all_labels else _positives(table)).select(list(self.columns))


def _rows(groups: list[RowGroup]) -> int:
    return sum(group.positives for group in groups)


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not readable as Parquet ({error}); the file is truncated or not Parquet.") from None


def _read(reader: pq.ParquetFile, file: Path, index: int, columns: list[str]) -> pa.Table:
    missing = [name for name in columns if name not in reader.schema_arrow.names]
    if missing:
        raise UserError(f"{file}: column '{missing[0]}' is missing; the file has {reader.schema_arrow.names}.")
    try:
        return reader.read_row_group(index, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: row group {index} is not readable ({error}); make the data set again.") from None


def _positives(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table[LABEL], 1))
