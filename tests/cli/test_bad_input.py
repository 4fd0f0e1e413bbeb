"""Bad input, end to end through the command line: one paragraph with place and expectation, nothing half-written."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys.dataset_folder import DatasetFolder
from tests.cli.command import recsys, refused
from tests.tiny_files import START, USERS, events, write_csv, write_shop

HEADER = ("user", "item", "time", "device")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop")


def set_events(folder: Path, rows: list, header: tuple = HEADER) -> None:
    write_csv(folder / "events.csv", header, rows)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def as_parquet(folder: Path) -> None:
    table = pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in events()])
    pq.write_table(table, folder / "events.parquet")
    truncate(folder / "events.parquet")


def as_truncated_gzip(folder: Path) -> None:
    (folder / "events.csv.gz").write_bytes(gzip.compress((folder / "events.csv").read_bytes()))
    truncate(folder / "events.csv.gz")


def events_at(name: str) -> list[str]:
    return ["--set", f"data.events.paths=${{SHOP}}/{name}"]


NEGATIVE = ["--set", "data.events.columns.value=time", "--set", "data.positive=value < 0"]
BAD: list[tuple[str, Callable[[Path], object], list[str], list[str]]] = [
    ("missing file", lambda shop: (shop / "events.csv").unlink(), [], ["events.csv"]),
    ("missing items file", lambda shop: (shop / "items.csv").unlink(), [], ["items.csv"]),
    ("empty glob", lambda shop: None, events_at("*.tsv"), ["*.tsv"]),
    ("missing column", lambda shop: set_events(shop, [("u1", "i1", 1)], HEADER[:3]), [], ["events.csv", "'device'"]),
    ("missing user column", lambda shop: None, ["--set", "data.events.columns.user=who"], ["events.csv", "'who'"]),
    ("missing item feature", lambda shop: write_csv(shop / "items.csv", ("item", "title"), []), [], ["items.csv"]),
    ("no events", lambda shop: set_events(shop, []), [], ["no positive training event", "0 rows"]),
    ("only unreadable events", lambda shop: set_events(shop, [("u1", "i1", "soon", "desk")] * 9), [], ["time"]),
    ("nothing positive", lambda shop: None, NEGATIVE, ["positive"]),
    ("truncated Parquet", as_parquet, events_at("events.parquet"), ["events.parquet", "truncated"]),
    ("truncated gzip", as_truncated_gzip, events_at("events.csv.gz"), ["events.csv.gz"]),
    ("unknown key", lambda shop: None, ["--set", "ingest.lag=3"], ["shop.yaml: ingest.lag: no such key"]),
    ("unknown column role", lambda shop: None, ["--set", "data.events.columns.who=a"], ["columns.who: no such key"]),
    ("wrong unit", lambda shop: None, ["--set", "data.time_unit=h"], ["data", "time_unit"]),
    ("extend nothing", lambda shop: None, ["--set", "ingest.extend=${SHOP}/none"], ["none", "dataset"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_stops_ingestion_with_one_paragraph(
    shop: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], words: list[str], said: list[str]
) -> None:
    monkeypatch.setenv("SHOP", str(shop.parent))
    damage(shop.parent)
    refused(recsys("ingest", shop, *words), *said)
    work = shop.parent / "work"
    left = [path for path in work.rglob("*") if path.is_file() and path.name != ".lock"]
    assert not left, f"half-written: {left}"


def test_bad_rows_are_rejected_with_reason_and_counted(shop: Path) -> None:
    good = events()
    bad = [
        ("u1", "i1", "yesterday", "desk"),
        ("u1", "i1", "", "desk"),
        ("", "i1", START, "desk"),
        ("u1", "", START, "desk"),
        good[5],
        ("u1", "i1", 10**15, "desk"),
    ]
    set_events(shop.parent, [*good, *bad])
    outcome = recsys("ingest", shop)
    assert outcome.code == 0 and f"{len(good) + 6:,} in = {len(good):,} accepted + 6 rejected" in outcome.err
    dataset = DatasetFolder.open(shop.parent / "work" / "dataset", verify=True)
    lines = [
        json.loads(line)
        for file in sorted((dataset.path / "rejected").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    by_row = {entry["row"]: entry for entry in lines}
    first = len(good) + 2  # 1-based line numbers, the header is the first
    assert sorted(by_row) == list(range(first, first + 6))
    assert all(entry["file"].endswith("events.csv") for entry in lines)
    for offset, reason in enumerate(["time", "time is missing", "user", "item", "duplicate", "time"]):
        assert reason in by_row[first + offset]["reason"]
    assert "yesterday" in by_row[first]["raw"]
    assert sum(dataset.manifest["rows"]["by_reason"].values()) == 6
    said = outcome.err.splitlines()
    place = f"{shop.parent / 'events.csv'}, row "
    assert f"  1 × duplicate event; for example {place}{first + 4}" in said
    assert f"  2 × time is not a time between 1970 and 2109 in 's'; for example {place}{first}" in said
    assert f"Rejected rows, with file, row, reason and content: {dataset.path / 'rejected'}/" in said


def test_rejected_items_are_said_too(shop: Path) -> None:
    with open(shop.parent / "items.csv", "a", encoding="utf-8") as file:
        file.write("i1,Again,red,3\n")
    outcome = recsys("ingest", shop)
    assert "Rows of items: 41 in = 40 accepted + 1 rejected." in outcome.err
    assert f"  1 × duplicate item; for example {shop.parent / 'items.csv'}, row 42\n" in outcome.err
    assert "Rows of users" not in outcome.err


def test_rejected_rows_have_the_names_of_the_file_and_half_rejected_is_noted(shop: Path) -> None:
    rows = [("u1", "i1", "soon", "desk"), ("u1", "i2", START, "desk"), ("u1", "i2", START, "desk")]
    set_events(shop.parent, rows, ("customer", "sku", "when", "ua"))
    write_csv(
        shop.parent / "items.csv", ("sku", "title", "tint", "price"), [("i1", "A", "red", 1), ("i1", "B", "red", 1)]
    )
    config = yaml.safe_load(shop.read_text())
    config["data"]["events"]["columns"] = {"user": "customer", "item": "sku", "time": "when"}
    config["data"]["items"]["columns"]["item"] = "sku"
    config["data"]["fields"][0]["column"], config["data"]["fields"][3]["column"] = "tint", "ua"
    config["ingest"] = {"split": {"kind": "time", "validation": "2031-01-01", "test": "2032-01-01"}}
    shop.write_text(yaml.safe_dump(config))
    outcome = recsys("ingest", shop)
    assert "Note: More than half of the rows of events are rejected; check data.events" in outcome.err
    assert "Note: The test part begins at 2032-01-01T00:00:00Z and has no events" in outcome.err
    raw = {
        (path.name.split("-")[0], line["row"]): json.loads(line["raw"])
        for path in (shop.parent / "work" / "dataset" / "rejected").glob("*.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
    }
    assert raw["events", 2] == {"customer": "u1", "sku": "i1", "when": "soon", "ua": "desk"}
    assert raw["events", 4] == {"customer": "u1", "sku": "i2", "time_ms": START * 1000}
    assert raw["items", 3] == {"sku": "i1", "title": "B", "tint": "red", "price": 1.0}


def test_a_truncated_data_set_is_named_by_the_next_stage(shop: Path) -> None:
    assert recsys("ingest", shop).code == 0
    dataset = shop.parent / "work" / "dataset"
    truncate(dataset / "events" / "train-00000.parquet")
    refused(recsys("train", shop), "events/train-00000.parquet", "it was truncated or altered")
    assert not (shop.parent / "work" / "model").exists()


def test_a_vocabulary_from_another_data_set_is_named(shop: Path, tmp_path: Path) -> None:
    other = write_shop(tmp_path / "other")
    write_csv(other.parent / "users.csv", ("user", "club"), [(f"u{user}", "a") for user in range(USERS + 5)])
    assert recsys("ingest", shop).code == 0 and recsys("ingest", other).code == 0
    vocabulary = Path("work") / "dataset" / "vocabulary" / "user.parquet"
    shutil.copyfile(other.parent / vocabulary, shop.parent / vocabulary)
    refused(recsys("train", shop), "vocabulary/user.parquet", "it was truncated or altered")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_says_one_paragraph_and_nothing_else(shop: Path, workers: int) -> None:
    (shop.parent / "events.csv").write_text("user,item,time\n1,2,3\n", encoding="utf-8")
    command = [sys.executable, "-m", "recsys.cli", "ingest", str(shop)]
    done = subprocess.run(
        [*command, "--set", f"ingest.workers={workers}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("recsys: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "'device'" in done.stderr and "while running" not in done.stderr


@pytest.mark.parametrize("workdir", ["events.csv", "events.csv/inside"])
def test_a_workdir_that_cannot_be_one(shop: Path, workdir: str) -> None:
    refused(
        recsys("ingest", shop, "--set", f"workdir={shop.parent / workdir}"),
        "workdir: ",
        "events.csv is no folder" if workdir == "events.csv" else workdir,
    )


def test_a_configuration_that_is_a_folder(shop: Path) -> None:
    refused(recsys("ingest", shop.parent), str(shop.parent))
