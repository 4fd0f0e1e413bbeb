"""The ranking job: a data set folder to a ranker folder."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from recsys._tensorflow import tf
from recsys.artifacts import Artifact, fingerprint, latency_file, open_artifact, write_artifact, write_atomic
from recsys.config.gates import GatesConfig
from recsys.config.ranking import Control, RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.device import on_device
from recsys.errors import UserError
from recsys.ranking import RANKER_FORMAT, RANKER_KIND
from recsys.ranking.calibration import IDENTITY, Calibration, calibration_to_json, fit_calibration
from recsys.ranking.examples import split_examples
from recsys.ranking.export import export_ranker, scoring_function
from recsys.ranking.latency import latency_report
from recsys.ranking.live import LiveRanker
from recsys.ranking.model import Ranker
from recsys.ranking.pruning import prune
from recsys.ranking.seeds import named_seed
from recsys.ranking.selection import Candidate, as_logits, at_random, choose, most_frequent
from recsys.ranking.tasks import CLICK, CalibratedTask, labels_of
from recsys.ranking.value_report import ValueSet, write_value_tables, written_report
from recsys.ranking.workbench import Outcome, Workbench
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.display import training_display
from recsys.retrieval.export import write_json
from recsys.schema import FIRST_VALUE_ID, RETRIEVAL_SCORE, SPLITS, Kind, Side

MODEL = "model"
REPORT = "ranking.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What the job ends with: the training outcome, the gates' settings (None: a plain model), all sets tried."""

    outcome: Outcome
    gates: GatesConfig | None
    sets: list[ValueSet]
    search_epochs: list[dict[str, float]]


def check(dataset: DatasetFolder, config: RankingConfig, seed: int) -> None:
    """What can be said of a ranker's settings before the towers are trained, so that hours later it needs no saying.

    Raises UserError for settings that do not fit the data set, and where a gate that nothing needs could not close. A
    retrieval score, which there is not yet, is left out, and with it the fields of gates; of a ranker that reads
    nothing else only the position is looked at.
    """
    _neutral(dataset, config)
    model = config.model
    if config.retrieval_score and model.features == ():
        return
    readings = {name: how for name, how in model.numeric.fields.items() if name != RETRIEVAL_SCORE}
    model = model.model_copy(update={"numeric": model.numeric.model_copy(update={"fields": readings})})
    without = config.model_copy(update={"model": model, "retrieval_score": False})
    with TemporaryDirectory() as nothing:
        bench = Workbench(dataset, without, seed, CheckpointFolder(Path(nothing), ""))
    if len(_kappas(config)) > 1:
        labels = labels_of(dataset, SPLITS[1])
        if not (labels and (len(labels) == 2 or (config.train.negatives is not None and 1.0 in labels))):
            raise _nothing_to_judge_by(dataset)
    for one in _kappas(config):
        bench.search_settings(one)
        if not config.retrieval_score:
            bench.gated_fields(one)


