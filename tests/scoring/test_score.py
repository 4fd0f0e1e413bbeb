"""The ranker of a loaded bundle: all candidates of all queries in one call, as evaluation scores the same pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.config.index import IndexConfig
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.index.job import build_bundle
from recsys.ranking.evaluation import impression_inputs
from recsys.ranking.job import rank
from recsys.ranking.retrieval_score import RowScores
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Side
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from recsys.scoring.ranker import ACTIVATIONS, Scores, load_ranker
from tests.impressions import write_impressions
from tests.tiny_bundle import write_tiny_model

SETTINGS = {
    "retrieval_score": True,
    "model": {"backbone": "deepfm", "embedding_dim": 4, "hidden": [6, 5], "history": "attention"},
    "train": {"batch_size": 64, "learning_rate": 0.02, "epochs": 2},
}


@pytest.fixture(scope="module")
def shop(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetFolder, LoadedBundle]:
    """Impressions of the two blocks, and a bundle whose ranker reads every kind of field and the retrieval score."""
    folder = tmp_path_factory.mktemp("scored")
    dataset = write_impressions(DatasetFolder.open(tiny_dataset), folder / "dataset")
    model = write_tiny_model(dataset, folder / "model")
    places = {"checkpoints": folder / "checkpoints", "logs": folder / "logs"}
    config = RankingConfig.model_validate(SETTINGS)
    ranker = rank(dataset, config, 1, folder / "ranker", **places, retrieval_model=model, quiet=True)
    bundle = build_bundle(dataset, model, IndexConfig(type="flat"), folder / "bundle", ranker=ranker.path, quiet=True)
    return dataset, LoadedBundle.open(bundle.path)


def asked(dataset: DatasetFolder, rows: list[dict]) -> list[Query]:
    """What a caller would ask who knows no ids: the events' users, devices and histories of the time."""
    raw = {name: ("", "", "", *dataset.vocabulary(name).table["value"].to_pylist()) for name in ("device",)}
    items = dict(zip(dataset.items["item"].to_pylist(), dataset.items["raw"].to_pylist(), strict=True))
    users = dataset.users["raw"].to_pylist()
    return [
        Query(
            user=users[row["user"] - FIRST_VALUE_ID],
            context={"device": raw["device"][row["device"]]},
            history=[items[one] for one in row["history"]],
        )
        for row in rows
    ]


def test_it_says_of_an_impression_what_evaluation_says(shop: tuple[DatasetFolder, LoadedBundle]) -> None:
    dataset, bundle = shop
    ranker, events = load_ranker(bundle.artifact.path / "ranker"), dataset.events("test")
    arrays = impression_inputs(dataset, events, ranker.inputs)
    arrays["retrieval_score"] = RowScores.open(dataset, bundle.artifact.path / "model").of_rows(events)
    expected = ranker.score(arrays)
    assert np.ptp(expected.probability) > 0.1
    queries = bundle.encoder.encode(asked(dataset, events.to_pylist()))
    found = bundle.score(queries, events["item"].to_numpy()[:, None])
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-5)
    np.testing.assert_allclose(found.logit, expected.logit, rtol=1e-4, atol=1e-5)
    assert set(found.activations) == set(ACTIVATIONS)
    for name, values in found.activations.items():
        np.testing.assert_allclose(values, expected.activations[name], rtol=1e-4, atol=1e-5)


def test_rows_are_pairs_query_by_query(shop: tuple[DatasetFolder, LoadedBundle]) -> None:
    """Ragged candidates in one call are the same as pair by pair; the queries' vectors may be given."""
    dataset, bundle = shop
    queries = bundle.encoder.encode(asked(dataset, dataset.events("test").to_pylist()[:3]))
    ids = np.array([[5, -1, 3], [-1, -1, -1], [26, 4, 7]])
    vectors = bundle.embed_queries(queries)
    found = bundle.score(queries, ids, vectors=vectors)
    pairs = [(0, 5), (0, 3), (2, 26), (2, 4), (2, 7)]
    for place, (query, item) in enumerate(pairs):
        alone = bundle.score({name: values[[query]] for name, values in queries.items()}, np.array([[item]]))
        assert found.probability[place] == pytest.approx(alone.probability[0], rel=1e-5)
        for name in ACTIVATIONS:
            np.testing.assert_allclose(found.activations[name][place], alone.activations[name][0], rtol=1e-4, atol=1e-5)
    assert len(found.probability) == len(pairs) and len(np.unique(found.probability)) == len(pairs)
    assert len(bundle.score(queries, ids[:, :0]).probability) == 0
    other = bundle.score(queries, ids, vectors=-vectors)
    assert (np.abs(other.logit - found.logit) > 1e-4).any()


def test_warm_it_answers_and_without_a_ranker_it_says_so(
    shop: tuple[DatasetFolder, LoadedBundle], bundle: LoadedBundle
) -> None:
    fresh = LoadedBundle.open(shop[1].artifact.path)
    fresh.warm()
    assert "ranker" in vars(fresh)
    bundle.warm()
    with pytest.raises(UserError, match=r"the bundle has no ranker .*'ranking' section"):
        bundle.score(bundle.encoder.encode([Query()]), np.array([[3]]))


def test_what_moves_with_time_must_be_given(shop: tuple[DatasetFolder, LoadedBundle]) -> None:
    """Values of the item as of now come from the caller, pair by pair; NaN is the missing id of a cluster."""
    _, bundle = shop
    moving = (
        Field(name="age", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic="age"),
        Field(name="group", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic="cluster", clusters=4),
    )
    schema = bundle.schema.model_copy(update={"fields": (*bundle.schema.fields, *moving)})
    given: dict[str, np.ndarray] = {}

    class Spy:
        def __init__(self) -> None:
            self.inputs = {"item": np.dtype(np.int32), "age": np.dtype(np.float32), "group": np.dtype(np.int32)}

        def score(self, arrays: dict[str, np.ndarray]) -> Scores:
            given.update(arrays)
            return Scores(np.zeros(0), np.zeros(0), {})

    other = replace(bundle, schema=schema)
    vars(other)["ranker"] = Spy()
    queries, ids = bundle.encoder.encode([Query(), Query()]), np.array([[5, -1], [4, 6]])
    with pytest.raises(UserError, match=r"the ranker reads 'age'.*\['age', 'group'\]"):
        other.score(queries, ids)
    with pytest.raises(UserError, match="the ranker reads 'group'"):
        other.score(queries, ids, moving={"age": np.zeros((2, 2))})
    ages, groups = np.array([[1.5, 9.0], [np.nan, 3.0]]), np.array([[3, 9], [np.nan, 5]])
    other.score(queries, ids, moving={"age": ages, "group": groups})
    np.testing.assert_array_equal(given["age"], np.array([1.5, np.nan, 3.0], np.float32))
    assert given["group"].tolist() == [3, 1, 5] and given["group"].dtype == np.int32
    assert given["item"].tolist() == [5, 4, 6]
    other.warm()
