"""What a ranker cannot be: settings and data that make no sense are refused with the setting's path."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from recsys._tensorflow import tf
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.job import check, rank
from tests.impressions import write_impressions
from tests.ranking.test_searched import GATES, SETTINGS, bench_of
from tests.ranking.test_step_cost import batch, ranker_and_step


@pytest.fixture(scope="module")
def shop(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_impressions(DatasetFolder.open(tiny_dataset), tmp_path_factory.mktemp("refusals") / "dataset")


def checked(dataset: DatasetFolder, **changes) -> None:
    check(dataset, RankingConfig.model_validate({"model": {"backbone": "fm", "embedding_dim": 2}, **changes}), 1)


def test_one_label_alone_teaches_nothing(tiny_dataset: Path, shop: DatasetFolder) -> None:
    """Clicks without negatives; drawn ones make up for them, and impressions need none."""
    clicks = DatasetFolder.open(tiny_dataset)
    with pytest.raises(UserError, match=r"ranking\.train\.negatives: the training part .* has clicks \(label 1\) only"):
        checked(clicks)
    checked(clicks, train={"negatives": {"per_positive": 1, "source": "batch"}})
    checked(shop)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {"backbone": "two_tower", "features": ["user", "club"]}},
            "model.features: .*name a field of the item",
        ),
        ({"model": {"backbone": "two_tower", "features": ["item"]}}, "model.features: .*name a field of the query"),
        ({"model": {"numeric": {"fields": {"colour": "quantile"}}}}, r"model.numeric.fields: 'colour' is no number"),
        ({"position": {"field": "item", "neutral": "i1"}}, "position.field: 'item' is no categorical context field"),
        ({"position": {"field": "history"}}, "position.field: 'history' is no categorical context field"),
        (
            {
                "model": {"backbone": "fm", "features": ["user", "item"]},
                "position": {"field": "device", "neutral": "d1"},
            },
            "position.field: the ranker does not read 'device'",
        ),
    ],
)
def test_before_the_towers_are_trained(shop: DatasetFolder, changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=rf"ranking\.{said}"):
        checked(shop, **changes)


def test_kappas_without_validation_rows_of_both_labels(shop: DatasetFolder, tmp_path: Path, monkeypatch) -> None:
    searched = {"gates": GATES, "kappas": [1, 2]}
    checked(shop, **searched)
    for labels in (set(), {0.0}, {1.0}):
        monkeypatch.setattr("recsys.ranking.job.labels_of", lambda *_, found=labels: found)
        with pytest.raises(UserError, match=r"ranking\.kappas: .* has none with both labels"):
            checked(shop, **searched)
    drawn = {"train": {"negatives": {"per_positive": 1, "source": "batch"}}}
    checked(shop, **searched, **drawn)  # the last of them: positives, to which negatives are drawn
    checked(shop, gates=GATES)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": {"features": ["user", "item", "user"]}}, r"\['user'\] stand there twice"),
        ({"gates": {**GATES, "fields": []}}, r"'fields: \[\]' gates nothing"),
        ({"gates": {"mode": "field", "penalty": 0.1}, "kappas": [1]}, "give 'gates.kappa', not 'gates.penalty'"),
        ({"train": {"batch_size": 8, "negatives": {"per_positive": 8}}}, "does not fit into 'train.batch_size: 8'"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RankingConfig.model_validate(settings)


def test_a_search_that_closes_everything_is_no_ranker(shop: DatasetFolder, tmp_path: Path) -> None:
    config = RankingConfig.model_validate({**SETTINGS, "gates": {**GATES, "kappa": None, "penalty": 1000.0}})
    folders = {"checkpoints": tmp_path / "checkpoints", "logs": tmp_path / "logs"}
    with pytest.raises(UserError, match=r"ranking\.gates: the search closed every value at penalty 1e\+03"):
        rank(shop, config, 1, tmp_path / "ranker", **folders, quiet=True)
    assert not (tmp_path / "ranker").exists()


def test_a_batch_of_rows_that_weigh_nothing_teaches_nothing() -> None:
    trainer = ranker_and_step("deepfm", None)
    before = trainer.model.table.table.numpy()
    assert float(trainer.train_step({**batch(), "weights": tf.zeros([32])})) == 0.0
    assert np.isfinite(trainer.model.table.table.numpy()).all()
    assert np.abs(trainer.model.table.table.numpy() - before).max() < 0.002


def test_open_gates_are_told_of_those_in_force(shop: DatasetFolder, tmp_path: Path) -> None:
    """Rows without gates, padding and what no training row has are pushed down too, and are no gates."""
    still = {"learning_rate": 1e-4}
    for mode in ("value-dense", "field"):
        bench = bench_of(shop, tmp_path / mode, gates={"mode": mode, "fields": ("colour",), "kappa": 0.0, **still})
        found = bench.search("search", bench.config.gates)
        assert [one["open_gates"] for one in found.epochs] == [1.0] * 3
        bench = bench_of(shop, tmp_path / f"{mode}-closed", gates={"mode": mode, "fields": ("colour",), "kappa": 1e6})
        found = bench.search("search", bench.config.gates)
        assert found.epochs[-1]["open_gates"] == 0.0
    opened = bench.spec.part("colour")
    gates = np.where(np.isin(np.arange(bench.spec.rows), np.arange(opened.start, opened.stop)), 1.0, -1.0)
    config = bench.config.gates.model_copy(update={"mode": "value-dense"})
    trained = bench.train("train", config, gates.astype(np.float32))
    assert trained.epochs[0]["open_gates"] == 1.0
