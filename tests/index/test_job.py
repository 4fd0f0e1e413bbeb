"""The bundle: complete, bound to its data set, the same bytes from the same input, nothing half-written."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.artifacts import latency_file, open_artifact
from recsys.config.index import IndexConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.index.job import build_bundle
from recsys.index.vectors import open_index
from recsys.registry import BUNDLE_FORMAT, BUNDLE_KIND
from tests.tiny_dataset import write_tiny_dataset


def test_the_bundle_holds_what_serving_loads(tiny_bundle: Path, tiny_dataset: Path) -> None:
    bundle = open_artifact(tiny_bundle, BUNDLE_KIND, BUNDLE_FORMAT, verify=True)
    dataset = DatasetFolder.open(tiny_dataset)
    assert bundle.manifest["dataset"] == dataset.artifact.artifact_id
    assert bundle.manifest["representation"]["normalised"] is True
    for name in ("model", "vocabulary", "index", "histories"):
        assert (tiny_bundle / name).is_dir()
    for name in ("items.parquet", "users.parquet"):
        assert (tiny_bundle / name).is_file()
    vectors = np.load(tiny_bundle / "model" / "vectors.npy")
    index = open_index(tiny_bundle / "index")
    found, _ = index.search(vectors, 1)
    np.testing.assert_array_equal(found[:, 0], dataset.items["item"].to_numpy())


def test_recall_is_published_with_the_index_and_latency_beside_the_bundle(tiny_bundle: Path) -> None:
    info = json.loads((tiny_bundle / "index" / "index.json").read_text())
    assert info["recall"]["value"] == 1.0 and info["recall"]["source"] == "validation queries"
    assert info["recall"]["queries"] > 0 and info["target_reached"]
    latency = json.loads(latency_file(tiny_bundle).read_text())
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] and latency["threads"] == 1


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_equal_builds_are_equal_bundles(kind: str, tiny_bundle: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = DatasetFolder.open(tiny_dataset)
    built = [
        build_bundle(dataset, tiny_bundle / "model", IndexConfig(type=kind), tmp_path / name, quiet=True)
        for name in ("one", "two")
    ]
    assert built[0].artifact_id == built[1].artifact_id


def test_a_model_of_another_data_set_is_refused_and_nothing_is_written(tiny_bundle: Path, tmp_path: Path) -> None:
    other = DatasetFolder.open(write_tiny_dataset(tmp_path / "other", seed=8))
    with pytest.raises(UserError, match="trained on the data set"):
        build_bundle(other, tiny_bundle / "model", IndexConfig(), tmp_path / "bundle", quiet=True)
    assert not (tmp_path / "bundle").exists()
