"""What an extended data set knows of its users and items: the events of the input see it, and it is not written.

Those of its positives that can be seen go through the pipeline as rows of their own, marked by a negative row key.
"""

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.arrays import run_starts
from recsys.encoding.carried import Positives
from recsys.ingestion.elements import pack, unpack
from recsys.ingestion.reading import ROWS, VALUES
from recsys.ingestion.validation import ROW, SPLIT, EventRules
from recsys.schema import ITEM, LABEL, TIME, USER, VALUE, Kind, Side, Statistic


def is_carried(rows: np.ndarray) -> np.ndarray:
    """`[n] bool`: which row keys are not of the input."""
    return rows < 0


def visible(positives: Positives, active: np.ndarray, first: int, length: int, reach: int | None) -> np.ndarray:
    """`[n] bool`: which positives an event at `first` (ms) or later can see.

    The last `length` at `first` and all later ones of the users that are `active` (`[user ids] bool`), and every click
    younger than `first - reach` (None: there are no counters). The users of those clicks become active too, as what
    they did last is told from what is chosen here.
    """
    recent = np.zeros(len(positives.users), bool) if reach is None else positives.times > first - reach
    active = active.copy()
    active[positives.users[recent]] = True
    starts = run_starts(positives.users)
    group = np.cumsum(starts) - 1
    before = np.bincount(group, weights=positives.times <= first)[group]
    rank = np.arange(len(group)) - np.flatnonzero(starts)[group]
    return recent | (active[positives.users] & (rank >= before - length))


class ReadCarried(beam.DoFn):
    """The `visible` positives of `folder` (by ids of the data set `earlier`) as validated events would be, packed, and
    by tag `values`: their distinct users and items, as `ReadEvents` gives them."""

    def __init__(self, rules: EventRules, folder: Path, earlier: Path, delay_ms: int, batch_rows: int) -> None:
        self._rules, self._folder, self._earlier = rules, folder, earlier
        self._delay, self._batch_rows = delay_ms, batch_rows

    def process(self, _: None, values: list[tuple[str, bytes]], firsts: list[int]) -> Iterator[object]:
        positives = Positives.read(self._folder)
        if not firsts or not len(positives.users):
            return
        fields = self._rules.schema.fields
        dataset = DatasetFolder.open(self._earlier)
        known = dataset.vocabulary(USER)
        active = np.zeros(known.size, bool)
        for name, message in values:
            if name == USER:
                active[known.encode(unpack(message)["value"])] = True
        lengths = [f.length or 0 for f in fields if f.kind is Kind.SEQUENCE]
        windows = [f.window_ms for f in fields if f.window_ms and f.statistic is Statistic.CLICKS]
        reach = max(windows) + self._delay if windows else None
        rows = np.flatnonzero(visible(positives, active, min(firsts), max(lengths, default=0), reach))
        for start in range(0, len(rows), self._batch_rows):
            part = positives.take(rows[start : start + self._batch_rows])
            text = {USER: known.decode(part.users), ITEM: dataset.vocabulary(ITEM).decode(part.items)}
            for name, column in text.items():
                yield beam.pvalue.TaggedOutput(VALUES, (name, pack(pa.table({"value": column.unique()}))))
            yield beam.pvalue.TaggedOutput(ROWS, pack(self._table(text, part.times, start - len(rows))))

    def _table(self, text: dict[str, pa.Array], times: np.ndarray, row: int) -> pa.Table:
        """The columns of `validate_events`, in its order."""
        schema, count = self._rules.schema, len(times)
        columns: dict[str, pa.Array] = {name: column.dictionary_encode() for name, column in text.items()}
        columns |= {TIME: pa.array(times), ROW: pa.array(np.arange(row, row + count))}
        if schema.has_value:
            columns[VALUE] = pa.array(np.full(count, np.nan, np.float32))
        columns[LABEL] = pa.array(np.ones(count, np.int8))
        if self._rules.given_split:
            columns[SPLIT] = pa.array(np.zeros(count, np.int8))
        nothing = {
            Kind.CATEGORICAL: pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string())),
            Kind.MULTI_VALUED: pa.nulls(count, pa.list_(pa.string())),
            Kind.NUMERIC: pa.array(np.full(count, np.nan, np.float32)),
            Kind.OUTCOME: pa.array(np.full(count, np.nan, np.float32)),
        }
        return pa.table(columns | {f.name: nothing[f.kind] for f in schema.of(Side.CONTEXT, *nothing)})