def rank(
    dataset: DatasetFolder,
    config: RankingConfig,
    seed: int,
    output: Path,
    *,
    checkpoints: Path,
    logs: Path,
    retrieval_model: Path | None = None,
    quiet: bool = False,
) -> Artifact:
    """Train a ranker on labelled events and write its folder (docs/contracts.md, 'Ranker folder') to `output`.

    `retrieval_model` is the folder of the towers that it will stand behind; its manifest records which they were.
    Without `gates` one training; with them a search for each kappa, training on what it kept, the choice, the
    controls. Killed at any moment and called again with the same `checkpoints` folder, it goes on and ends with the
    same ranker. Raises UserError for settings that do not fit the data set or the machine.
    """
    tf.config.experimental.enable_op_determinism()
    settings = {
        "dataset": dataset.artifact.artifact_id,
        "ranking": config.model_dump(mode="json"),
        "seed": seed,
        "retrieval_model": _id_of(retrieval_model),
    }
    folder = CheckpointFolder(checkpoints, fingerprint(settings))
    with on_device(config.train.device, "ranking.train.device"), training_display(quiet) as display:
        bench = Workbench(dataset, config, seed, folder, display, Path(logs), retrieval_model)
        neutral = _neutral(dataset, config)
        chosen = _plain(bench) if config.gates is None else _searched(bench, config.gates)
        _require_some_kept(bench, chosen)
        model = bench.ranker(chosen.outcome, chosen.gates)
        calibration, tasks = _calibrations(bench, model)
    exported = prune(model) if model.gates is not None else model
    report = written_report(bench, chosen.sets, chosen.outcome, chosen.gates, chosen.search_epochs, model, exported)
    with write_artifact(output, RANKER_KIND, RANKER_FORMAT, settings) as target:
        names = {one.name for one in exported.spec.fields}
        fixed = {name: value for name, value in neutral.items() if name in names}
        export_ranker(exported, calibration, fixed, target / MODEL, tasks)
        stored = calibration_to_json(calibration)
        if tasks:
            stored["tasks"] = {name: calibration_to_json(task.calibration) for name, task in tasks.items()}
        write_json(target / CALIBRATION, stored)
        write_json(target / REPORT, report | {"calibration": stored})
        write_json(target / "schema.json", dataset.schema.model_dump(mode="json"))
        if chosen.gates is not None and chosen.outcome.gates is not None:
            write_value_tables(target / "values", bench, chosen.outcome.gates, chosen.gates, exported)
    # A clock has no place in the folder: equal rankers have equal bytes.
    sample = bench.validation or split_examples(bench.maker, SPLITS[0], seed)
    before = scoring_function(model, calibration, neutral, tasks) if exported is not model else None
    after = scoring_function(exported, calibration, fixed, tasks)
    found = latency_report(before, after, sample.features)
    write_atomic(latency_file(output), json.dumps(found, indent=1).encode())
    return open_artifact(output, RANKER_KIND, RANKER_FORMAT)


def _require_some_kept(bench: Workbench, chosen: _Chosen) -> None:
    """Raise UserError where a search has closed all there is: what is left scores every item alike."""
    if chosen.gates is None or bench.kept_ratio(chosen.outcome.gates, chosen.gates) > 0.0:
        return
    raise UserError(
        f"ranking.gates: the search closed every value at penalty {chosen.gates.penalty_for(bench.rows):.3g}, so the "
        "ranker would score all items alike; lower the penalty, or give smaller 'kappas'."
    )


def _nothing_to_judge_by(dataset: DatasetFolder) -> UserError:
    return UserError(
        "ranking.kappas: which set of values is as good as the best is told by the AUC on validation rows, but "
        f"{dataset.path} has none with both labels; give one 'gates.kappa', or split off a validation part."
    )


def _id_of(model: Path | None) -> str | None:
    return None if model is None else open_artifact(model, MODEL_KIND, MODEL_FORMAT).artifact_id


def _plain(bench: Workbench) -> _Chosen:
    outcome = bench.train("train")
    return _Chosen(outcome, None, [ValueSet("backbone", None, 1.0, outcome.best_auc, True, outcome.task_auc)], [])


def _searched(bench: Workbench, gates: GatesConfig) -> _Chosen:
    """Search with each kappa, train on what is kept, choose, then train the controls of the chosen one's size."""
    several = _kappas(bench.config)
    for one in several:
        bench.search_settings(one)
    told = next(filter(None, map(bench.rare_values, several)), None)
    if told is not None:
        print(told, file=sys.stderr, flush=True)
    if len(several) > 1 and bench.judge is None:
        raise _nothing_to_judge_by(bench.dataset)
    # What a phase ended with is as large as the table: it is read back rather than kept while others run.
    sets = [_tried(bench, place, one) for place, one in enumerate(several)]
    found = [Candidate(one.kappa or 0.0, one.kept_ratio, one.validation_auc or 0.0) for one in sets]
    best = choose(found, bench.config.tolerance)
    sets[best] = replace(sets[best], chosen=True)
    searched, outcome = _of_kappa(bench, best, several[best])
    for control in bench.config.controls:
        sets.append(_control(bench, control, several[best], searched))
    return _Chosen(outcome, several[best], sets, searched.epochs)


def _kappas(config: RankingConfig) -> list[GatesConfig]:
    """The searches to make, one a penalty; none without gates."""
    if config.gates is None:
        return []
    several = [config.gates.model_copy(update={"kappa": kappa, "penalty": None}) for kappa in config.kappas]
    return several or [config.gates]


