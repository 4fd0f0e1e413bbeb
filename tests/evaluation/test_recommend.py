"""Masks while recommending, and item vectors that follow time without looking ahead."""

from dataclasses import dataclass, field

import numpy as np

from recsys.encoding.point_in_time import PointInTime
from recsys.evaluation.queries import Events, Queries, Spans
from recsys.evaluation.recommend import Catalogue, recommend
from recsys.evaluation.two_tower import ItemRefresh, TwoTower
from recsys.schema import Field, Kind, Schema, Side, Statistic

MINUTE = 60_000


def spans(rows: list[list[int]]) -> Spans:
    sizes = np.array([len(row) for row in rows])
    stop = np.cumsum(sizes)
    return Spans(np.array([i for row in rows for i in row], np.int64), stop - sizes, stop)


def asked(times: list[int], seen: list[list[int]] | None = None) -> Queries:
    moments = np.array(times, np.int64)
    none = spans([[] for _ in times])
    return Queries(
        "test",
        "event",
        np.zeros(len(times), np.int64),
        moments,
        moments // 10 * 10,
        np.arange(len(times)),
        none,
        None if seen is None else spans(seen),
        none,
    )


@dataclass
class Rising:
    """Later columns score higher; remembers when it was brought up to date."""

    columns: int
    dynamic: bool = True
    moments: list[int] = field(default_factory=list)

    def advance(self, time: int) -> None:
        self.moments.append(time)

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        assert len(set(queries.known_at[first:last].tolist())) == 1 or not self.dynamic
        return np.tile(np.arange(self.columns, dtype=np.float32), (last - first, 1))


def test_seen_columns_are_left_out_by_query() -> None:
    found = recommend(Rising(5), asked([1, 2], seen=[[4, 3], []]), Catalogue(np.ones(5), None), 2)
    assert found.tolist() == [[2, 1], [4, 3]]


def test_only_items_that_had_appeared_when_last_refreshed_are_candidates() -> None:
    catalogue = Catalogue(np.ones(4), np.array([0, 10, 15, 30]))
    found = recommend(Rising(4), asked([9, 19, 20, 35]), catalogue, 4)
    assert found.tolist() == [[0, -1, -1, -1], [1, 0, -1, -1], [2, 1, 0, -1], [3, 2, 1, 0]]


def test_a_dynamic_model_is_brought_up_to_date_once_a_slice_and_never_past_the_query() -> None:
    model = Rising(3)
    done = []
    queries = asked([3, 5, 12, 19, 40])
    recommend(model, queries, Catalogue(np.ones(3), None), 1, advanced=done.append)
    assert model.moments == [0, 10, 40] and sum(done) == 5
    assert (queries.known_at <= queries.times).all()


SCHEMA = Schema(
    fields=(
        Field(
            name="clicks", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLICKS, window_ms=60 * MINUTE
        ),
    )
)


class Echo:
    """An item tower whose vector is (clicks, item id): what went in comes out."""

    inputs = ("item", "clicks")

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return np.column_stack([arrays["clicks"], arrays["item"]]).astype(np.float32)


def refresh(events: Events, lag: int = 0) -> TwoTower:
    available = np.array([0, 0, 20 * MINUTE])
    items = ItemRefresh(Echo(), {"item": np.arange(3) + 3}, PointInTime(SCHEMA, lag), events, available)
    return TwoTower(np.ones((1, 2), np.float32), np.zeros((3, 2), np.float32), items)


def log(*rows: tuple[int, int]) -> Events:
    """Clicks as (item column, minute), in time order."""
    items, minutes = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), bool)
    return Events(np.zeros(len(rows), np.int64), items, minutes * MINUTE, ones, ones.astype(np.int8))


def test_item_vectors_know_the_log_up_to_the_moment_and_no_further() -> None:
    events = log((0, 1), (0, 5), (1, 10), (1, 11), (0, 90))
    model = refresh(events)
    assert model.dynamic
    model.advance(10 * MINUTE)
    np.testing.assert_array_equal(model.item_vectors, [[2, 3], [0, 4], [0, 0]])
    model.advance(30 * MINUTE)
    np.testing.assert_array_equal(model.item_vectors, [[2, 3], [2, 4], [0, 5]])
    model.advance(66 * MINUTE)
    np.testing.assert_array_equal(model.item_vectors[:, 0], [0, 2, 0])
    # Another future is another log, but not another vector.
    other = refresh(log((0, 1), (0, 5), (2, 12), (2, 13)))
    other.advance(10 * MINUTE)
    np.testing.assert_array_equal(other.item_vectors, [[2, 3], [0, 4], [0, 0]])


def test_item_vectors_respect_the_lag() -> None:
    model = refresh(log((0, 1), (0, 5)), lag=6 * MINUTE)
    model.advance(10 * MINUTE)
    np.testing.assert_array_equal(model.item_vectors[:, 0], [1, 0, 0])
