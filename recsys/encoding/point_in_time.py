"""Point-in-time features: what was known about an item at a moment, less the lag.

`PointInTime` is the state that stream, serving and evaluation keep; ingestion computes the same values for all rows of
a shard at once, with the same functions, and a test compares the two value by value.
"""

import numpy as np

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.arrays import GroupedTimes, is_sorted, lexicographic_order
from recsys.encoding.carried import CARRIED, carried_positives
from recsys.encoding.clusters import CoClickClusters, co_clicks
from recsys.encoding.histories import effective_lag
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Statistic

UNKNOWN_TIME = -1
CLUSTERS_FILE = "clusters.npy"
"""In a data set: base cluster of each item id, `[item ids] int32`, NO_CLUSTER where training had no co-click."""
MS_PER_HOUR = 3_600_000
CLUSTER_REFRESH_MS = 60_000
"""How often clusters move where the field's `window_ms` says nothing."""
MIN_VOTES = 2
"""Co-clicks after which an item's cluster is believed."""


def as_of(times: np.ndarray, lag_ms: int, refresh_ms: int = 0) -> np.ndarray:
    """The moment whose features an event at `times` (`[n] int64` ms) sees: the last refresh, less the lag."""
    if refresh_ms:
        times = times // refresh_ms * refresh_ms
    return times - effective_lag(lag_ms)


def age_hours(moments: np.ndarray, since: np.ndarray) -> np.ndarray:
    """Hours from `since` to `moments` (`[n] int64` ms) as float32; 0 before it and where it is UNKNOWN_TIME."""
    age = np.where(since == UNKNOWN_TIME, 0, np.maximum(moments - since, 0))
    return (age / MS_PER_HOUR).astype(np.float32)


def clicks_in_window(
    clicks: GroupedTimes, groups: np.ndarray, moments: np.ndarray, until: np.ndarray, window_ms: int
) -> np.ndarray:
    """Clicks of each group in (moment - window, moment] as float32; `until` is `clicks.up_to(groups, moments)`."""
    return (until - clicks.up_to(groups, moments - window_ms)).astype(np.float32)


