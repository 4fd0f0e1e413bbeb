"""The settings that docs/training.md shows are settings, and a job takes them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from recsys.config import load_config
from recsys.config.train import TrainConfig
from tests.conftest import ROOT
from tests.retrieval.test_job import run

SHOWN = [
    yaml.safe_load(block)
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.S)
]


def test_every_block_is_a_configuration() -> None:
    assert [sorted(block["train"]) for block in SHOWN] == [["ssl"], ["gates"]]
    for block in SHOWN:
        TrainConfig.model_validate(block["train"])


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: next(iter(block["train"])))
def test_a_job_trains_with_them(block: dict, tiny_dataset: Path, tmp_path: Path) -> None:
    """On the tiny data a search has too few steps for the rate that is shown."""
    train = block["train"]
    if "gates" in train:
        train["gates"]["learning_rate"] = 0.3
    run(tiny_dataset, tmp_path, epochs=1, **train)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert ("self_supervision" in record) == ("ssl" in train)
    assert ("gates" in record) == ("gates" in train)


def test_the_configuration_for_a_sparse_tail_has_self_supervision() -> None:
    config = load_config(ROOT / "configs" / "simulated-tail.yaml", ())
    assert config.train.ssl is not None and config.train.ssl.method == "rfm"
    assert load_config(ROOT / "configs" / "simulated-tail.yaml", ("train.ssl=null",)).train.ssl is None
