"""Drawn negatives: whose they are, how likely each is, and what the logits are corrected by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.ranking.examples import ExampleMaker, split_examples
from recsys.ranking.spec import ranker_spec
from recsys.retrieval.shards import scan_positives
from recsys.schema import Side

PER_POSITIVE = 3


def maker_of(path: Path, source: str, *, of_item: tuple[str, ...] = (), batch_size: int = 80) -> ExampleMaker:
    """`of_item` names event fields that are taken for the item's as of the event."""
    config = RankingConfig.model_validate(
        {"train": {"batch_size": batch_size, "negatives": {"per_positive": PER_POSITIVE, "source": source}}}
    )
    dataset = DatasetFolder.open(path)
    spec = ranker_spec(dataset, config.model, scan_positives(dataset, ("train",)).counts)
    fields = tuple(replace(one, side=Side.ITEM) if one.name in of_item else one for one in spec.fields)
    return ExampleMaker(dataset, replace(spec, fields=fields), config)


@pytest.mark.parametrize("source", ["catalogue", "batch"])
def test_negatives_keep_the_user_and_take_an_item_with_what_is_known_of_it(tiny_dataset: Path, source: str) -> None:
    maker = maker_of(tiny_dataset, source)
    table = maker.dataset.events("train", maker.columns)
    made = maker.make(table, np.random.default_rng(0))
    rows = len(table)
    assert len(made) == rows * (1 + PER_POSITIVE)
    np.testing.assert_array_equal(made.labels, np.arange(len(made)) < rows)
    for name in ("user", "club", "device", "history"):  # whoever asks is the same
        np.testing.assert_array_equal(made.features[name], np.concatenate([made.features[name][:rows]] * 4))
    colours = maker.dataset.features(Side.ITEM)["colour"]
    np.testing.assert_array_equal(made.features["colour"], colours[made.items])
    assert (made.items[rows:] != np.tile(made.items[:rows], PER_POSITIVE)).mean() > 0.8
    items = len(maker.dataset.items) if source == "catalogue" else len(np.unique(table["item"]))
    np.testing.assert_allclose(made.offsets, np.log(PER_POSITIVE / items), rtol=1e-6)


def test_items_of_the_batch_are_drawn_alike_however_frequent_and_with_their_rows_values(tiny_dataset: Path) -> None:
    maker = maker_of(tiny_dataset, "batch", of_item=("device",))
    table = maker.dataset.events("train", maker.columns)
    counts = np.bincount(table["item"].to_numpy())
    assert counts.max() > 1.5 * counts[counts > 0].min()
    drawn: np.ndarray = np.zeros(len(counts), np.int64)
    pairs = set(zip(table["item"].to_pylist(), table["device"].to_pylist(), strict=True))
    for seed in range(20):
        made = maker.make(table, np.random.default_rng(seed))
        drawn += np.bincount(made.items[len(table) :], minlength=len(counts))
        assert set(zip(made.items.tolist(), made.features["device"].tolist(), strict=True)) <= pairs
    share = drawn[counts > 0] / drawn.sum()
    assert abs(share * len(share) - 1).max() < 0.15 and not drawn[counts == 0].any()


def test_evaluation_draws_from_neighbouring_rows_and_alike_every_time(tiny_dataset: Path) -> None:
    maker = maker_of(tiny_dataset, "batch", batch_size=40)  # 10 positives a batch
    made, again = (split_examples(maker, "train", 5) for _ in range(2))
    for name, values in made.features.items():
        np.testing.assert_array_equal(values, again.features[name])
    table = maker.dataset.events("train", ("item",))
    np.testing.assert_array_equal(made.items[made.labels > 0], table["item"].to_numpy())
    for block in range(len(table) // 10):
        items = made.items[40 * block : 40 * (block + 1)]
        assert made.labels[40 * block : 40 * (block + 1)].sum() == 10
        assert set(items[10:]) <= set(items[:10])
        assert made.offsets[40 * block] == pytest.approx(np.log(PER_POSITIVE / len(set(items[:10]))))
    assert (split_examples(maker, "train", 6).items != made.items).any()


def test_catalogue_negatives_cannot_have_values_of_a_moment(tiny_dataset: Path) -> None:
    with pytest.raises(UserError, match="'device' is read"):
        maker_of(tiny_dataset, "catalogue", of_item=("device",))
