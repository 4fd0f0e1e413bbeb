"""What is asked of every model: users at moments, with what they did before, what they must not get, what they chose.

Columns are positions in the catalogue (item id - 3) and users are rows of the users table (user id - 3) throughout.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.encoding.arrays import GroupedTimes, lexicographic_order
from recsys.encoding.histories import effective_lag
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, ITEM, LABEL, SPLITS, TIME, USER, Kind, Side

MS_A_MINUTE = 60_000
DEFAULT_REFRESH_MS = 60 * MS_A_MINUTE


@dataclass(frozen=True, eq=False)
class Spans:
    """A ragged array that shares its values: row r is `values[start[r] : stop[r]]`."""

    values: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def block(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `first:last` as offsets int64 `[last - first + 1]` and flat values."""
        starts = self.start[first:last]
        sizes = self.stop[first:last] - starts
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return offsets, self.values[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)]

    def take(self, rows: np.ndarray) -> "Spans":
        """Some rows."""
        return Spans(self.values, self.start[rows], self.stop[rows])

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, eq=False)
class Events:
    """Events of several splits as arrays: `users` and `items` are rows and columns, `part` the split's number."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    positive: np.ndarray
    part: np.ndarray

    @classmethod
    def read(cls, dataset: DatasetFolder, splits: tuple[str, ...] = SPLITS) -> "Events":
        """All events of the given splits, in the data set's order."""
        tables = []
        for number, split in enumerate(SPLITS):
            if split in splits and dataset.event_files(split):
                table = dataset.events(split, (USER, ITEM, TIME, LABEL))
                tables.append(table.append_column("part", pa.array(np.full(len(table), number, np.int8))))
        if not tables:
            raise UserError(f"{dataset.path}: the data set has no {' or '.join(splits)} events; check ingest.split.")
        table = pa.concat_tables(tables)
        return cls(
            table[USER].to_numpy().astype(np.int64) - FIRST_VALUE_ID,
            table[ITEM].to_numpy().astype(np.int64) - FIRST_VALUE_ID,
            table[TIME].to_numpy(),
            table[LABEL].to_numpy() == 1,
            table["part"].to_numpy(),
        )

    def where(self, mask: np.ndarray) -> "Events":
        """The events of a `[n] bool` mask."""
        return self._in(np.flatnonzero(mask))

    def ordered(self) -> "Events":
        """The same events by user and time, equal ones in their old order."""
        return self._in(lexicographic_order(self.users, self.times))

    def by_time(self) -> "Events":
        """The same events by time, equal ones in their old order."""
        return self._in(np.argsort(self.times, kind="stable"))

    def _in(self, order: np.ndarray) -> "Events":
        return Events(self.users[order], self.items[order], self.times[order], self.positive[order], self.part[order])


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries in time order.

    `users` `[n] int64`; `times` and `known_at` `[n] int64` ms: when it is asked, and until when a model may have been
    brought up to date; `rows` `[n] int64`: the split's event row that holds the tower's inputs; `history`: positives
    to answer from; `seen`: columns never to recommend; `targets`: columns to find; `left_out` counts positives that are
    no query because the user already had the item.
    """

    split: str
    protocol: str
    users: np.ndarray
    times: np.ndarray
    known_at: np.ndarray
    rows: np.ndarray
    history: Spans
    seen: Spans | None
    targets: Spans
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: np.ndarray) -> "Queries":
        """Some of the queries."""
        return replace(
            self,
            users=self.users[rows],
            times=self.times[rows],
            known_at=self.known_at[rows],
            rows=self.rows[rows],
            history=self.history.take(rows),
            seen=None if self.seen is None else self.seen.take(rows),
            targets=self.targets.take(rows),
        )

    def thinned(self, limit: int | None) -> "Queries":
        """At most `limit` of them, evenly spaced."""
        if limit is None or len(self) <= limit:
            return self
        return self.take(np.linspace(0, len(self) - 1, limit).astype(np.int64))


def protocol_of(dataset: DatasetFolder, config: EvaluateConfig) -> tuple[str, str, str]:
    """The protocol, the rule of exclusion and the candidates after `auto` is resolved."""
    protocol = config.protocol
    if protocol == "auto":
        protocol = "event" if dataset.schema.has_time else "user"
    if protocol == "event" and not dataset.schema.has_time:
        raise UserError("evaluate.protocol: 'event' needs times, but the data set has none; use 'user' or 'auto'.")
    exclude = config.exclude_seen
    if exclude == "auto":
        exclude = "before_event" if protocol == "event" else "training"
    if exclude == "before_event" and protocol == "user":
        raise UserError("evaluate.exclude_seen: 'before_event' needs protocol 'event'; use 'training' or 'none'.")
    moving = dataset.schema.of(Side.ITEM, Kind.POINT_IN_TIME)
    if moving and protocol == "user":
        raise UserError(
            f"evaluate.protocol: 'user' asks at no time, but items have '{moving[0].name}', a value as of a time; use "
            "'event', or 'auto'."
        )
    candidates = config.candidates
    if candidates == "auto":
        candidates = "available" if moving else "all"
    if candidates == "available" and protocol == "user":
        raise UserError("evaluate.candidates: 'available' needs protocol 'event'; use 'all'.")
    return protocol, exclude, candidates


def lag_of(dataset: DatasetFolder) -> int:
    """How old an event must be, in ms, before anyone may know of it: what the data set was made with."""
    return int(dataset.manifest.get("settings", {}).get("lag_ms", 0))


def refresh_ms(dataset: DatasetFolder, config: EvaluateConfig) -> int:
    """The resolved `refresh_minutes`, in ms."""
    if config.refresh_minutes is not None:
        return max(1, int(config.refresh_minutes * MS_A_MINUTE))
    return int(dataset.manifest.get("settings", {}).get("refresh_ms") or DEFAULT_REFRESH_MS)


def make_queries(dataset: DatasetFolder, config: EvaluateConfig, split: str, *, lag_ms: int) -> Queries:
    """The queries of a split under the configured protocol, thinned to `max_queries`.

    Raises UserError where the split has no positive event.
    """
    protocol, exclude, _ = protocol_of(dataset, config)
    events = Events.read(dataset)
    if not (events.positive & (events.part == SPLITS.index(split))).any():
        raise UserError(f"{dataset.path}: the {split} part has no positive events; check ingest.split.")
    if protocol == "event":
        queries = _by_event(events, split, exclude, lag_ms, refresh_ms(dataset, config))
    else:
        queries = _by_user(events, split, exclude)
    if len(queries) == 0:
        raise UserError(
            f"{dataset.path}: every {split} positive is of an item that its user had before; "
            "set evaluate.exclude_seen: none."
        )
    return queries.thinned(config.max_queries)


def _by_event(events: Events, split: str, exclude: str, lag_ms: int, refresh: int) -> Queries:
    part = SPLITS.index(split)
    inside = events.part == part
    rows = np.flatnonzero(events.positive[inside])
    asked = events.where(inside).where(events.positive[inside])
    earlier = events.where(events.part <= part).ordered()
    earlier = earlier.where(earlier.positive)
    # A model may know what happened at or before time - lag; and before the event itself in any case.
    history = _before(earlier, asked.users, asked.times - effective_lag(lag_ms))
    seen = None
    if exclude == "before_event":
        seen = _before(earlier, asked.users, asked.times - 1)
    elif exclude == "training":
        trained = earlier.where(earlier.part < part)
        seen = _before(trained, asked.users, asked.times)
    count = len(rows)
    targets = Spans(asked.items, np.arange(count), np.arange(count) + 1)
    known_at = asked.times // refresh * refresh
    queries = Queries(split, "event", asked.users, asked.times, known_at, rows, history, seen, targets)
    if seen is None:
        return queries
    fresh = ~_already_seen(seen, asked.items)
    return replace(queries.take(np.flatnonzero(fresh)), left_out=int((~fresh).sum()))


def _before(ordered: Events, users: np.ndarray, times: np.ndarray) -> Spans:
    """Each user's events at or before a time, from events ordered by user and time."""
    stop = GroupedTimes(ordered.users, ordered.times).up_to(users, times)
    start = np.searchsorted(ordered.users, users, side="left")
    return Spans(ordered.items, start, np.maximum(stop, start))


