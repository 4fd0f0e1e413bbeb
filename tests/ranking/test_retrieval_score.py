"""The retrieval score as the ranker's field: one number in training, evaluation and serving, and what it is worth."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from recsys.artifacts import open_artifact, write_artifact
from recsys.config.evaluate import EvaluateConfig
from recsys.config.index import IndexConfig
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation.inputs import query_inputs
from recsys.evaluation.queries import make_queries
from recsys.evaluation.recommend import Catalogue, recommend_scored
from recsys.evaluation.two_stage import rerank
from recsys.evaluation.two_tower import two_tower
from recsys.index.job import build_bundle
from recsys.ranking.evaluation import evaluate_ranker
from recsys.ranking.examples import split_examples
from recsys.ranking.job import rank
from recsys.ranking.retrieval_score import RowScores, open_scores, score_report
from recsys.ranking.workbench import Workbench
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from recsys.scoring.ranker import load_ranker
from recsys.scoring.towers import load_tower
from tests.impressions import write_impressions
from tests.ranking.test_job import Impatient, Killed
from tests.tiny_bundle import item_vectors, write_tiny_model

SETTINGS = {
    "retrieval_score": True,
    "model": {"backbone": "lr", "features": ["device"]},
    "train": {"batch_size": 64, "learning_rate": 0.1, "epochs": 4, "patience": 4},
}


@pytest.fixture(scope="module")
def shop(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetFolder, Path]:
    """Impressions of the two blocks, and a model folder whose query tower pools the row's history."""
    folder = tmp_path_factory.mktemp("shop")
    dataset = write_impressions(DatasetFolder.open(tiny_dataset), folder / "dataset")
    return dataset, write_tiny_model(dataset, folder / "model")


def change(**changes) -> RankingConfig:
    merged = {
        key: {**value, **changes.pop(key, {})} if isinstance(value, dict) else value for key, value in SETTINGS.items()
    }
    return RankingConfig.model_validate({**merged, **changes})


def ranked(shop, folder: Path, config: RankingConfig):
    dataset, model = shop
    places = {"checkpoints": folder / "checkpoints", "logs": folder / "logs"}
    return rank(dataset, config, 1, folder / "ranker", **places, retrieval_model=model, quiet=True)


def bench_of(shop, folder: Path, **changes) -> Workbench:
    return Workbench(shop[0], change(**changes), 1, CheckpointFolder(folder, "test"), model=shop[1])


def cosine(dataset: DatasetFolder, history: list[int], club: int, item: int) -> float:
    """Of one pair, in float64, from what the tiny model's towers are."""
    vectors = np.concatenate([np.zeros((FIRST_VALUE_ID, 8)), item_vectors(dataset).astype(np.float64)])
    query = vectors[history].sum(axis=0) if history else np.eye(8)[club - FIRST_VALUE_ID]
    return float(query / np.linalg.norm(query) @ vectors[item])


def oracle(dataset: DatasetFolder, events: pa.Table, items: np.ndarray | None = None) -> np.ndarray:
    clubs = dataset.users["club"].to_numpy()
    rows = events.to_pylist()
    asked = [row["item"] for row in rows] if items is None else items
    return np.array(
        [
            cosine(dataset, row["history"], clubs[row["user"] - FIRST_VALUE_ID], item)
            for row, item in zip(rows, asked, strict=True)
        ]
    )


def test_a_row_s_score_is_of_its_own_query_and_item(shop, monkeypatch: pytest.MonkeyPatch):
    """The history as of the event, not the user's last one; over block boundaries too."""
    dataset, model = shop
    events = dataset.events("train")
    monkeypatch.setattr("recsys.ranking.retrieval_score.BLOCK_ROWS", 37)
    found = RowScores.open(dataset, model).of_rows(events)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(dataset, events), atol=1e-6)
    assert len(np.unique(found)) > len(events) / 2


def test_as_a_factor_it_is_standardised_by_training_rows(shop, tmp_path: Path):
    bench = bench_of(shop, tmp_path, model={"numeric": {"default": "value"}})
    trained = oracle(shop[0], shop[0].events("train"))
    spec = bench.spec.fields[-1]
    assert (spec.name, spec.mean, spec.std) == (
        "retrieval_score",
        pytest.approx(trained.mean(), abs=1e-6),
        pytest.approx(trained.std(), abs=1e-6),
    )


