"""The state that stream and serving keep against what ingestion wrote, value by value."""

import numpy as np
import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.encoding.point_in_time import PointInTime, point_in_time_of
from recsys.ingestion.job import ingest
from recsys.schema import MISSING_ID, Field, Kind, Schema, Side, Statistic
from tests.ingestion.tables import random_source

FIELDS = ("age_hours", "clicks_5", "clicks_60", "cluster")


@pytest.fixture(scope="module", params=[0, 7_000], ids=["per event", "refreshed"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    """A small data set with every point-in-time field."""
    folder = tmp_path_factory.mktemp("point-in-time")
    config = IngestConfig.model_validate({"refresh_ms": request.param, "lag_ms": 2_000})
    return ingest(random_source(folder, seed=9, rows=300), config, folder / "dataset", quiet=True)


def all_events(dataset: DatasetFolder) -> dict[str, np.ndarray]:
    """Columns of all parts in time order."""
    names = ("user", "item", "time", "label", *FIELDS)
    parts = [dataset.events(split, names) for split in ("train", "validation", "test")]
    return {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in names}


@pytest.mark.parametrize("polls", [1, 7, 100])
def test_replay_equals_ingestion(dataset: DatasetFolder, polls: int) -> None:
    """Events come a poll at a time; each row's features are asked for before its own poll is taken in, as serving
    does, and are what ingestion wrote wherever the poll holds nothing that the lag already shows."""
    events = all_events(dataset)
    state = point_in_time_of(dataset)
    if polls == 1:
        state.update(events["user"], events["item"], events["time"], events["label"] > 0)
        found = state.features(events["item"], events["time"])
        for name in FIELDS:
            np.testing.assert_array_equal(found[name], events[name], err_msg=name)
        return
    compared = 0
    for rows in np.array_split(np.arange(len(events["time"])), polls):
        times = events["time"][rows]
        settled = times - 2_000 < times.min()  # nothing of this poll is visible yet
        found = state.features(events["item"][rows], times)
        for name in FIELDS:
            np.testing.assert_array_equal(found[name][settled], events[name][rows][settled], err_msg=name)
        compared += int(settled.sum())
        state.update(events["user"][rows], events["item"][rows], times, events["label"][rows] > 0)
        state.forget(int(times.max()))
    assert compared > len(events["time"]) / 4


def test_clusters_are_learned_and_seen(dataset: DatasetFolder) -> None:
    assert len(np.unique(all_events(dataset)["cluster"])) > 2


def clicks_schema(window_ms: int) -> Schema:
    """One field."""
    field = Field(
        name="clicks", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLICKS, window_ms=window_ms
    )
    return Schema(fields=(field,))


def test_lag_and_window_have_exact_edges() -> None:
    state = PointInTime(clicks_schema(10_000), lag_ms=1_000)
    state.update(np.array([1]), np.array([5]), np.array([100_000]))
    asked = np.array([100_999, 101_000, 110_999, 111_000])
    assert state.features(np.full(4, 5), asked)["clicks"].tolist() == [0, 1, 1, 0]


def test_an_event_never_sees_its_own_instant() -> None:
    state = PointInTime(clicks_schema(10_000), lag_ms=0)
    state.update(np.array([1]), np.array([5]), np.array([100_000]))
    assert state.features(np.array([5, 5]), np.array([100_000, 100_001]))["clicks"].tolist() == [0, 1]


def test_unknown_items_are_new_and_without_cluster() -> None:
    fields = (
        Field(name="age", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.AGE),
        Field(name="cluster", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.CLUSTER, clusters=2),
    )
    state = PointInTime(Schema(fields=fields), lag_ms=0)
    found = state.features(np.array([3, 99]), 10**12)
    assert found["age"].tolist() == [0, 0]
    assert found["cluster"].tolist() == [MISSING_ID, MISSING_ID]
