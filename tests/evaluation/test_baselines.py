"""Baselines against their definitions, and on a data set whose best answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.baselines.ease import Ease
from recsys.evaluation.baselines.factors import AlternatingLeastSquares, BayesianPersonalisedRanking
from recsys.evaluation.baselines.neighbours import ItemNeighbours
from recsys.evaluation.baselines.popularity import RecentPopularity
from recsys.evaluation.baselines.transitions import ItemTransitions
from recsys.evaluation.baselines.tuning import KINDS, Lessons, fit, reason_to_leave_out, tune
from recsys.evaluation.interactions import user_matrix
from recsys.evaluation.queries import Events, Queries, Spans, make_queries
from recsys.evaluation.recommend import Catalogue, recommend

HOUR = 3_600_000


def matrix(seed: int = 0, users: int = 30, items: int = 9) -> sp.csr_matrix:
    return sp.csr_matrix((np.random.default_rng(seed).random((users, items)) < 0.35).astype(np.float32))


def asked_with(history: sp.csr_matrix) -> Queries:
    """A query for each row of a matrix."""
    rows = history.shape[0]
    zeros = np.zeros(rows, np.int64)
    spans = Spans(history.indices.astype(np.int64), history.indptr[:-1], history.indptr[1:])
    return Queries("test", "event", np.arange(rows), zeros, zeros, zeros, spans, None, spans)


def test_ease_is_ridge_regression_of_each_item_on_the_others() -> None:
    data, strength = matrix(), 3.0
    weights = Ease.fit(data, regularisation=strength).weights
    dense = data.toarray().astype(np.float64)
    for item in range(dense.shape[1]):
        others = np.delete(dense, item, axis=1)
        gram = others.T @ others + strength * np.eye(others.shape[1])
        expected = np.linalg.solve(gram, others.T @ dense[:, item])
        np.testing.assert_allclose(np.delete(weights[:, item], item), expected, atol=1e-5)
        assert weights[item, item] == 0


def test_cosine_neighbours_are_cosines_of_columns_without_the_item_itself() -> None:
    data = matrix(1)
    model = ItemNeighbours.fit(data, weighting="cosine", neighbours=data.shape[1])
    dense = data.toarray().astype(np.float64)
    unit = dense / np.linalg.norm(dense, axis=0)
    expected = unit.T @ unit
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(model.similarity.toarray(), expected, atol=1e-6)
    scores = model.scores(asked_with(data), 0, 5)
    np.testing.assert_allclose(scores, dense[:5] @ expected, atol=1e-5)


def test_only_the_nearest_neighbours_speak() -> None:
    model = ItemNeighbours.fit(matrix(1), weighting="bm25", neighbours=2)
    assert (np.diff(model.similarity.indptr) <= 2).all() and model.similarity.nnz > 0


def test_als_folds_a_history_in_by_the_normal_equations() -> None:
    data, alpha, strength = matrix(2), 4.0, 0.3
    model = AlternatingLeastSquares.fit(data, factors=4, regularisation=strength, alpha=alpha, iterations=5, seed=1)
    items = model.model.item_factors.astype(np.float64)
    newcomers = matrix(3)
    scores = model.scores(asked_with(newcomers), 0, newcomers.shape[0])
    for row, history in enumerate(newcomers.toarray()):
        confidence = np.where(history > 0, alpha, 1.0)
        left = (items.T * confidence) @ items + strength * np.eye(4)
        right = items.T @ (confidence * history)
        np.testing.assert_allclose(scores[row], items @ np.linalg.solve(left, right), atol=1e-3)


def test_bpr_asks_learned_users_by_their_own_factors_and_others_by_their_history() -> None:
    data = sp.vstack([matrix(4), sp.csr_matrix((2, 9), dtype=np.float32)]).tocsr()
    settings = {"factors": 3, "learning_rate": 0.05, "regularisation": 0.01, "iterations": 3, "seed": 1}
    own = BayesianPersonalisedRanking.fit(data, **settings)
    folded = replace(own, own_factors=False)
    queries = asked_with(sp.vstack([matrix(4), matrix(5, users=2)]).tocsr())
    np.testing.assert_allclose(own.scores(queries, 0, 30), own.user_factors[:30] @ own.item_factors.T, atol=1e-5)
    np.testing.assert_allclose(own.scores(queries, 30, 32), folded.scores(queries, 30, 32))
    history = matrix(5, users=2).toarray()
    mean = (history @ folded.item_factors) / history.sum(axis=1, keepdims=True)
    mean[:, -1] = 1
    np.testing.assert_allclose(folded.scores(queries, 30, 32), mean @ folded.item_factors.T, atol=1e-5)


def log(seed: int, count: int = 80, items: int = 6) -> Events:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 50, count)) * HOUR // 4
    ones = np.ones(count, bool)
    return Events(rng.integers(0, 8, count), rng.integers(0, items, count), times, ones, ones.astype(np.int8))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), hour=st.integers(0, 13), lag=st.sampled_from([0, 1, HOUR]))
def test_recent_popularity_counts_the_window_and_never_the_future(seed: int, hour: int, lag: int) -> None:
    events = log(seed)
    model = RecentPopularity(events, 6, window_ms=2 * HOUR, lag_ms=lag)
    now = hour * HOUR
    model.advance(now)
    until = now - max(lag, 1)
    rows = list(zip(events.items.tolist(), events.times.tolist(), strict=True))
    recent = [sum(i == item and until - 2 * HOUR < t <= until for i, t in rows) for item in range(6)]
    ever = [sum(i == item and t <= until for i, t in rows) for item in range(6)]
    scores = model.scores(asked_with(matrix(0, users=1, items=6)), 0, 1)[0]
    np.testing.assert_array_equal(np.floor(scores + 1e-6), recent)
    tied = [(r, e) for r, e in zip(recent, ever, strict=True)]
    order = sorted(range(6), key=lambda item: tied[item])
    assert [tied[i] for i in np.argsort(scores, kind="stable")] == [tied[i] for i in order]


def test_transitions_follow_the_last_item_and_fade() -> None:
    def events(*rows: tuple[int, int, int]) -> Events:
        users, items, times = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        return Events(users, items, times * HOUR, np.ones(len(rows), bool), np.zeros(len(rows), np.int8))

    past = events((0, 0, 0), (0, 1, 1), (1, 0, 9), (1, 2, 10), (2, 3, 10), (2, 4, 30))
    model = ItemTransitions(past, 5, half_life_ms=HOUR, window_ms=HOUR, smoothing=0.0, lag_ms=0)
    model.advance(11 * HOUR)
    history = sp.csr_matrix(np.array([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32))
    scores = model.scores(asked_with(history), 0, 3)
    np.testing.assert_allclose(scores[0], [0, 2.0**-10, 2.0**-1, 0, 0], rtol=1e-4)
    assert not scores[1:].any(), "3 -> 4 lies in the future, and an empty history has no last item"
    one = np.zeros(1, np.int64)
    newest_last = replace(asked_with(history[:1]), history=Spans(np.array([3, 0]), one, one + 2))
    np.testing.assert_array_equal(model.scores(newest_last, 0, 1)[0], scores[0])


@pytest.fixture(scope="module")
def setting(tiny_dataset: Path) -> tuple[Lessons, Queries, Queries, Catalogue, DatasetFolder]:
    dataset = DatasetFolder.open(tiny_dataset)
    everything = Events.read(dataset)
    catalogue = Catalogue(dataset.items["count"].to_numpy(), None)
    lessons = Lessons(
        everything.where(everything.part == 0), everything, len(dataset.users), len(catalogue), lag_ms=0, seed=1
    )
    asked = [make_queries(dataset, EvaluateConfig(), split, lag_ms=0) for split in ("validation", "test")]
    return lessons, asked[0], asked[1], catalogue, dataset


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("item_knn", {"weighting": "cosine", "neighbours": 12}),
        ("ease", {"regularisation": 10.0}),
        ("als", {"factors": 2, "regularisation": 0.05, "alpha": 5.0, "iterations": 15}),
        ("bpr", {"factors": 4, "learning_rate": 0.1, "regularisation": 0.01, "iterations": 200, "own_factors": False}),
    ],
)
def test_items_of_the_users_own_block_come_first(name: str, settings: dict, setting: tuple) -> None:
    """The known optimum: even users like even items, so the three unseen items of the own block fill the top."""
    lessons, _, queries, catalogue, dataset = setting
    found = recommend(fit(name, lessons, settings), queries, catalogue, 3)
    odd_item = np.array([int(raw[1:]) % 2 for raw in dataset.items["raw"].to_pylist()])
    odd_user = np.array([int(raw[1:]) % 2 for raw in dataset.users["raw"].to_pylist()])
    right = odd_item[found] == odd_user[queries.users][:, None]
    # Stochastic gradients on forty users are noisy; closed forms are not.
    assert right.mean() > (0.9 if name == "bpr" else 0.99)


def test_popularity_cannot_tell_the_blocks_apart(setting: tuple) -> None:
    lessons, _, queries, catalogue, dataset = setting
    found = recommend(fit("popularity", lessons, {}), queries, catalogue, 3)
    odd_item = np.array([int(raw[1:]) % 2 for raw in dataset.items["raw"].to_pylist()])
    odd_user = np.array([int(raw[1:]) % 2 for raw in dataset.users["raw"].to_pylist()])
    # The most popular items of the own block are mostly seen already, so chance is the ceiling, not the mean.
    assert (odd_item[found] == odd_user[queries.users][:, None]).mean() < 0.6


def test_tuning_takes_the_best_setting_on_validation(setting: tuple) -> None:
    lessons, validation, _, catalogue, _ = setting
    ticks = []
    chosen, tried = tune("item_knn", lessons, validation, catalogue, 3, lambda: ticks.append(1))
    assert len(tried) == len(ticks) == len(KINDS["item_knn"].grid)
    best = max(row["recall@3"] for row in tried)
    assert next(row for row in tried if row["settings"] == dict(chosen))["recall@3"] == best
    chosen, tried = tune("bpr", lessons, validation, catalogue, 3, lambda: None)
    assert max(tried, key=lambda row: row["recall@3"])["settings"] == dict(chosen)
    for row in tried:
        model = fit("bpr", lessons, row["settings"])
        assert model.own_factors == row["settings"]["own_factors"]  # type: ignore[attr-defined]
    assert len({row["recall@3"] for row in tried}) > 1
    assert tune("popularity", lessons, validation, catalogue, 3, lambda: None) == ({}, [])


def test_what_cannot_run_is_left_out_with_a_reason() -> None:
    assert "no times" in str(reason_to_leave_out("recent_popularity", 10, has_time=False, ease_max_items=5))
    assert "10 items" in str(reason_to_leave_out("ease", 10, has_time=True, ease_max_items=5))
    assert reason_to_leave_out("ease", 5, has_time=False, ease_max_items=5) is None


def test_the_matrix_counts_a_repeat_once() -> None:
    events = Events(*(np.array(x) for x in ([0, 0, 1], [2, 2, 0], [1, 2, 3])), np.ones(3, bool), np.zeros(3, np.int8))
    np.testing.assert_array_equal(user_matrix(events, 2, 3).toarray(), [[0, 0, 1], [1, 0, 0]])
