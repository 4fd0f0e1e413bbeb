"""What the terminal says of a ranker: every set tried, what pruning left, the latency; nothing unmeasured.

And what it says before the towers are trained, where the ranker could not be.
"""

import json
from pathlib import Path

import pytest

from recsys.commands.rankers import described
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.ranking.job import check
from recsys.schema import RETRIEVAL_SCORE
from tests.cli.command import recsys, refused
from tests.tiny_files import write_shop

SETS = [
    {"name": "search", "kappa": 0.5, "kept_ratio": 0.74158, "validation_auc": 0.66604, "chosen": False},
    {
        "name": "search",
        "kappa": 2.0,
        "kept_ratio": 2.09e-5,
        "validation_auc": 0.6574,
        "chosen": True,
        "task_auc": {"bought": 0.7128},
    },
    {"name": "backbone", "kappa": None, "kept_ratio": 1.0, "validation_auc": 0.638, "chosen": False},
    {"name": "frequency", "kappa": None, "kept_ratio": 0.35, "validation_auc": 0.61, "chosen": False},
]
SIZES = {
    "values": {"seen": 1010, "kept": 749},
    "rows": {"before": 1057, "after": 812},
    "bytes": {"before": 76104, "after": 58464},
    "live": {"before": {"interactions": 133.69}, "after": {"interactions": 125.81}},
}
LATENCY = {"candidates": 200, "before": {"p99_ms": 40.08}, "after": {"p99_ms": 38.79}}


def test_a_search_is_told_with_what_stood_beside_it() -> None:
    found = described({"backbone": "fm", "sets": SETS, "closed_fields": ["hue", "size"], **SIZES}, LATENCY)
    assert found == [
        "Ranker fm, OptFS at kappa 2: validation AUC 0.6574, bought 0.7128, 0.00209 % of the values",
        "  beside it OptFS at kappa 0.5: validation AUC 0.6660, 74.2 % of the values",
        "  beside it all values: validation AUC 0.6380",
        "  beside it most frequent values: validation AUC 0.6100, 35 % of the values",
        "  pruned: 1,010 → 749 values, 1,057 → 812 rows, 76,104 → 58,464 bytes, "
        "133.7 → 125.8 live interactions a sample",
        "  closed fields: hue, size",
        "  200 candidates: p99 40.1 → 38.8 ms",
    ]


def test_a_plain_ranker_without_validation_claims_nothing() -> None:
    plain = [{"name": "backbone", "kappa": None, "kept_ratio": 1.0, "validation_auc": None, "chosen": True}]
    found = described({"backbone": "lr", "sets": plain, **SIZES}, {"candidates": 200, "after": {"p99_ms": 4.0}})
    assert found == ["Ranker lr, all values: not judged", "  200 candidates: p99 4.0 ms"]
    assert described({"backbone": "lr", "sets": plain, **SIZES}, {}) == found[:1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the tiny shop, ingested."""
    config = write_shop(tmp_path_factory.mktemp("ranked_shop"))
    assert recsys("ingest", config).code == 0
    return config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"gates": {"mode": "value-dense", "kappa": 1.0, "epsilon": 1.0}},
            "ranking.gates: a gate that nothing needs would end at logit",
        ),
        (
            {"gates": {"mode": "value-dense", "kappa": 1.0, "epsilon": 1.0}, "retrieval_score": True},
            "ranking.gates: a gate that nothing",
        ),
        ({"model": {"features": ["user", "hat"]}}, "ranking.model.features: the data set has no field 'hat'"),
        ({"position": {"field": "place", "neutral": "1"}}, "ranking.position.field: 'place'"),
        ({"train": {}}, "ranking.train.negatives: the training part"),
        (
            {"gates": {"mode": "value-dense", "kappa": 1.0, "learning_rate": 1.0, "fields": ["hat"]}},
            "ranking.gates.fields: the ranker reads no field 'hat'",
        ),
    ],
)
def test_a_ranker_that_cannot_be_is_refused_before_the_towers_are_trained(
    settings: dict, said: str, shop: Path
) -> None:
    assert (shop.parent / "work" / "dataset").is_dir()
    settings = {"train": {"negatives": {"source": "batch"}}, **settings}
    refused(recsys("train", shop, "--set", f"ranking={json.dumps(settings)}"), said)
    assert not (shop.parent / "work" / "model").exists()


@pytest.mark.parametrize("features", [[], ["user", "item"]])
def test_a_ranker_of_the_towers_score_is_not_refused_for_the_score_s_sake(features: list[str], shop: Path) -> None:
    """It reads what there is not yet: as its only field, or with a reading of its own."""
    model = {"features": features, "numeric": {"fields": {RETRIEVAL_SCORE: "quantile"}}}
    drawn = {"negatives": {"source": "batch"}}
    config = RankingConfig.model_validate({"model": model, "train": drawn, "retrieval_score": True})
    check(DatasetFolder.open(shop.parent / "work" / "dataset"), config, 1)
