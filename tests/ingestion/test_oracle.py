"""The pipeline against the oracle in slow plain Python, on random small logs."""

import math
from pathlib import Path
from typing import Any

import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.encoding.information import mutual_information
from recsys.ingestion.job import ingest
from recsys.schema import Side
from tests.ingestion import oracle
from tests.ingestion.tables import random_source

SPLITS = ("train", "validation", "test")
CASES = {
    "time": (True, {"split": {"kind": "time", "validation": 0.2, "test": 0.2}}),
    "no lag": (True, {"split": {"kind": "time", "validation": 0.1, "test": 0.3}, "lag_ms": 0}),
    "refreshed": (True, {"split": {"kind": "time", "validation": 0.2, "test": 0.1}, "refresh_ms": 7_000}),
    "leave last out": (True, {"split": {"kind": "leave_last_out"}, "duplicates": "keep"}),
    "given, no time": (False, {"split": {"kind": "given"}}),
    "validation cut, no time": (False, {"split": {"kind": "given", "validation": 0.3}}),
}


def same(found: Any, expected: Any) -> bool:
    """Equal, NaN included."""
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    return found == expected


def check_rows(found: list[dict], expected: list[dict], what: str) -> None:
    """Every cell of every row."""
    assert len(found) == len(expected), what
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert set(one) == set(other), what
        for name, value in other.items():
            assert same(one[name], value), f"{what} row {place} column {name}: {one[name]} instead of {value}"


def events(folder: DatasetFolder, split: str) -> list[dict]:
    """All rows of a split, [] where it is empty."""
    return folder.events(split).to_pylist() if folder.event_files(split) else []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_every_cell_equals_the_oracle(tmp_path: Path, case: str, seed: int) -> None:
    has_time, settings = CASES[case]
    source = random_source(tmp_path, seed, has_time=has_time, given=settings["split"]["kind"] == "given")
    config = IngestConfig.model_validate({**settings, "batch_rows": 11, "shard_rows": 25, "file_rows": 13})
    folder = ingest(source, config, tmp_path / "dataset", quiet=True)
    expected = oracle.tables(source, config)
    for split in SPLITS:
        check_rows(events(folder, split), expected[split], split)
    check_rows(folder.items.to_pylist(), expected["items"], "items")
    check_rows(folder.users.to_pylist(), expected["users"], "users")
    for side, entities in ((Side.ITEM, folder.items), (Side.USER, folder.users)):
        told = folder.statistics["mutual_information"][side.value]
        assert told == mutual_information(entities, folder.schema, side, 1) and told["fields"], side
    for name, ids in expected["ids"].items():
        table = folder.vocabulary(name).table.to_pydict()
        assert dict(zip(table["value"], table["id"], strict=True)) == ids, name
        assert table["count"] == [expected["counts"][name][value] for value in ids], name
    rows = folder.manifest["rows"]
    assert rows["by_reason"] == dict(expected["reasons"])
    assert rows["in"] == rows["accepted"] + rows["rejected"]
    for key in ("item", "user"):
        assert rows[f"{key}s"]["by_reason"] == dict(expected["entity_reasons"][key])