class PointInTime:
    """State of all items' point-in-time features under a growing log.

    `available_from` `[ids] int64`: since when an item is known to exist (ms), UNKNOWN_TIME where only events can tell.
    `base_clusters` `[ids] int32`: as `recsys.encoding.clusters.base_clusters`, by item id; needed for cluster fields.
    `clicks`: items `[c]` and times `[c] int64` (ms, rising) of clicks that no update will bring: those of a data set
    that this one extends. Counters know them, clusters do not.
    Ids may be any non-negative numbers, as long as all calls use the same.
    """

    def __init__(
        self,
        schema: Schema,
        lag_ms: int,
        refresh_ms: int = 0,
        available_from: np.ndarray | None = None,
        base_clusters: np.ndarray | None = None,
        clicks: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self._fields: tuple[Field, ...] = tuple(f for f in schema.fields if f.kind is Kind.POINT_IN_TIME)
        self._lag, self._refresh = lag_ms, refresh_ms
        self._since = np.zeros(0, np.int64) if available_from is None else available_from.astype(np.int64).copy()
        self._horizon = max((f.window_ms or 0 for f in self._fields if f.statistic is Statistic.CLICKS), default=0)
        self._items = np.zeros(0, np.int64) if clicks is None else clicks[0]
        self._times = np.zeros(0, np.int64) if clicks is None else clicks[1]
        self._last_item = np.full(0, -1, np.int64)
        self.clusters: CoClickClusters | None = None
        for field in self._fields:
            if field.statistic is Statistic.CLUSTER:
                base = np.zeros(0, np.int32) if base_clusters is None else base_clusters
                self.clusters = cluster_state(field, base)

    def update(self, user: np.ndarray, item: np.ndarray, time: np.ndarray, positive: np.ndarray | None = None) -> None:
        """Take in events (`[n]` ids, ids, ms) in time order, not before any taken in so far.

        Without `positive` `[n] bool` all are positive; others only make an item known.
        """
        user, item, time = (np.asarray(values).astype(np.int64) for values in (user, item, time))
        self._mark_first(item, time)
        if positive is not None:
            user, item, time = user[positive], item[positive], time[positive]
        late = len(time) and len(self._times) and time[0] < self._times[-1]
        self._items = np.concatenate([self._items, item])
        self._times = np.concatenate([self._times, time])
        if late:  # clicks of an extended data set that the log overlaps
            order = lexicographic_order(self._times)
            self._items, self._times = self._items[order], self._times[order]
        if self.clusters is not None and len(user):
            self.clusters.update(*self._pairs(user, item, time))

    def forget(self, before: int) -> None:
        """Drop clicks that no question about `before` (ms) or later can need."""
        kept = np.searchsorted(self._times, self._moment(before) - self._horizon, side="right")
        self._items, self._times = self._items[kept:], self._times[kept:]

    def features(self, items: np.ndarray, time: int | np.ndarray) -> dict[str, np.ndarray]:
        """Each field of `[m]` items as an event at `time` sees it (ms, one or `[m]`): float32, clusters int32."""
        items = np.asarray(items).astype(np.int64)
        moments = np.broadcast_to(self._moment(time), items.shape)
        values: dict[str, np.ndarray] = {}
        clicks: GroupedTimes | None = None
        until = moments
        for field in self._fields:
            if field.statistic is Statistic.AGE:
                values[field.name] = age_hours(moments, self._since_of(items))
            elif field.statistic is Statistic.CLICKS:
                if clicks is None:
                    clicks = self._grouped(moments)
                    until = clicks.up_to(items, moments)
                values[field.name] = clicks_in_window(clicks, items, moments, until, field.window_ms or 0)
            elif self.clusters is not None:
                values[field.name] = self.clusters.at(items, moments)
        return values

    def _moment(self, time: int | np.ndarray) -> np.ndarray:
        return as_of(np.asarray(time, np.int64), self._lag, self._refresh)

    def _grouped(self, moments: np.ndarray) -> GroupedTimes:
        """The clicks that any of the questions can count, by item."""
        low = int(moments.min(initial=np.iinfo(np.int64).max)) - self._horizon
        start = np.searchsorted(self._times, low, side="right")
        stop = np.searchsorted(self._times, int(moments.max(initial=0)), side="right")
        items, times = self._items[start:stop], self._times[start:stop]
        order = lexicographic_order(items) if is_sorted(times) else lexicographic_order(items, times)
        return GroupedTimes(items[order], times[order])

    def _mark_first(self, item: np.ndarray, time: np.ndarray) -> None:
        if len(item) and int(item.max()) >= len(self._since):
            extra = int(item.max()) + 1 - len(self._since)
            self._since = np.append(self._since, np.full(max(extra, len(self._since) // 2), UNKNOWN_TIME))
        seen, place = np.unique(item, return_index=True)
        unknown = self._since[seen] == UNKNOWN_TIME
        self._since[seen[unknown]] = time[place[unknown]]

    def _since_of(self, items: np.ndarray) -> np.ndarray:
        known = items < len(self._since)
        since = np.full(len(items), UNKNOWN_TIME, np.int64)
        since[known] = self._since[items[known]]
        return since

    def _pairs(self, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Co-clicks that these events complete, in time order; remembers each user's last item."""
        if int(user.max()) >= len(self._last_item):
            extra = int(user.max()) + 1 - len(self._last_item)
            self._last_item = np.append(self._last_item, np.full(max(extra, len(self._last_item) // 2), -1))
        distinct = np.unique(user)
        distinct = distinct[self._last_item[distinct] >= 0]
        before = np.full(len(distinct), np.iinfo(np.int64).min)
        users, items = np.concatenate([distinct, user]), np.concatenate([self._last_item[distinct], item])
        times = np.concatenate([before, time])
        order = lexicographic_order(users)
        users, items, times = users[order], items[order], times[order]
        ends = np.append(users[1:] != users[:-1], True)
        self._last_item[users[ends]] = items[ends]
        first, second, when = co_clicks(users, items, times)
        order = lexicographic_order(when)
        return first[order], second[order], when[order]


def cluster_state(field: Field, base: np.ndarray) -> CoClickClusters:
    """The growing state of a cluster field."""
    return CoClickClusters(base, field.clusters or 1, field.window_ms or CLUSTER_REFRESH_MS, MIN_VOTES)


def point_in_time_of(dataset: DatasetFolder) -> PointInTime:
    """The state of a data set's items before any event: what ingestion started from, ids as in the data set.

    Raises UserError where the schema has a cluster field and the folder lacks CLUSTERS_FILE.
    """
    schema, settings = dataset.schema, dataset.manifest.get("settings", {})
    special = np.full(FIRST_VALUE_ID, UNKNOWN_TIME, np.int64)
    available = np.concatenate([special, dataset.items["available_from"].to_numpy()])
    available[available == 0] = UNKNOWN_TIME
    base = None
    if any(field.statistic is Statistic.CLUSTER for field in schema.fields):
        path = dataset.path / CLUSTERS_FILE
        if not path.is_file():
            raise UserError(f"{path}: missing, but the schema has a cluster field; make the data set again.")
        base = np.load(path)
    return PointInTime(
        schema,
        int(settings.get("lag_ms", 0)),
        int(settings.get("refresh_ms", 0)),
        available_from=available,
        base_clusters=base,
        clicks=_carried_clicks(dataset),
    )


def _carried_clicks(dataset: DatasetFolder) -> tuple[np.ndarray, np.ndarray] | None:
    if not (dataset.path / CARRIED).is_dir():
        return None
    positives = carried_positives(dataset)
    order = lexicographic_order(positives.times)
    return positives.items[order].astype(np.int64), positives.times[order]
