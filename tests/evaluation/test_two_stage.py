"""The ranker orders the candidates of retrieval: its own order, the right inputs, nothing invented."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation import two_stage
from recsys.evaluation.queries import make_queries
from recsys.evaluation.two_stage import rerank
from recsys.schema import FIRST_VALUE_ID, Side


@dataclass
class ByRule:
    """Scores rows by a function of their inputs; keeps what it was given."""

    inputs: tuple[str, ...]
    rule: object
    given: list[dict] = field(default_factory=list)

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        self.given.append(arrays)
        return self.rule(arrays)


@pytest.fixture
def asked(tiny_dataset: Path):
    dataset = DatasetFolder.open(tiny_dataset)
    queries = make_queries(dataset, EvaluateConfig(), "test", lag_ms=0)
    queries = queries.take(np.arange(1, len(queries), 2))  # so that a query's number is not its row
    rng = np.random.default_rng(0)
    found = np.stack([rng.permutation(24)[:8] for _ in range(len(queries))])
    found[:, 6:][rng.random((len(queries), 2)) < 0.3] = -1
    found[3] = -1
    return dataset, queries, found, rng.random(found.shape).astype(np.float32)


def test_the_order_is_the_rankers_and_the_candidates_those_of_retrieval(asked) -> None:
    dataset, queries, found, scores = asked
    ordered = rerank(dataset, ByRule(("item",), lambda a: -a["item"].astype(float)), queries, found, scores)
    for before, after in zip(found, ordered, strict=True):
        kept = np.sort(before[before >= 0])
        assert after[: len(kept)].tolist() == kept.tolist()
        assert (after[len(kept) :] == -1).all()


def test_equal_scores_keep_the_order_of_retrieval(asked) -> None:
    dataset, queries, found, scores = asked
    ordered = rerank(dataset, ByRule((), lambda a: np.zeros(len(a["user"]))), queries, found, scores)
    for before, after in zip(found, ordered, strict=True):
        assert after[after >= 0].tolist() == before[before >= 0].tolist()


def test_every_pair_has_the_inputs_of_its_query_and_item(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, queries, found, scores = asked
    monkeypatch.setattr(two_stage, "BLOCK_ROWS", 30)  # several blocks
    names = ("user", "item", "club", "device", "history", "colour", "tags", "price", "retrieval_score")
    scorer = ByRule(names, lambda a: a["retrieval_score"])
    done: list[int] = []
    ordered = rerank(dataset, scorer, queries, found, scores, advanced=done.append)
    assert sum(done) == len(queries)
    assert len(scorer.given) > 5
    given = {name: np.concatenate([arrays[name] for arrays in scorer.given]) for name in names}
    owner, place = np.nonzero(found != -1)
    events = dataset.events("test", ("user", "device"))
    user = queries.users[owner] + FIRST_VALUE_ID
    assert (given["user"] == user).all()
    assert (given["item"] == found[owner, place] + FIRST_VALUE_ID).all()
    assert (given["device"] == events["device"].to_numpy()[queries.rows][owner]).all()
    assert (given["club"] == dataset.features(Side.USER)["club"][user]).all()
    for name in ("colour", "price", "tags"):
        np.testing.assert_array_equal(given[name], dataset.features(Side.ITEM)[name][given["item"]])
    np.testing.assert_array_equal(given["retrieval_score"], scores[owner, place])
    for row in range(len(queries)):
        there = found[row] != -1
        best_first = found[row][there][np.argsort(-scores[row][there])]
        assert ordered[row][: len(best_first)].tolist() == best_first.tolist()


def test_point_in_time_fields_are_those_of_the_moment_of_the_query(tmp_path: Path) -> None:
    from recsys.config import parse_config
    from recsys.pipeline import Pipeline

    fields = [
        {"name": "clicks_hour", "side": "item", "kind": "point_in_time", "statistic": "clicks", "window_ms": 3_600_000}
    ]
    data = {"source": "simulator", "users": 80, "items": 20, "days": 3, "impressions": 3_000, "fields": fields}
    settings = {"name": "t", "workdir": str(tmp_path), "data": data, "ingest": {"lag_ms": 5_000}}
    pipeline = Pipeline(parse_config(settings), quiet=True)
    pipeline.ingest()
    dataset = DatasetFolder.open(pipeline.dataset_path)
    queries = make_queries(dataset, EvaluateConfig(exclude_seen="none"), "test", lag_ms=5_000).thinned(20)
    width = len(dataset.items)
    found = np.tile(np.arange(width), (len(queries), 1))
    scorer = ByRule(("clicks_hour",), lambda a: a["clicks_hour"])
    ordered = rerank(dataset, scorer, queries, found, np.zeros(found.shape, np.float32))
    events = [dataset.events(split, ("item", "time", "label")) for split in ("train", "validation", "test")]
    items, times, labels = (
        np.concatenate([part[name].to_numpy() for part in events]) for name in ("item", "time", "label")
    )
    for row, moment in enumerate(queries.known_at - 5_000):
        inside = (times <= moment) & (times > moment - 3_600_000) & (labels == 1)
        counts = np.bincount(items[inside] - FIRST_VALUE_ID, minlength=width)
        assert (counts[ordered[row]] == np.sort(counts)[::-1]).all()


def test_a_ranker_of_other_data_is_refused(asked) -> None:
    dataset, queries, found, scores = asked
    with pytest.raises(UserError, match=r"the ranker reads 'mood', which .* does not have"):
        rerank(dataset, ByRule(("user", "mood"), lambda a: a["user"]), queries, found, scores)