def _of_kappa(bench: Workbench, place: int, gates: GatesConfig) -> tuple[Outcome, Outcome]:
    """A search and the training on what it kept."""
    searched = bench.search(f"search-{place}", gates)
    return searched, bench.train(f"train-{place}", gates, searched.gates, searched.rewind)


def _tried(bench: Workbench, place: int, gates: GatesConfig) -> ValueSet:
    """What is reported of one kappa."""
    searched, outcome = _of_kappa(bench, place, gates)
    kappa, ratio = gates.penalty_for(bench.rows) * bench.rows, bench.kept_ratio(searched.gates, gates)
    return ValueSet("search", kappa, ratio, outcome.best_auc, False, outcome.task_auc)


def _control(bench: Workbench, control: Control, gates: GatesConfig, searched: Outcome) -> ValueSet:
    """Train on another set of values, from the same weights."""
    name = f"control-{control}"
    if control == "backbone":
        outcome = bench.train(name)
        return ValueSet(control, None, 1.0, outcome.best_auc, False, outcome.task_auc)
    if control == "field":
        by_field = gates.model_copy(update={"mode": "field"})
        other = bench.search(f"{name}-search", by_field)
        outcome = bench.train(name, by_field, other.gates, other.rewind)
        return ValueSet(
            control, None, bench.kept_ratio(other.gates, by_field), outcome.best_auc, False, outcome.task_auc
        )
    rows = bench.kept_rows(searched.gates, gates)
    allowed = bench.values & bench.gated(gates)
    size = int((rows & allowed).sum())
    if control == "frequency":
        mask = most_frequent(bench.counts, allowed, size)
    else:
        mask = at_random(allowed, size, named_seed(bench.seed, name))
    values = gates if gates.mode != "field" else gates.model_copy(update={"mode": "value-dense"})
    outcome = bench.train(name, values, as_logits(mask), searched.rewind)
    return ValueSet(control, None, bench.kept_ratio(as_logits(mask), values), outcome.best_auc, False, outcome.task_auc)


def _calibrations(bench: Workbench, model: Ranker) -> tuple[Calibration, dict[str, CalibratedTask]]:
    """The click's and the other tasks', fitted on the validation rows, at the positions where these were shown."""
    examples, config = bench.validation, bench.config
    click: Calibration = IDENTITY
    tasks = {name: CalibratedTask(task.of == "clicks", IDENTITY) for name, task in config.tasks.items()}
    if examples is None or config.calibration == "none":
        return click, tasks
    logits = LiveRanker(model).every(examples.features)
    weights = np.where(examples.labels > 0, examples.weights / config.train.positive_weight, examples.weights)
    # Drawn negatives are as many as were asked for, not as in the world: such logits are rates and stay as they are.
    if config.train.negatives is None and len(np.unique(examples.labels)) == 2:
        click = fit_calibration(config.calibration, logits[CLICK], examples.labels, weights)
    for name, outcomes in examples.outcomes.items():
        known = ~np.isnan(outcomes)
        if len(np.unique(outcomes[known])) == 2:
            fitted = fit_calibration(config.calibration, logits[name][known], outcomes[known], weights[known])
            tasks[name] = replace(tasks[name], calibration=fitted)
    return click, tasks


def _neutral(dataset: DatasetFolder, config: RankingConfig) -> dict[str, int]:
    """The id that the position has when scoring. Raises UserError where there is no such field or value."""
    if config.position is None:
        return {}
    name, raw = config.position.field, config.position.neutral
    possible = [one.name for one in dataset.schema.of(Side.CONTEXT, Kind.CATEGORICAL)]
    if name not in possible:
        raise UserError(
            f"ranking.position.field: '{name}' is no categorical context field of the data set; those are {possible}. "
            "All candidates of a request are scored at one position, so it cannot be a field of user or item."
        )
    if config.model.features is not None and name not in config.model.features:
        raise UserError(
            f"ranking.position.field: the ranker does not read '{name}', so no click is told from where it was shown; "
            "add it to ranking.model.features, or leave 'position' out."
        )
    import pyarrow as pa

    found = int(dataset.vocabulary(name).encode(pa.array([raw]))[0])
    if found < FIRST_VALUE_ID:
        raise UserError(f"ranking.position.neutral: '{raw}' is no value of '{name}' in the training part.")
    return {name: found}
