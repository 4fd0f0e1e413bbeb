"""What a run checks of what it wrote: lost rows, tables that are rejected whole, times in another unit, empty parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.ingestion import by_item, vocabularies
from recsys.ingestion.checks import Written, notes, refuse_unit
from recsys.ingestion.job import ingest
from recsys.schema import Field, Kind, Schema, Side
from tests.ingestion.tables import START, memory_table

PRICE = Field(name="price", side=Side.ITEM, kind=Kind.NUMERIC)
HEIGHT = Field(name="height", side=Side.USER, kind=Kind.NUMERIC)
ALL_TRAINING = {"kind": "time", "validation": 0.0, "test": 0.0}


def shop(folder: Path, prices: list[str] = ["1", "2"], times: list[int] | None = None, unit: str = "ms") -> RawSource:  # noqa: B006
    """Four events, two items, two users."""
    times = [START + 1000 * place for place in range(4)] if times is None else times
    events = pa.table({"user": list("abab"), "item": list("xxyy"), "time": [str(time) for time in times]})
    items = pa.table({"item": list("xyzw")[: len(prices)], "price": prices})
    users = pa.table({"user": ["a", "b"], "height": ["1.5", "1.6"]})
    tables = (memory_table(folder, name, [table]) for name, table in (("e", events), ("i", items), ("u", users)))
    return RawSource("shop", Schema(fields=(PRICE, HEIGHT)), *tables, time_unit=unit)


def made(source: RawSource, folder: Path, **split: Any) -> DatasetFolder:
    """The data set of a source."""
    settings = IngestConfig.model_validate({"split": {**ALL_TRAINING, **split}})
    return ingest(source, settings, folder / "dataset", quiet=True)


def dropping(function: Callable) -> Callable:
    """A stage's function that loses the first row of what it is given."""
    return lambda table, keys, rows: function(table.slice(1), keys[1:], rows)


def test_a_lost_event_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_item, "by_key", dropping(by_item.by_key))
    with pytest.raises(RuntimeError, match="events: 4 rows in, but 3 accepted and 0 rejected"):
        made(shop(tmp_path), tmp_path)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("name", ["items", "users"])
def test_a_lost_item_or_user_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = vocabularies.input_order
    column = name.removesuffix("s")
    monkeypatch.setattr(
        vocabularies, "input_order", lambda t, key: whole(t, key).slice(int(t[0].column_names[0] == column))
    )
    with pytest.raises(RuntimeError, match=f"{name}: 2 rows in, but 1 accepted and 0 rejected"):
        made(shop(tmp_path), tmp_path)


def test_a_table_that_is_rejected_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(shop(tmp_path, ["cheap", "dear"]), tmp_path)
    assert (
        f"all 2 rows of items are rejected (most: 2 rows, 'price is not a number', for example {tmp_path}/i-0.txt"
        in (str(caught.value))
    )
    assert ", row 1); expected at least one" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_rejected_by_half_is_noted(tmp_path: Path) -> None:
    (note,) = notes(made(shop(tmp_path, ["cheap", "dear", "1"]), tmp_path))
    assert note == "More than half of the rows of items are rejected; check data.items and data.fields."
    assert not notes(made(shop(tmp_path, ["cheap", "1"]), tmp_path))


@pytest.mark.parametrize(
    ("unit", "first", "expected"),
    [
        ("ns", 1_700, "in 's' they would lie from 2023 to 2023"),
        ("ms", 1_700_000_000, "in 's' they would lie from 2023 to 2023"),
        ("us", 1_700_000_000, "in 'ms' they would lie from 2023 to 2023"),
    ],
)
def test_times_in_another_unit_are_an_error(tmp_path: Path, unit: str, first: int, expected: str) -> None:
    with pytest.raises(UserError, match=f"data.time_unit: read in '{unit}', all events lie from 1970-01") as caught:
        refuse_unit(shop(tmp_path, unit=unit), Written({}, first, first + 1))
    assert expected in str(caught.value)


def test_times_that_no_unit_explains_are_noted(tmp_path: Path) -> None:
    (note,) = notes(made(shop(tmp_path, times=[0, 5, 9, 11], unit="s"), tmp_path))
    assert note == "All events lie from 1970-01-01T00:00:00Z to 1970-01-01T00:00:11Z; is data.time_unit right?"
    assert not Written({}, 4 * 10**12, 4 * 10**12).is_plausible
    for span in ((0, START), (START, 4 * 10**12), (None, None)):
        assert Written({}, *span).is_plausible
        refuse_unit(shop(tmp_path), Written({}, *span))


def test_the_whole_run_refuses_another_unit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in 's' they would lie from 2023"):
        made(shop(tmp_path, times=[1_700_000_000 + place for place in range(4)], unit="ns"), tmp_path)
    assert not (tmp_path / "dataset").exists()


def test_empty_parts_are_noted_with_their_times(tmp_path: Path) -> None:
    cuts = {"validation": "2023-11-14T22:13:22", "test": "2031-01-01"}
    (note,) = notes(made(shop(tmp_path), tmp_path, **cuts))
    assert note == (
        "The test part begins at 2031-01-01T00:00:00Z and has no events; the events lie from 2023-11-14T22:13:20Z to "
        "2023-11-14T22:13:23Z. Check ingest.split.test."
    )


def test_an_empty_training_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training part is empty; validation begins at 2020-01-01T00:00:00Z, but the"):
        made(shop(tmp_path), tmp_path, validation="2020-01-01", test="2020-02-01")
