"""What cannot be used is rejected with file, row and reason, or stops the job in one paragraph with nothing written."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.ingestion.job import ingest
from recsys.schema import Field, Kind, Schema, Side
from tests.ingestion.tables import START, full_schema, memory_table, random_source

EVENTS = {
    "user": ["a", None, "a", "a", "b", "b", "a", "c", "c"],
    "item": ["x", "x", " ", "y", "x", "y", "x", "x", "y"],
    "time": [START, START, START, "soon", START + 5, START + 9, START, 12, START + 20],
    "value": ["1", "1", "1", "1", "good", "1", "5", "1", "1"],
}
EVENTS["time"] = [str(time) for time in EVENTS["time"]]


def small_source(folder: Path, events: dict | None = None, **settings: object) -> RawSource:
    """A source of user, item, time and value."""
    schema = Schema(fields=(), has_value=True)
    table = memory_table(folder, "events", [pa.table(events or EVENTS)], batch=2)
    return RawSource("small", schema, table, **{"time_unit": "ms", **settings})  # type: ignore[arg-type]


def config(**settings: object) -> IngestConfig:
    """A split that leaves most for training."""
    return IngestConfig.model_validate({"split": {"kind": "time", "validation": 0.0, "test": 0.0}, **settings})


def test_rejected_rows_have_file_row_and_reason(tmp_path: Path) -> None:
    folder = ingest(small_source(tmp_path), config(), tmp_path / "dataset", quiet=True)
    lines = [
        json.loads(line)
        for file in sorted((folder.path / "rejected").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [(line["row"], line["reason"]) for line in lines] == [
        (2, "user is missing"),
        (3, "item is missing"),
        (4, "time is not a time between 1970 and 2109 in 'ms'"),
        (5, "value is not a number"),
        (7, "duplicate event"),
    ]
    assert all(line["file"] == str(tmp_path / "events-0.txt") for line in lines)
    assert json.loads(lines[2]["raw"])["time"] == "soon"
    rows = folder.manifest["rows"]
    assert (rows["in"], rows["accepted"], rows["rejected"]) == (9, 4, 5)


def test_repeats_are_legal_where_it_is_said(tmp_path: Path) -> None:
    folder = ingest(small_source(tmp_path), config(duplicates="keep"), tmp_path / "dataset", quiet=True)
    assert folder.manifest["rows"]["accepted"] == 5


def test_events_from_the_end_on_are_left_out(tmp_path: Path) -> None:
    split = {"kind": "time", "validation": "2023-11-14T22:13:20", "test": "2023-11-14T22:13:20"}
    ends = {"split": {**split, "end": "2023-11-14T22:13:20.009"}}
    source = small_source(tmp_path, {**EVENTS, "time": ["1000000", *EVENTS["time"][1:]]})
    rows = ingest(source, IngestConfig.model_validate(ends), tmp_path / "dataset", quiet=True).manifest["rows"]
    assert rows["by_reason"]["at or after ingest.split.end"] == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_column(tmp_path: Path, workers: int) -> None:
    source = small_source(tmp_path, {name: EVENTS[name] for name in ("user", "item", "time")})
    with pytest.raises(UserError, match=r"events-0.txt: column 'value' is missing; the file gives \['user'"):
        ingest(source, config(workers=workers), tmp_path / "dataset", quiet=True)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no positive training event is left of 9 rows") as error:
        ingest(small_source(tmp_path, positive="value > 9"), config(), tmp_path / "dataset", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "dataset").exists()


NOTHING = {
    "no time is readable": ({**EVENTS, "time": ["soon"] * 9}, {}),
    "no rows": ({name: pa.array([], pa.string()) for name in EVENTS}, {}),
    "all behind the end": (EVENTS, dict.fromkeys(("validation", "test", "end"), "1970-01-01T00:00:00")),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_left_with_every_kind_of_field(tmp_path: Path, case: str) -> None:
    events, split = NOTHING[case]
    source = small_source(tmp_path, events, time_unit="ms")
    fields = [f for f in full_schema().fields if f.kind in (Kind.SEQUENCE, Kind.POINT_IN_TIME)]
    source = dataclasses.replace(source, schema=Schema(fields=tuple(fields), has_value=True))
    settings = config(split={"kind": "time", "validation": 0.0, "test": 0.0, **split})
    with pytest.raises(UserError, match="no positive training event is left of"):
        ingest(source, settings, tmp_path / "dataset", quiet=True)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("source_settings", "settings", "message"),
    [
        ({}, {"split": {"kind": "given"}}, "ingest.split.kind: 'given', but the source 'small' has no split"),
        ({"time_unit": "hours"}, {}, "the time unit is 'hours'"),
        ({"positive": "value is high"}, {}, "is not a rule"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, source_settings: dict, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ingest(small_source(tmp_path, **source_settings), config(**settings), tmp_path / "dataset", quiet=True)


def test_no_time_no_time_split(tmp_path: Path) -> None:
    source = random_source(tmp_path, 1, has_time=False)
    with pytest.raises(UserError, match="has no times; expected given, random or leave_last_out"):
        ingest(source, IngestConfig(), tmp_path / "dataset", quiet=True)


def test_a_failed_run_leaves_the_earlier_data_set(tmp_path: Path) -> None:
    kept = ingest(small_source(tmp_path), config(), tmp_path / "dataset", quiet=True).artifact.artifact_id
    with pytest.raises(UserError):
        ingest(small_source(tmp_path, positive="value > 9"), config(), tmp_path / "dataset", quiet=True)
    assert DatasetFolder.open(tmp_path / "dataset", verify=True).artifact.artifact_id == kept


def test_fields_are_checked(tmp_path: Path) -> None:
    field = Field(name="speed", side=Side.CONTEXT, kind=Kind.NUMERIC)
    events = {**EVENTS, "speed": ["1", "2", "3", "4", "5", "fast", "", "1", "2"]}
    source = small_source(tmp_path, events)
    source = RawSource("small", Schema(fields=(field,), has_value=True), source.events, time_unit="ms")
    rows = ingest(source, config(), tmp_path / "dataset", quiet=True).manifest["rows"]
    assert rows["by_reason"]["speed is not a number"] == 1