def _already_seen(seen: Spans, items: np.ndarray, block: int = 1 << 16) -> np.ndarray:
    """`[n] bool`: whether a query's single target is among what it must not get."""
    found = np.zeros(len(items), bool)
    for first in range(0, len(items), block):
        last = min(len(items), first + block)
        offsets, columns = seen.block(first, last)
        owners = np.repeat(np.arange(last - first), np.diff(offsets))
        hits = owners[columns == items[first:last][owners]]
        found[first + hits] = True
    return found


def _by_user(events: Events, split: str, exclude: str) -> Queries:
    """One query a user; its targets are its distinct positives in the split that it had not before."""
    part = SPLITS.index(split)
    inside = events.part == part
    width = int(events.items.max()) + 1
    rows = np.flatnonzero(events.positive[inside])
    asked = events.where(inside).where(events.positive[inside])
    pairs, first = np.unique(asked.users * width + asked.items, return_index=True)
    trained = events.where(events.positive & (events.part < part)).ordered()
    fresh = np.ones(len(pairs), bool)
    if exclude == "training":
        fresh = ~np.isin(pairs, trained.users * width + trained.items)
    left_out = int((~fresh).sum())
    pairs, first = pairs[fresh], first[fresh]
    users, start = np.unique(pairs // width, return_index=True)
    stop = np.append(start[1:], len(pairs)).astype(np.int64)
    begin = np.searchsorted(trained.users, users, side="left")
    end = np.searchsorted(trained.users, users, side="right")
    history = Spans(trained.items, begin, end)
    moment = np.zeros(len(users), np.int64)
    return Queries(
        split=split,
        protocol="user",
        users=users,
        times=moment,
        known_at=moment,
        rows=rows[first[start]] if len(users) else rows[:0],
        history=history,
        seen=history if exclude == "training" else None,
        targets=Spans(pairs % width, start.astype(np.int64), stop),
        left_out=left_out,
    )