def test_training_evaluation_and_serving_give_the_same_number(shop, tmp_path: Path):
    dataset, model = shop
    bench = bench_of(shop, tmp_path)
    trained = split_examples(bench.maker, "test", 1).features["retrieval_score"]
    queries = make_queries(dataset, EvaluateConfig(), "test", lag_ms=0)
    towers = load_tower(model / "query_tower"), load_tower(model / "item_tower")
    recommender = two_tower(dataset, *towers, queries, np.load(model / "vectors.npy"))
    counts = dataset.items["count"].to_numpy()
    found, scores = recommend_scored(recommender, queries, Catalogue(counts, None), 24)
    given: list[dict] = []

    class Spy:
        inputs = ("item", "user", "retrieval_score")

        def __call__(self, arrays: dict) -> np.ndarray:
            given.append(arrays)
            return arrays["retrieval_score"]

    rerank(dataset, Spy(), queries, found, scores)
    bundle = LoadedBundle.open(
        build_bundle(dataset, model, IndexConfig(type="flat"), tmp_path / "bundle", quiet=True).path
    )
    raw = dict(zip(dataset.items["item"].to_pylist(), dataset.items["raw"].to_pylist(), strict=True))
    users = dataset.users["raw"].to_pylist()
    rows = dataset.events("test").to_pylist()
    compared = 0
    for number, query in enumerate(queries.rows):
        row = rows[query]
        history = [raw[item] for item in row["history"]]
        vectors = bundle.embed_queries(
            bundle.encoder.encode([Query(user=users[row["user"] - FIRST_VALUE_ID], history=history)])
        )
        served = bundle.retrieval_scores(vectors, np.array([[row["item"], -1]]))
        assert served[0, 1] == -np.inf and served[0, 0] == pytest.approx(trained[query], abs=1e-6)
        ids, of_index = bundle.retrieve(vectors, 24)
        assert of_index[ids == row["item"]] == pytest.approx(trained[query], abs=1e-6)
        pair = (given[0]["item"] == row["item"]) & (given[0]["user"] == row["user"])
        place = np.flatnonzero(found[number] == row["item"] - FIRST_VALUE_ID)
        if len(place):
            assert scores[number, place[0]] == pytest.approx(trained[query], abs=1e-6)
            assert np.isclose(given[0]["retrieval_score"][pair], trained[query], atol=1e-6).any()
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("source", ["catalogue", "batch"])
def test_a_drawn_negative_has_the_score_of_its_own_item(shop, tmp_path: Path, source: str):
    bench = bench_of(shop, tmp_path, train={"negatives": {"per_positive": 3, "source": source}})
    events = shop[0].events("validation")
    chosen = events.filter(pc.equal(events["label"], 1))
    made = bench.maker.make(chosen.select(list(bench.maker.columns)), np.random.default_rng(5))
    assert len(made) == 4 * len(chosen) and (made.items[len(chosen) :] != np.tile(made.items[: len(chosen)], 3)).any()
    repeated = pa.concat_tables([chosen] * 4)
    np.testing.assert_allclose(made.features["retrieval_score"], oracle(shop[0], repeated, made.items), atol=1e-6)


