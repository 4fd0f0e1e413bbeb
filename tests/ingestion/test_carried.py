"""What an extended data set carries over: its log and the new one give what both give when they are read at once."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.datasets.source import RawSource
from recsys.encoding.carried import Positives
from recsys.encoding.point_in_time import point_in_time_of
from recsys.ingestion.carried import visible
from recsys.ingestion.job import ingest
from recsys.schema import SPLITS, Field, Kind, Schema, Side, Statistic
from recsys.scoring.history import Histories, write_histories
from tests.ingestion.tables import START, memory_table, random_source

CLICKS = {"side": Side.ITEM, "kind": Kind.POINT_IN_TIME, "statistic": Statistic.CLICKS}
SCHEMA = Schema(
    fields=(
        Field(name="device", side=Side.CONTEXT, kind=Kind.CATEGORICAL),
        Field(name="history", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=4),
        Field(name="last", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=1),
        Field(name="age", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic=Statistic.AGE),
        Field(name="clicks_5", window_ms=5_000, **CLICKS),
        Field(name="clicks_20", window_ms=20_000, **CLICKS),
    )
)


def log(seed: int, rows: int = 160) -> pa.Table:
    """Events in time order with ties, within a minute; few users come back, some only late."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, 120, rows)) * 500
    users = random.integers(0, 4 + 8 * times // 60_000)
    return pa.table(
        {
            "user": [f"u{user}" for user in users],
            "item": [f"i{item}" for item in random.integers(0, 3 + 6 * times // 60_000)],
            "time": [str(START + time) for time in times],
            "label": [str(label) for label in (random.random(rows) < 0.6).astype(int)],
            "device": [["phone", "desk"][number] for number in random.integers(0, 2, rows)],
        }
    )


def made(
    folder: Path, name: str, events: pa.Table, extend: DatasetFolder | None = None, **settings: Any
) -> DatasetFolder:
    """The data set of a log, in small pieces."""
    (folder / name).mkdir()
    source = RawSource("shop", SCHEMA, memory_table(folder / name, "events", [events]))
    config = {
        "split": {"validation": 0.0, "test": 0.2},
        "batch_rows": 11,
        "shard_rows": 25,
        "file_rows": 40,
        **settings,
    }
    config |= {} if extend is None else {"extend": extend.path}
    return ingest(source, IngestConfig.model_validate(config), folder / name / "dataset", quiet=True)


def known(dataset: DatasetFolder) -> dict[tuple, dict[str, Any]]:
    """What each event knows, by raw user, raw item and time."""
    users, items = dataset.vocabulary("user"), dataset.vocabulary("item")
    found = {}
    for split in SPLITS:
        rows = dataset.events(split).to_pylist() if dataset.event_files(split) else []
        for row in rows:
            key = users.decode([row["user"]])[0].as_py(), items.decode([row["item"]])[0].as_py(), row["time"]
            texts = {name: items.decode(row[name]).to_pylist() for name in ("history", "last")}
            found[key] = texts | {name: row[name] for name in ("label", "age", "clicks_5", "clicks_20")}
    return found


def served(dataset: DatasetFolder, folder: Path) -> dict[str, tuple[list, list, list]]:
    """By raw user: the history and the last item that serving starts from, and all that he chose."""
    write_histories(dataset, folder)
    seen, items = Histories.open(folder), dataset.vocabulary("item")
    return {
        row["raw"]: tuple(items.decode(ids).to_pylist() for ids in (row["history"], row["last"], seen.of(row["user"])))
        for row in dataset.users.to_pylist()
    }


@pytest.mark.parametrize(
    ("seed", "settings", "overlap"),
    [(1, {"lag_ms": 0}, 0), (2, {"lag_ms": 2_500, "refresh_ms": 3_000}, 30), (4, {}, 100)],
)
def test_extending_knows_what_reading_at_once_knows(tmp_path: Path, seed: int, settings: dict, overlap: int) -> None:
    events = log(seed)
    one, two = events.slice(0, 100), events.slice(100 - overlap)
    first = made(tmp_path, "first", one, **settings)
    extended = made(tmp_path, "extended", two, first, **settings)
    whole = made(tmp_path, "whole", events, **settings)
    expected, found = known(whole), known(extended)
    assert len(found) == len({tuple(row.values())[:3] for row in two.to_pylist()})
    for key, values in found.items():
        assert values == expected[key], key
    if not overlap:
        alone = made(tmp_path, "alone", two, **settings)
        assert any(known(alone)[key] != values for key, values in found.items()), "nothing was carried over"
        assert alone.manifest["split"] == extended.manifest["split"]
        assert alone.manifest["rows"] == extended.manifest["rows"]
    assert served(extended, tmp_path / "a") == served(whole, tmp_path / "b")
    counts = extended.manifest["rows"]
    assert counts["in"] == two.num_rows
    in_training = [row for row in known(extended).values() if row["label"]]
    assert sum(extended.vocabulary("user").counts) == counts["positives"]["train"] <= len(in_training)


def test_a_chain_and_the_size_of_the_pieces(tmp_path: Path) -> None:
    events = log(5)
    first = made(tmp_path, "1", events.slice(0, 60))
    second = made(tmp_path, "2", events.slice(60, 50), first)
    third = made(tmp_path, "3", events.slice(110), second)
    expected = known(made(tmp_path, "whole", events))
    assert all(values == expected[key] for key, values in known(third).items())
    other = made(tmp_path, "other", events.slice(110), second, batch_rows=1000, shard_rows=10_000)
    assert other.artifact.artifact_id == third.artifact.artifact_id


def test_counters_of_the_growing_state_start_where_the_written_ones_do(tmp_path: Path) -> None:
    events = log(6)
    extended = made(tmp_path, "extended", events.slice(80), made(tmp_path, "first", events.slice(0, 100)))
    state = point_in_time_of(extended)
    rows = pa.concat_tables([extended.events(split) for split in SPLITS if extended.event_files(split)])
    times = rows["time"].to_numpy()
    for time in np.unique(times):
        here = rows.filter(pa.array(times == time))
        for name, values in state.features(here["item"].to_numpy(), int(time)).items():
            assert values.tolist() == here[name].to_pylist(), (name, time)
        state.update(*(here[name].to_numpy() for name in ("user", "item", "time")), here["label"].to_numpy() > 0)


@pytest.mark.parametrize("split", [{"kind": "leave_last_out"}, {"kind": "given"}])
def test_every_kind_of_field_can_be_extended(tmp_path: Path, split: dict) -> None:
    """With clusters, whose numbers are learned anew: the earlier ones are shown as missing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    has_time = split["kind"] != "given"
    sources = [random_source(tmp_path / n, 4, has_time=has_time, given=not has_time) for n in ("a", "b")]
    events = sources[1].events.tables[1]  # type: ignore[attr-defined]
    later = dataclasses.replace(sources[1], events=memory_table(tmp_path / "b", "later", [events]))
    config = {"split": split, "batch_rows": 11, "shard_rows": 25}
    first = ingest(sources[0], IngestConfig.model_validate(config), tmp_path / "first", quiet=True)
    settings = IngestConfig.model_validate({**config, "extend": first.path})
    extended = ingest(later, settings, tmp_path / "second", quiet=True)
    rows = extended.manifest["rows"]
    assert rows["in"] == events.num_rows == rows["accepted"] + rows["rejected"]
    if has_time:
        alone = ingest(later, IngestConfig.model_validate(config), tmp_path / "alone", quiet=True)
        assert clusters(alone) == clusters(extended), "clusters are those of the new log alone"


def clusters(dataset: DatasetFolder) -> list[tuple]:
    """The cluster of each event's item, by raw user, raw item and time."""
    table = pa.concat_tables([dataset.events(split) for split in SPLITS])
    raw = [dataset.vocabulary(name).decode(table[name].to_numpy()).to_pylist() for name in ("user", "item")]
    return sorted(zip(*raw, table["time"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def test_what_is_visible() -> None:
    users = np.repeat(np.array([3, 4, 5]), [4, 3, 2])
    times = np.array([10, 20, 30, 40, 5, 25, 35, 1, 2])
    positives = Positives(users, users, times)
    shown = defaultdict(list)
    active = np.zeros(6, bool)
    active[3] = True
    for user, time in zip(users, times, strict=True):
        shown[int(user)].append(int(time))
    chosen = visible(positives, active, 30, 2, None)
    assert times[chosen].tolist() == [20, 30, 40], "two at 30 or before, and what is later"
    chosen = visible(positives, active, 45, 1, 11)
    assert times[chosen].tolist() == [40, 35], "clicks after 34, with the last one of their users"
    assert not visible(positives, np.zeros(6, bool), 45, 9, None).any()
