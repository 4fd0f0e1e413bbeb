"""Rankers of several tasks: clicks and conversions on one gated feature layer."""

import numpy as np
import pytest

from recsys.config.model import ModelConfig
from recsys.config.ranking import RankerConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.spec import ranker_spec
from recsys.retrieval.spec import two_tower_spec
from tests.outcomes import with_outcome


@pytest.fixture
def bought(tiny_dataset, tmp_path) -> DatasetFolder:
    """The tiny data set with an outcome."""
    plain = DatasetFolder.open(tiny_dataset)
    values = {split: np.arange(len(plain.events(split))) % 2 for split in ("train", "validation", "test")}
    return with_outcome(plain, tmp_path / "bought", "bought", values)


def test_no_model_reads_an_outcome(bought):
    counts = {name: np.ones(bought.vocabulary(name).size) for name in ("user", "item")}
    assert "bought" in [field.name for field in bought.schema.fields]
    assert "bought" not in [field.name for field in ranker_spec(bought, RankerConfig(), counts).fields]
    query = two_tower_spec(bought, ModelConfig(), counts).query
    assert "bought" not in [inputs.name for inputs in query.inputs] and "device" in [one.name for one in query.inputs]
    for told in ({"features": ["item", "bought"]}, {"numeric": {"fields": {"bought": "quantile"}}}):
        with pytest.raises(UserError, match="'bought' is an outcome, known only after the event"):
            ranker_spec(bought, RankerConfig.model_validate(told), counts)
    with pytest.raises(UserError, match="cannot read 'bought'"):
        two_tower_spec(bought, ModelConfig.model_validate({"query": {"features": ["bought"]}}), counts)
