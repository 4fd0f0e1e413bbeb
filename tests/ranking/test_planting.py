"""The planted field of the benchmark: the values and frequencies of the item ids, at other rows."""

from pathlib import Path

import numpy as np

from benchmarks.parts.planting import PLANTED, plant
from benchmarks.parts.ranking_cells import kept_ratio_of
from recsys.dataset_folder import DatasetFolder
from recsys.schema import SPLITS


def test_planted_values_are_the_items_of_other_rows(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = DatasetFolder.open(tiny_dataset)
    planted = plant(dataset, tmp_path / "planted", seed=1)
    again = DatasetFolder.open(tmp_path / "planted", verify=True)
    assert again.schema.field(PLANTED).side == "context"
    assert again.vocabulary(PLANTED).table["value"].equals(dataset.vocabulary("item").table["value"])
    for split in SPLITS:
        before, after = dataset.events(split), planted.events(split)
        assert after.drop_columns([PLANTED]).equals(before)
        items, copied = after["item"].to_numpy(), after[PLANTED].to_numpy()
        np.testing.assert_array_equal(np.sort(copied), np.sort(items))
        assert (copied == items).mean() < 0.3
    assert plant(dataset, tmp_path / "planted", seed=1).artifact.artifact_id == planted.artifact.artifact_id
    assert planted.artifact.artifact_id != dataset.artifact.artifact_id


def test_kept_ratio_of_fields_counts_their_values_together() -> None:
    cells = [
        {"fields": {"a": {"values": 10, "kept": 5}, "b": {"values": 30, "kept": 0}, "c": {"values": 1, "kept": 1}}},
        {"fields": {"a": {"values": 10, "kept": 5}, "b": {"values": 30, "kept": 5}}},
        {},
    ]
    assert kept_ratio_of(cells, ["a", "b"]) == (5 / 40 + 10 / 40) / 2
    assert kept_ratio_of(cells, ["d"]) is None
