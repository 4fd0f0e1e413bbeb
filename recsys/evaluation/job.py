"""The evaluation stage: our model and the baselines on the same queries, in one table and one report."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.artifacts import Artifact, open_artifact, write_artifact
from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation import REPORT_FORMAT, REPORT_KIND
from recsys.evaluation.baselines.tuning import KINDS, Lessons, fit, on_parts, reason_to_leave_out, tune
from recsys.evaluation.bootstrap import Resamples
from recsys.evaluation.measure import Yardstick, measure
from recsys.evaluation.queries import Events, Queries, lag_of, make_queries, protocol_of
from recsys.evaluation.recommend import Catalogue, Recommender, recommend, recommend_scored
from recsys.evaluation.report import write_report
from recsys.evaluation.slices import popularity_classes, slice_targets
from recsys.evaluation.summary import comparison, context, headline
from recsys.evaluation.table import SECOND
from recsys.evaluation.two_stage import rerank
from recsys.evaluation.two_tower import two_tower
from recsys.registry import BUNDLE_FORMAT, BUNDLE_KIND
from recsys.schema import SPLITS
from recsys.scoring.towers import load_tower

OURS = "two_tower"
TRAIN, VALIDATION = 0, 1


@dataclass(frozen=True, eq=False)
class Setting:
    """All that the models have in common in one evaluation."""

    dataset: DatasetFolder
    config: EvaluateConfig
    queries: Queries
    catalogue: Catalogue
    lessons: Lessons
    fit_parts: tuple[int, ...]
    progress: Progress

    @cached_property
    def tuning_queries(self) -> Queries | None:
        """What baselines are tuned on; None where the data set has no validation part."""
        if not self.dataset.event_files("validation"):
            return None
        queries = make_queries(self.dataset, self.config, "validation", lag_ms=self.lessons.lag_ms)
        return queries.thinned(self.config.tuning_queries)


def evaluate(
    dataset: DatasetFolder, bundle: Path, config: EvaluateConfig, output: Path, *, seed: int, quiet: bool = False
) -> dict:
    """Measure a bundle and the baselines over the full catalogue and write the report folder.

    Returns what `metrics.json` holds (docs/evaluation.md). The folder also has `report.html`. Raises UserError where
    the bundle was made from another data set or the split has nothing to find.
    """
    opened = open_artifact(bundle, BUNDLE_KIND, BUNDLE_FORMAT)
    _check(opened, dataset, config)
    model = opened.path / "model"
    lag = lag_of(dataset)
    queries = make_queries(dataset, config, config.split, lag_ms=lag)
    catalogue = _catalogue(dataset, config, lag)
    log = Events.read(dataset)
    log = log.where(log.positive)
    fit_parts = _fit_parts(model, config)
    lessons = on_parts(Lessons(log, log, len(dataset.users), len(catalogue), lag, seed), fit_parts)
    with _progress(quiet) as progress:
        setting = Setting(dataset, config, queries, catalogue, lessons, fit_parts, progress)
        yardstick = _yardstick(setting, seed)
        measured = {name: measure(found, yardstick) for name, found in _stages(setting, opened).items()}
        notes: dict[str, dict] = {name: {} for name in measured}
        left_out: dict[str, str] = {}
        for name in config.baselines:
            reason = reason_to_leave_out(
                name, len(catalogue), has_time=dataset.schema.has_time, ease_max_items=config.ease_max_items
            )
            if reason:
                left_out[name] = reason
                continue
            baseline, notes[name] = _baseline(setting, name)
            measured[name] = measure(_run(setting, name, baseline), yardstick)
    metrics = {
        **context(dataset, config, queries, [SPLITS[part] for part in fit_parts], opened),
        "models": {name: notes[name] | one.figures for name, one in measured.items()},
        "left_out": left_out,
        **comparison(measured, OURS, SECOND, config),
        "headline": headline(measured[OURS]),
        "ranking": _ranking(setting, opened, seed),
    }
    with write_artifact(output, REPORT_KIND, REPORT_FORMAT, {"bundle": opened.artifact_id, "seed": seed}) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        write_report(folder / "report.html", metrics, opened)
    return metrics


def _check(bundle: Artifact, dataset: DatasetFolder, config: EvaluateConfig) -> None:
    found, expected = bundle.manifest.get("dataset"), dataset.artifact.artifact_id
    if found != expected:
        raise UserError(
            f"{bundle.path}: the bundle was made from the data set {found}, but {dataset.path} is {expected}; evaluate "
            "it on its own data set, or index a model of this one."
        )
    if config.main_k not in config.ks:
        raise UserError(f"evaluate.main_k: {config.main_k} is not one of evaluate.ks {list(config.ks)}.")
    if config.split == "validation" and config.fit_on == "training_and_validation":
        raise UserError(
            "evaluate.fit_on: 'training_and_validation' would learn the answers of evaluate.split 'validation'."
        )
    if config.split == "validation" and _learned_validation(bundle.path / "model"):
        raise UserError(
            "evaluate.split: 'validation', but the model was refitted on the validation part "
            "(train.refit_on_validation); evaluate on 'test', or train without the refit."
        )


def _catalogue(dataset: DatasetFolder, config: EvaluateConfig, lag: int) -> Catalogue:
    counts = dataset.items["count"].to_numpy()
    if protocol_of(dataset, config)[2] == "all":
        return Catalogue(counts, None)
    return Catalogue(counts, dataset.items["available_from"].to_numpy() + lag)


def _fit_parts(model: Path, config: EvaluateConfig) -> tuple[int, ...]:
    """The parts that baselines are fitted on."""
    if config.split == "validation":
        return (TRAIN,)
    both = config.fit_on == "training_and_validation"
    if config.fit_on == "auto":
        both = _learned_validation(model)
    return (TRAIN, VALIDATION) if both else (TRAIN,)


def _learned_validation(model: Path) -> bool:
    """Whether the model was refitted on the validation part."""
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    return bool(manifest.get("train", {}).get("refit_on_validation", False))


def _yardstick(setting: Setting, seed: int) -> Yardstick:
    config, counts = setting.config, setting.catalogue.counts
    classes = popularity_classes(counts, config.head_share, config.tail_share)
    slices = slice_targets(setting.queries, setting.dataset.users["count"].to_numpy(), classes)
    resamples = Resamples.make(setting.queries.users, config.bootstrap, seed) if config.bootstrap else None
    return Yardstick(slices, counts, classes, config.ks, resamples, config.confidence)


def _ours(setting: Setting, model: Path) -> Recommender:
    vectors = np.load(model / "vectors.npy").astype(np.float32, copy=False)
    towers = load_tower(model / "query_tower"), load_tower(model / "item_tower")
    return two_tower(setting.dataset, *towers, setting.queries, vectors)


def _stages(setting: Setting, bundle: Artifact) -> dict[str, np.ndarray]:
    """The lists `[n, max(ks)]` of the retrieval model and, where the bundle has a ranker, of the ranker behind it."""
    width = max(setting.config.ks)
    model = _ours(setting, bundle.path / "model")
    if not (bundle.path / "ranker").is_dir():
        return {OURS: _run(setting, OURS, model)}
    from recsys.scoring.ranker import load_ranker

    ranker = load_ranker(bundle.path / "ranker")
    candidates = max(width, setting.config.rank_candidates)
    found, scores = recommend_scored(
        model, setting.queries, setting.catalogue, candidates, advanced=_bar(setting, OURS)
    )
    ranked = rerank(setting.dataset, ranker, setting.queries, found, scores, advanced=_bar(setting, SECOND))
    return {OURS: found[:, :width], SECOND: ranked[:, :width]}


def _ranking(setting: Setting, bundle: Artifact, seed: int) -> dict | None:
    """How good the ranker's probabilities are on the split's impressions; None without a ranker."""
    if not (bundle.path / "ranker").is_dir():
        return None
    from recsys.ranking.evaluation import evaluate_ranker

    config = setting.config
    return evaluate_ranker(
        setting.dataset,
        bundle.path / "ranker",
        config.split,
        resamples=config.bootstrap,
        confidence=config.confidence,
        seed=seed,
        model=bundle.path / "model",
    )


def _bar(setting: Setting, name: str) -> Callable[[int], None]:
    task = setting.progress.add_task(name, total=len(setting.queries))
    return lambda done: setting.progress.advance(task, done)


def _run(setting: Setting, name: str, model: Recommender) -> np.ndarray:
    advanced = _bar(setting, name)
    return recommend(model, setting.queries, setting.catalogue, max(setting.config.ks), advanced=advanced)


def _baseline(setting: Setting, name: str) -> tuple[Recommender, dict]:
    """A baseline tuned on validation and fitted, and the record of its tuning."""
    config, grid = setting.config, KINDS[name].grid
    settings, tried = grid[0], list[dict]()
    queries = setting.tuning_queries if len(grid) > 1 else None
    if queries is not None:
        task = setting.progress.add_task(f"tuning {name}", total=len(grid))
        training = on_parts(setting.lessons, (TRAIN,))
        ticked = lambda: setting.progress.advance(task)  # noqa: E731
        settings, tried = tune(name, training, queries, setting.catalogue, config.main_k, ticked)
    return fit(name, setting.lessons, settings), {"settings": dict(settings), "tried": tried}


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar a model, on a terminal only."""
    columns = (
        TextColumn("{task.description:>24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    progress = Progress(*columns)
    progress.disable = quiet or not progress.console.is_terminal
    with progress:
        yield progress
