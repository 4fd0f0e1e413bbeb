"""What is asked: histories end before the event, nothing of the future, the published rules where there is no time."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation import queries as module
from recsys.evaluation.queries import Events, Queries, make_queries, protocol_of
from recsys.schema import Field, Kind, Schema, Side, Statistic

REFRESH = 7


def random_events(seed: int, count: int = 60) -> Events:
    """A log with many equal times and repeats, in the data set's order: by split, then by time."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(100, 160, count))
    part = np.sort(rng.integers(0, 3, count)).astype(np.int8)
    positive = rng.random(count) < 0.7
    return Events(rng.integers(0, 5, count), rng.integers(0, 12, count), times, positive, part)


def rows(events: Events) -> list[tuple[int, int, int, bool, int]]:
    return list(
        zip(
            events.users.tolist(),
            events.items.tolist(),
            events.times.tolist(),
            events.positive.tolist(),
            events.part.tolist(),
            strict=True,
        )
    )


def lists(spans: module.Spans) -> list[list[int]]:
    offsets, values = spans.block(0, len(spans))
    return [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    split=st.sampled_from(["validation", "test"]),
    exclude=st.sampled_from(["none", "training", "before_event"]),
    lag=st.sampled_from([0, 1, 5, 30]),
)
def test_by_event_is_the_plain_definition(seed: int, split: str, exclude: str, lag: int) -> None:
    events = random_events(seed)
    part = ("train", "validation", "test").index(split)
    expected = []
    inside = [row for row in rows(events) if row[4] == part]
    left_out = 0
    for place, (user, item, time, positive, _) in enumerate(inside):
        if not positive:
            continue
        own = [row for row in rows(events) if row[0] == user and row[3] and row[4] <= part]
        history = sorted(i for _, i, t, _, _ in own if t <= time - lag and t < time)
        seen = {"none": None, "training": {i for _, i, _, _, p in own if p < part}}.get(
            exclude, {i for _, i, t, _, _ in own if t < time}
        )
        if seen is not None and item in seen:
            left_out += 1
            continue
        expected.append((user, item, time, time // REFRESH * REFRESH, place, history, seen))
    got = module._by_event(events, split, exclude, lag, REFRESH)
    assert got.left_out == left_out
    assert [(q[0], q[2], q[3], q[4]) for q in expected] == list(
        zip(got.users.tolist(), got.times.tolist(), got.known_at.tolist(), got.rows.tolist(), strict=True)
    )
    assert [[q[1]] for q in expected] == lists(got.targets)
    assert [q[5] for q in expected] == [sorted(row) for row in lists(got.history)]
    if exclude == "none":
        assert got.seen is None
    else:
        assert got.seen is not None
        assert [q[6] for q in expected] == [set(row) for row in lists(got.seen)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), exclude=st.sampled_from(["none", "training"]))
def test_by_user_is_the_plain_definition(seed: int, exclude: str) -> None:
    events = random_events(seed)
    earlier: dict[int, set[int]] = {u: set() for u in range(5)}
    wanted: dict[int, set[int]] = {u: set() for u in range(5)}
    for user, item, _, positive, part in rows(events):
        if positive:
            (earlier if part < 2 else wanted)[user].add(item)
    if exclude == "training":
        wanted = {user: items - earlier[user] for user, items in wanted.items()}
    asked = [user for user in range(5) if wanted[user]]
    got = module._by_user(events, "test", exclude)
    assert got.users.tolist() == asked
    assert [set(row) for row in lists(got.targets)] == [wanted[user] for user in asked]
    assert all(len(set(row)) == len(row) for row in lists(got.targets))
    assert [set(row) for row in lists(got.history)] == [earlier[user] for user in asked]
    test_rows = [row for row in rows(events) if row[4] == 2]
    assert all(test_rows[row][0] == user for row, user in zip(got.rows.tolist(), asked, strict=True))
    assert (got.seen is None) == (exclude == "none")


def test_a_future_event_changes_no_query_before_it() -> None:
    events = random_events(3)
    whole = module._by_event(events, "test", "before_event", 0, REFRESH)
    cut = int(events.times[-10])
    before = events.where(events.times < cut)
    part = module._by_event(before, "test", "before_event", 0, REFRESH)
    early = np.flatnonzero(whole.times < cut)
    assert len(early) == len(part) > 0
    assert lists(whole.history.take(early)) == lists(part.history)
    assert whole.seen is not None and part.seen is not None
    assert lists(whole.seen.take(early)) == lists(part.seen)


@pytest.fixture
def dataset(tiny_dataset: Path) -> DatasetFolder:
    return DatasetFolder.open(tiny_dataset)


def test_histories_hold_what_the_data_sets_own_sequence_column_holds(dataset: DatasetFolder) -> None:
    """Ingestion and evaluation must agree on what was known, or the model and the baselines get other histories."""
    queries = make_queries(dataset, EvaluateConfig(), "test", lag_ms=0)
    column = dataset.events("test", ("history",))["history"].to_pylist()
    length = dataset.schema.field("history").length
    assert length is not None
    for row, history in zip(queries.rows.tolist(), lists(queries.history), strict=True):
        assert [item + 3 for item in history][-length:] == column[row]


def test_thinning_keeps_evenly_spaced_queries(dataset: DatasetFolder) -> None:
    queries = make_queries(dataset, EvaluateConfig(), "test", lag_ms=0)
    few = queries.thinned(5)
    assert len(few) == 5 and few.rows[0] == queries.rows[0] and few.rows[-1] == queries.rows[-1]
    assert lists(few.targets)[0] == lists(queries.targets)[0]
    assert isinstance(few, Queries) and queries.thinned(None) is queries


def test_auto_is_resolved_by_what_the_data_has(dataset: DatasetFolder) -> None:
    assert protocol_of(dataset, EvaluateConfig()) == ("event", "before_event", "all")
    by_user = EvaluateConfig(protocol="user")
    assert protocol_of(dataset, by_user) == ("user", "training", "all")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"protocol": "user", "exclude_seen": "before_event"}, "exclude_seen"),
        ({"protocol": "user", "candidates": "available"}, "candidates"),
    ],
)
def test_settings_that_contradict_each_other_are_named(dataset: DatasetFolder, settings: dict, named: str) -> None:
    with pytest.raises(UserError, match=f"evaluate.{named}"):
        protocol_of(dataset, EvaluateConfig(**settings))


def test_values_of_a_time_need_queries_at_a_time() -> None:
    """Whatever the candidates: by user, items would be as of no time at all."""
    age = Field(name="age", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.AGE)
    dataset = SimpleNamespace(schema=Schema(fields=(age,), has_time=True))
    assert protocol_of(dataset, EvaluateConfig())[2] == "available"
    for candidates in ("auto", "all"):
        with pytest.raises(UserError, match=r"evaluate\.protocol: 'user'.*'age'"):
            protocol_of(dataset, EvaluateConfig(protocol="user", candidates=candidates))