def test_what_moves_with_time_is_the_row_s(shop):
    """An item tower that reads a point-in-time field is run on the row's value, static features by id."""
    dataset, model = shop
    fields = (*dataset.schema.fields, Field(name="age", side=Side.ITEM, kind=Kind.POINT_IN_TIME, statistic="age"))
    aged = replace(dataset, schema=Schema(fields=fields))
    plain = RowScores.open(dataset, model)

    def tower(arrays: dict) -> np.ndarray:
        return arrays["age"][:, None] * np.ones((1, 8), np.float32) + arrays["price"][:, None]

    prices = dataset.features(Side.ITEM)["price"]
    scores = replace(plain, dataset=aged, item_tower=tower, items={"price": prices}, moving=("age",))
    events = dataset.events("test")
    ages = np.arange(len(events), dtype=np.float32)
    events = events.append_column("age", pa.array(ages))
    assert "age" in scores.columns and "age" not in plain.columns
    queries = load_tower(model / "query_tower")
    summed = queries(query_inputs(dataset, events, queries.inputs)).sum(axis=1)
    np.testing.assert_allclose(
        scores.of_rows(events), summed * (ages + prices[events["item"].to_numpy()]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("reading", ["value", "quantile", "log_squared"])
def test_the_ranker_learns_from_it(shop, tmp_path: Path, reading: str):
    """The label is whether the blocks agree, which no field but the score knows; the truncated one knows nothing."""
    artifact = ranked(shop, tmp_path, change(model={"numeric": {"fields": {"retrieval_score": reading}}}))
    dataset, model = shop
    found = evaluate_ranker(dataset, artifact.path, "test", resamples=0, confidence=0.9, seed=1, model=model)
    assert found is not None
    area = found["overall"]["auc"]["value"]
    assert area > 0.95 if reading != "log_squared" else area == pytest.approx(0.5, abs=0.1)
    assert artifact.manifest["retrieval_model"] == open_artifact(model, "model", 1).artifact_id
    report = json.loads((artifact.path / "ranking.json").read_text())["retrieval_score"]
    assert report["model"] == artifact.manifest["retrieval_model"] and report == found["retrieval_score"]
    for split in ("train", "validation"):
        events = dataset.events(split)
        scores, labels = oracle(dataset, events), events["label"].to_numpy()
        assert report[split]["rows"] == len(events)
        assert report[split]["mean"] == pytest.approx(scores.mean(), abs=1e-5)
        wins = scores[labels > 0][:, None] - scores[labels == 0]
        assert report[split]["auc"] == pytest.approx(((wins > 0) + 0.5 * (wins == 0)).mean(), abs=1e-3)
    inputs = load_ranker(artifact.path).inputs
    assert inputs["retrieval_score"] == np.float32 and set(inputs) == {"device", "retrieval_score"}


def test_killed_it_ends_with_the_same_bytes(shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the middle of an epoch; negatives and their scores are drawn anew as they were."""
    train = {"negatives": {"per_positive": 2}, "epochs": 2, "checkpoint": {"every_steps": 3}}
    expected = ranked(shop, tmp_path / "whole", change(train=train))
    with monkeypatch.context() as patched:
        patched.setattr("recsys.ranking.job.training_display", lambda quiet: nullcontext(Impatient(3)))
        with pytest.raises(Killed):
            ranked(shop, tmp_path / "parts", change(train=train))
    assert list((tmp_path / "parts" / "checkpoints").glob("checkpoint-*.npz"))
    assert ranked(shop, tmp_path / "parts", change(train=train)).artifact_id == expected.artifact_id


def test_a_search_keeps_it_and_closes_noise(shop, tmp_path: Path):
    gates = {"mode": "field", "penalty": 0.02, "learning_rate": 0.05, "search_epochs": 6, "final_temperature": 50.0}
    artifact = ranked(shop, tmp_path, change(gates=gates))
    report = json.loads((artifact.path / "ranking.json").read_text())
    assert report["closed_fields"] == ["device"] and report["fields"]["retrieval_score"]["kept"] == 1


def test_without_it_nothing_is_asked_for(shop, tmp_path: Path):
    """No tower is loaded; and the training rows' scores are read in one pass, not row by row."""
    bench = Workbench(shop[0], change(retrieval_score=False), 1, CheckpointFolder(tmp_path, "test"), model=tmp_path)
    assert bench.maker.scores is None and bench.score_report is None
    assert "history" not in bench.maker.columns and "retrieval_score" not in [one.name for one in bench.spec.fields]


def test_mistakes_are_one_paragraph(shop, tmp_path: Path, tiny_dataset: Path):
    dataset, model = shop
    for folder in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"ranking\.retrieval_score: .*none at .*recsys train CONFIG"):
            open_scores(dataset, folder)
    with pytest.raises(UserError, match="was trained on data set"):
        open_scores(DatasetFolder.open(tiny_dataset), model)
    refitted = {"dataset": dataset.artifact.artifact_id, "train": {"refit_on_validation": True}}
    with write_artifact(tmp_path / "refitted", "model", 1, refitted) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    with pytest.raises(UserError, match=r"train\.refit_on_validation"):
        open_scores(dataset, tmp_path / "refitted")
    with pytest.raises(ValueError, match="two_tower"):
        change(model={"backbone": "two_tower"})
    with pytest.raises(ValueError, match="'retrieval_score' is reserved"):
        Schema(fields=(Field(name="retrieval_score", side=Side.CONTEXT, kind=Kind.NUMERIC),))
    with pytest.raises(UserError, match=r"numeric\.fields: .*no field 'retrieval_score'"):
        numeric = {"model": {"numeric": {"fields": {"retrieval_score": "value"}}}}
        Workbench(dataset, change(retrieval_score=False, **numeric), 1, CheckpointFolder(tmp_path, "test"))


def test_the_report_tells_rote_learning():
    """On rows that the towers know by heart the score tells more than on others."""
    rng = np.random.default_rng(0)
    labels = (np.arange(4000) % 2).astype(np.float32)
    easy = score_report(rng.normal(2 * labels, 1).astype(np.float32), labels)
    hard = score_report(rng.normal(0.5 * labels, 1).astype(np.float32), labels)
    assert easy["auc"] > hard["auc"] + 0.2
    assert easy["mean_of"]["positives"] - easy["mean_of"]["others"] == pytest.approx(2, abs=0.2)
    assert score_report(np.ones(3, np.float32), np.ones(3))["auc"] is None
