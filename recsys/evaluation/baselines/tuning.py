"""Which baselines there are, the grids that they are tuned over on validation queries, and fitting the chosen one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from recsys.evaluation.baselines.ease import Ease
from recsys.evaluation.baselines.factors import AlternatingLeastSquares, BayesianPersonalisedRanking
from recsys.evaluation.baselines.neighbours import ItemNeighbours
from recsys.evaluation.baselines.popularity import Popularity, RecentPopularity
from recsys.evaluation.baselines.transitions import ItemTransitions
from recsys.evaluation.baselines.tutorial import TutorialTwoTower
from recsys.evaluation.interactions import user_matrix
from recsys.evaluation.metrics import find_hits, recall
from recsys.evaluation.queries import Events, Queries
from recsys.evaluation.recommend import Catalogue, Recommender, recommend

MS_AN_HOUR = 3_600_000

Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a baseline may learn from: `events` are the positives of the parts to fit on; `log` those of all parts, for
    baselines that look back from a moment (they may use what came before it, never more)."""

    events: Events
    log: Events
    users: int
    catalogue: int
    lag_ms: int
    seed: int


@dataclass(frozen=True)
class Kind:
    """A baseline: how it is fitted, and the settings worth trying.

    `asked` names settings that are fields of the fitted model and only change how it is asked: they need no new fit.
    """

    fit: Callable[..., Any]
    grid: tuple[Settings, ...] = ({},)
    needs_time: bool = False
    asked: tuple[str, ...] = ()


def _grid(**values: tuple) -> tuple[Settings, ...]:
    return tuple(dict(zip(values, row, strict=True)) for row in product(*values.values()))


def _popularity(lessons: Lessons) -> Recommender:
    return Popularity(np.bincount(lessons.events.items, minlength=lessons.catalogue))


def _recent(lessons: Lessons, *, window_hours: float) -> Recommender:
    return RecentPopularity(lessons.log, lessons.catalogue, int(window_hours * MS_AN_HOUR), lessons.lag_ms)


def _transitions(lessons: Lessons, *, half_life_hours: float, window_hours: float, smoothing: float) -> Recommender:
    return ItemTransitions(
        lessons.log,
        lessons.catalogue,
        half_life_ms=int(half_life_hours * MS_AN_HOUR),
        window_ms=int(window_hours * MS_AN_HOUR),
        smoothing=smoothing,
        lag_ms=lessons.lag_ms,
    )


def _neighbours(lessons: Lessons, **settings: Any) -> Recommender:
    return ItemNeighbours.fit(user_matrix(lessons.events, lessons.users, lessons.catalogue), **settings)


def _als(lessons: Lessons, **settings: Any) -> Recommender:
    matrix = user_matrix(lessons.events, lessons.users, lessons.catalogue)
    return AlternatingLeastSquares.fit(matrix, seed=lessons.seed, **settings)


def _bpr(lessons: Lessons, **settings: Any) -> Recommender:
    matrix = user_matrix(lessons.events, lessons.users, lessons.catalogue)
    return BayesianPersonalisedRanking.fit(matrix, seed=lessons.seed, **settings)


def _ease(lessons: Lessons, **settings: Any) -> Recommender:
    return Ease.fit(user_matrix(lessons.events, lessons.users, lessons.catalogue), **settings)


def _tutorial(lessons: Lessons) -> Recommender:
    return TutorialTwoTower.fit(lessons.events, lessons.users, lessons.catalogue, seed=lessons.seed)


KINDS: Mapping[str, Kind] = {
    "popularity": Kind(_popularity),
    "recent_popularity": Kind(
        _recent,
        _grid(window_hours=(1 / 12, 1 / 6, 0.25, 0.5, 1.0, 2.0, 6.0, 24.0, 24.0 * 7, 24.0 * 30, 24.0 * 90)),
        needs_time=True,
    ),
    "item_transitions": Kind(
        _transitions,
        _grid(half_life_hours=(2.0, 24.0 * 14), window_hours=(0.5, 24.0 * 30), smoothing=(1.0, 10.0)),
        needs_time=True,
    ),
    "item_knn": Kind(_neighbours, _grid(weighting=("cosine", "bm25"), neighbours=(50, 100, 200, 500, 1000))),
    "als": Kind(_als, _grid(factors=(16, 64), regularisation=(0.05,), alpha=(1.0, 5.0, 20.0), iterations=(15,))),
    "bpr": Kind(
        _bpr,
        _grid(
            factors=(64,),
            learning_rate=(0.05,),
            regularisation=(0.002, 0.01),
            iterations=(100,),
            own_factors=(True, False),
        ),
        asked=("own_factors",),
    ),
    "ease": Kind(_ease, _grid(regularisation=(50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0))),
    "tutorial": Kind(_tutorial),
}
"""By the names of `evaluate.baselines`."""


def reason_to_leave_out(name: str, catalogue: int, *, has_time: bool, ease_max_items: int) -> str | None:
    """Why a baseline cannot run on these data, or None."""
    if KINDS[name].needs_time and not has_time:
        return "the data have no times"
    if name == "ease" and catalogue > ease_max_items:
        return f"{catalogue:,} items: more than evaluate.ease_max_items {ease_max_items:,}"
    return None


def tune(
    name: str, lessons: Lessons, queries: Queries, catalogue: Catalogue, k: int, tried: Callable[[], None]
) -> tuple[Settings, list[dict]]:
    """The settings with the best recall@k on validation queries (the first of equals), and every one tried."""
    grid = KINDS[name].grid
    if len(grid) == 1:
        return grid[0], []
    sizes = queries.targets.stop - queries.targets.start
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    _, targets = queries.targets.block(0, len(queries))
    values: list[dict] = []
    model: Any = None
    fitted: Settings | None = None
    for settings in grid:
        learned, asked = _parts(name, settings)
        if learned != fitted:
            model, fitted = KINDS[name].fit(lessons, **learned), learned
        found = recommend(replace(model, **asked) if asked else model, queries, catalogue, k)
        value = float(recall(find_hits(found, offsets, targets), offsets, k).mean())
        values.append({"settings": dict(settings), f"recall@{k}": value})
        tried()
    best = int(np.argmax([row[f"recall@{k}"] for row in values]))
    return grid[best], values


def fit(name: str, lessons: Lessons, settings: Settings) -> Recommender:
    """A baseline with the settings that `tune` chose."""
    learned, asked = _parts(name, settings)
    model = KINDS[name].fit(lessons, **learned)
    return replace(model, **asked) if asked else model


def _parts(name: str, settings: Settings) -> tuple[Settings, Settings]:
    """The settings that a fit needs, and those that only change how the model is asked."""
    asked = {key: value for key, value in settings.items() if key in KINDS[name].asked}
    return {key: value for key, value in settings.items() if key not in asked}, asked


def on_parts(lessons: Lessons, parts: tuple[int, ...]) -> Lessons:
    """The same lessons with only the positives of some parts to fit on."""
    return replace(lessons, events=lessons.log.where(np.isin(lessons.log.part, parts)))
