"""Deterministic figures on real data: popularity must come out as published, else the protocol is another one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.evaluation.baselines.ease import Ease
from recsys.evaluation.baselines.popularity import Popularity
from recsys.evaluation.interactions import user_matrix
from recsys.evaluation.metrics import per_query
from recsys.evaluation.queries import Events, Queries, _by_event, _by_user
from recsys.evaluation.recommend import Catalogue, Recommender, recommend

pytestmark = pytest.mark.data
HOUR = 3_600_000


def means(model: Recommender, queries: Queries, counts: np.ndarray, k: int) -> tuple[float, float]:
    """Recall and NDCG at k."""
    found = recommend(model, queries, Catalogue(counts, None), k)
    offsets, targets = queries.targets.block(0, len(queries))
    values = per_query(found, offsets, targets, (k,))
    return float(values[f"recall@{k}"].mean()), float(values[f"ndcg@{k}"].mean())


def gowalla(folder: Path) -> Events:
    """The given split: a line is a user and its items."""
    parts = []
    for number, name in ((0, "train.txt"), (2, "test.txt")):
        for line in (folder / name).read_text().splitlines():
            user, *items = (int(value) for value in line.split())
            parts.append((number, user, items))
    sizes = np.array([len(items) for *_, items in parts])
    users, part = (np.repeat(np.array([row[i] for row in parts]), sizes) for i in (1, 0))
    items = np.concatenate([np.array(items, np.int64) for *_, items in parts])
    return Events(users, items, np.zeros(len(items), np.int64), np.ones(len(items), bool), part.astype(np.int8))


def test_popularity_on_gowalla_is_the_published_figure(real_data: Callable[[str], Path]) -> None:
    """.0416 / .0317 recall@20 / NDCG@20 (LightGCN's split; BARS): targets divide recall, ideal list min(targets, k)."""
    events = gowalla(real_data("gowalla"))
    counts = np.bincount(events.items[events.part == 0], minlength=int(events.items.max()) + 1)
    queries = _by_user(events, "test", "training")
    assert len(queries) == 29_858 and len(counts) == 40_981
    recall, ndcg = means(Popularity(counts), queries, counts, 20)
    assert round(recall, 4) == 0.0416
    assert round(ndcg, 4) == 0.0317


@pytest.fixture(scope="module")
def ratings(data_root: Path) -> Events:
    """MovieLens 100K: ratings of 4 and 5 are positive; cut-offs at 80 and 90 % of the events."""
    path = data_root / "ml-100k" / "u.data"
    if not path.is_file():
        from tests.conftest import lacking

        lacking(f"{path} (MovieLens 100K)")
    table = np.loadtxt(path, dtype=np.int64)
    table = table[np.argsort(table[:, 3], kind="stable")]
    cuts = table[[int(0.8 * len(table)), int(0.9 * len(table))], 3]
    part = np.searchsorted(cuts, table[:, 3], side="right").astype(np.int8)
    positive = table[:, 2] >= 4
    # Columns by falling count, as a data set has them: a query without history (scores 0) gets what is popular.
    counts = np.bincount(table[positive & (part == 0), 1], minlength=int(table[:, 1].max()) + 1)
    columns = np.argsort(np.argsort(-counts, kind="stable"))[table[:, 1]]
    return Events(table[:, 0] - 1, columns, table[:, 3] * 1000, positive, part)


@pytest.mark.parametrize(("name", "recall", "ndcg"), [("popularity", 0.259, 0.076), ("ease", 0.405, 0.124)])
def test_movielens_gives_the_figures_of_an_independent_trial(
    name: str, recall: float, ndcg: float, ratings: Events
) -> None:
    """An earlier trial, written apart from this code, had .259/.076 and .407/.124 (EASE) at 50 under this protocol."""
    trained = ratings.where(ratings.positive & (ratings.part == 0))
    items = int(ratings.items.max()) + 1
    counts = np.bincount(trained.items, minlength=items)
    matrix = user_matrix(trained, int(ratings.users.max()) + 1, items)
    model = Popularity(counts) if name == "popularity" else Ease.fit(matrix, regularisation=500.0)
    queries = _by_event(ratings, "test", "before_event", 0, HOUR)
    found = means(model, queries, counts, 50)
    assert found == (pytest.approx(recall, abs=0.003), pytest.approx(ndcg, abs=0.001))
