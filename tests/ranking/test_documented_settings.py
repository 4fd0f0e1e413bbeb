"""The settings that docs/ranking.md shows are settings."""

import re

import yaml

from recsys.config.ranking import RankingConfig
from tests.conftest import ROOT

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ranking.md").read_text(), re.S)


def test_every_block_is_a_configuration() -> None:
    shown = [yaml.safe_load(block)["ranking"] for block in BLOCKS]
    assert [sorted(one) for one in shown] == [["controls", "gates", "kappas"], ["tasks"]]
    for one in shown:
        RankingConfig.model_validate(one)
