"""Phases of training over one data set: a search for gates, and training with any of the values kept.

A phase that was killed goes on from its last checkpoint; one that ended is read back. So a job is a plain sequence of
calls, and run again it ends with the same bytes.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch, fewest_updates, require_closable
from recsys.features.gates import Gates, kept
from recsys.ranking.examples import ExampleMaker, Examples, positives_per_batch, split_examples, training_scores
from recsys.ranking.input import training_batches
from recsys.ranking.live import LiveRanker
from recsys.ranking.metrics import auc
from recsys.ranking.model import Ranker
from recsys.ranking.occurrences import row_counts
from recsys.ranking.retrieval_score import open_scores, score_report
from recsys.ranking.seeds import named_seed
from recsys.ranking.spec import RankerSpec, ranker_spec
from recsys.ranking.step import Trainer
from recsys.ranking.tasks import CLICK, check_tasks
from recsys.retrieval.checkpoints import Checkpoint, CheckpointFolder
from recsys.retrieval.display import Display
from recsys.retrieval.shards import EventReader, scan_positives
from recsys.retrieval.state import Progress, assign_variables, variable_arrays
from recsys.schema import RETRIEVAL_SCORE, SPLITS

LOG_STEPS = 50
"""Steps between looks at the loss: reading it makes the host wait for the device."""

SAVING_SHARE = 20.0
"""A checkpoint by the clock waits so many times as long as the last one took: large tables cost 5 % of the time."""

TASK_AUC = "auc_"
"""Before a task's name, in the record of an epoch."""

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a phase ended with: `weights` (after training those of the best epoch) and `gates`, the gates' logits.

    `rewind` are a search's weights after its rewind epoch, empty otherwise. `epochs` has a record for each epoch,
    `best_auc` is the best one's validation AUC, None where there was nothing to judge by.
    """

    weights: dict[str, np.ndarray]
    gates: np.ndarray | None
    rewind: dict[str, np.ndarray]
    epochs: list[dict[str, float]]
    best_epoch: int
    best_auc: float | None

    @property
    def task_auc(self) -> dict[str, float]:
        """The other tasks' validation AUC at the best epoch, by name."""
        record = self.epochs[self.best_epoch - 1] if self.best_epoch else {}
        return {name.removeprefix(TASK_AUC): value for name, value in record.items() if name.startswith(TASK_AUC)}


@dataclass(eq=False)
class Workbench:
    """Data set, settings and seed, and what every phase shares. Checkpoints live in `folder`.

    `model` is the folder of the retrieval model beside which the ranker is trained; needed where it reads its score.
    """

    dataset: DatasetFolder
    config: RankingConfig
    seed: int
    folder: CheckpointFolder
    display: Display = field(default_factory=lambda: Display(None))
    logs: Path | None = None
    model: Path | None = None

    def __post_init__(self) -> None:
        train = self.config.train
        drawn = train.negatives
        events = scan_positives(self.dataset, SPLITS[:1], all_labels=drawn is None)
        check_tasks(self.dataset, self.config)
        scores, learned = None, None
        self.score_report: dict[str, Any] | None = None
        """How the retrieval score is distributed, on training rows and on those of validation; None without it."""
        if self.config.retrieval_score:
            scores = open_scores(self.dataset, self.model)
            nothing = ExampleMaker(self.dataset, RankerSpec(self.config.model, (), ()), self.config, scores)
            learned, labels = training_scores(nothing, self.seed)
            self.score_report = {"model": scores.model.artifact_id, "train": score_report(learned, labels)}
        spec = ranker_spec(self.dataset, self.config.model, events.counts, learned)
        self.spec: RankerSpec = replace(spec, tasks=tuple(self.config.tasks))
        self.maker = ExampleMaker(self.dataset, self.spec, self.config, scores)
        rows = positives_per_batch(train)
        order = train.order == "time"
        seed = named_seed(self.seed, "order")
        self.reader = EventReader(events, self.maker.columns, rows, train.buffer_rows, order, seed)
        self.rows = events.rows * (1 if drawn is None else 1 + drawn.per_positive)
        """Training examples, drawn negatives among them: what a penalty is a share of."""

    @cached_property
    def validation(self) -> Examples | None:
        """The validation rows, None where the data set has none."""
        if not self.dataset.event_files(SPLITS[1]):
            return None
        examples = split_examples(self.maker, SPLITS[1], self.seed)
        if self.score_report is not None:
            self.score_report[SPLITS[1]] = score_report(examples.features[RETRIEVAL_SCORE], examples.labels)
        return examples

    @cached_property
    def judge(self) -> Examples | None:
        """The validation rows, by whose AUC epochs and sets of values are told apart; None where a class is missing."""
        examples = self.validation
        return examples if examples is not None and len(np.unique(examples.labels)) == 2 else None

    @cached_property
    def counts(self) -> np.ndarray:
        """Training occurrences of each table row, `[rows] int64`."""
        return row_counts(self.maker)

    @property
    def values(self) -> np.ndarray:
        """`[rows] bool`: the rows that occur in training: what the kept ratio is a ratio of."""
        return self.counts > 0

    def gated_fields(self, config: GatesConfig) -> np.ndarray:
        """`[fields] bool`: the fields that have gates.

        Raises UserError for a field that the ranker does not read, and for one whose rows a field without gates shares.
        """
        names = [one.name for one in self.spec.fields]
        for name in config.fields or ():
            if name not in names:
                raise UserError(f"ranking.gates.fields: the ranker reads no field '{name}'; it reads {sorted(names)}.")
        found = np.array([config.fields is None or name in config.fields for name in names])
        for table in self.spec.tables:
            sharing = [place for place, one in enumerate(self.spec.fields) if one.table == table.name]
            if len(set(found[sharing].tolist())) > 1:
                raise UserError(
                    f"ranking.gates.fields: {[names[place] for place in sharing]} share their values' rows, and so "
                    "their gates; name all of them or none."
                )
        return found

    def gated(self, config: GatesConfig) -> np.ndarray:
        """`[rows] bool`: rows of the gated fields. Raises UserError as `gated_fields`."""
        mask = np.zeros(self.spec.rows, bool)
        for one, gated in zip(self.spec.fields, self.gated_fields(config), strict=True):
            mask[self.spec.part(one.table)] |= gated
        return mask

    def row_logits(self, gates: np.ndarray, config: GatesConfig) -> np.ndarray:
        """The gate logit of each row, `[rows] float32`, NaN where it has none.

        Of gates of fields it is the field's; the largest one where several share the rows, so that a row counts as kept
        that one of them reads.
        """
        if config.mode != "field":
            return np.where(self.gated(config), gates, np.float32(np.nan))
        found = np.full(self.spec.rows, np.nan, np.float32)
        for one, logit, gated in zip(self.spec.fields, gates, self.gated_fields(config), strict=True):
            part = self.spec.part(one.table)
            if gated:
                found[part] = np.fmax(found[part], logit)
        return found

    def kept_rows(self, gates: np.ndarray | None, config: GatesConfig) -> np.ndarray:
        """`[rows] bool`: what gates of these logits (None: no gates) leave open, rows without gates among them."""
        if gates is None:
            return np.ones(self.spec.rows, bool)
        logits = self.row_logits(gates, config)
        return kept(logits) | np.isnan(logits)

    def kept_ratio(self, gates: np.ndarray | None, config: GatesConfig) -> float:
        """The share of the values seen in training that are kept."""
        return float(self.kept_rows(gates, config)[self.values].mean())

    def search_settings(self, config: GatesConfig) -> GateSearch:
        """The search of this data set. Raises UserError where a gate that nothing needs could not close."""
        found = GateSearch(
            start=config.start,
            penalty=config.penalty_for(self.rows),
            final_temperature=config.final_temperature,
            epochs=config.search_epochs,
            epoch_steps=self.reader.steps,
            learning_rate=config.learning_rate,
            epsilon=config.epsilon,
            by_step=config.temperature_by == "step",
        )
        require_closable(found, "ranking.gates")
        return found

    def rare_values(self, config: GatesConfig) -> str | None:
        """Of how many values a lazy search moves the gates too seldom to close, in words; None where it says nothing.

        In mode `value-lazy` a gate moves in the steps whose batch has its value, which are no more than the value has
        training rows (drawn negatives aside). Values that are too rare for that stay open, needed or not.
        """
        if config.mode != "value-lazy":
            return None
        search = self.search_settings(config)
        if search.penalty == 0.0:
            return None
        needed, gated = fewest_updates(search), self.values & self.gated(config)
        rare = int((gated & (self.counts < needed)).sum())
        if not rare:
            return None
        return (
            f"ranking.gates: {rare:,} of {int(gated.sum()):,} values occur fewer than {needed} times in training and "
            "stay open, needed or not. Raise learning_rate or search_epochs to reach more of them."
        )

    def search(self, name: str, config: GatesConfig) -> Outcome:
        """Train weights and gates together; `Outcome.gates` decide, `Outcome.rewind` is where to go on from."""
        search = self.search_settings(config)

        def trainer() -> Trainer:
            model = self._model(config, tf.Variable(1.0, trainable=False, name="temperature"))
            assert model.gates is not None
            return self._trainer(model, GateOptimiser([model.gates], search, dense=config.mode != "value-lazy"))

        return self._run(name, trainer, config.search_epochs, config.rewind_epoch)

    def train(
        self,
        name: str,
        config: GatesConfig | None = None,
        gates: np.ndarray | None = None,
        start: Weights | None = None,
    ) -> Outcome:
        """Train weights with hard gates of these logits (none: a plain model), from `start` or from the beginning."""

        def trainer() -> Trainer:
            model = self._model(config if gates is not None else None, None)
            if model.gates is not None:
                model.gates.logits.assign(gates)
            if start is not None:
                assign_variables({"learned": model.learned}, start)
            return self._trainer(model, None)

        return self._run(name, trainer, self.config.train.epochs, None)

    def ranker(self, outcome: Outcome, config: GatesConfig | None = None) -> Ranker:
        """The model that training ended with."""
        model = self._model(config if outcome.gates is not None else None, None)
        assign_variables({"learned": model.learned}, outcome.weights)
        if model.gates is not None:
            model.gates.logits.assign(outcome.gates)
        return model

    def _model(self, config: GatesConfig | None, temperature: tf.Variable | None) -> Ranker:
        seed = named_seed(self.seed, "model")
        if config is None:
            return Ranker(self.spec, seed)
        if config.mode == "field":
            gates = Gates("fields", len(self.spec.fields), start=config.start, temperature=temperature)
            return Ranker(self.spec, seed, field_gates=gates, gated=self.gated_fields(config))
        gates = Gates("values", self.spec.rows, start=config.start, temperature=temperature)
        return Ranker(self.spec, seed, gates=gates, gated=self.gated(config))

    def _trainer(self, model: Ranker, gates: GateOptimiser | None) -> Trainer:
        tasks = {task: settings.weight for task, settings in self.config.tasks.items()}
        return Trainer(model, self.config.train, named_seed(self.seed, "steps"), gates, tasks)

    def _run(self, name: str, trainer: Callable[[], Trainer], epochs: int, rewind_epoch: int | None) -> Outcome:
        ended = self.folder.read(f"{name}-ended.npz")
        if ended is None:
            one = trainer()
            ended = Checkpoint(*_Phase(self, name, one, epochs, rewind_epoch).run())
            one.release()
        parts: dict[str, dict[str, np.ndarray]] = {"learned": {}, "rewind": {}}
        for key, values in ended.arrays.items():
            group, _, rest = key.partition(":")
            if group in parts:
                parts[group][rest] = values
        state = ended.state
        return Outcome(
            parts["learned"],
            ended.arrays.get("gates:"),
            parts["rewind"],
            state["epochs"],
            state["best_epoch"],
            state["best_value"] if state["best_epoch"] else None,
        )


def _stalls(epochs: Sequence[Mapping[str, float]]) -> int:
    """How many of the finished epochs had no better validation AUC than all before them."""
    values = [record["auc"] for record in epochs if "auc" in record]
    return sum(value <= max(values[:place]) for place, value in enumerate(values) if place)


@dataclass(eq=False)
class _Phase:
    """One phase as it runs. A search (`rewind_epoch` is given) runs all its epochs and ends with the last weights."""

    bench: Workbench
    name: str
    trainer: Trainer
    epochs: int
    rewind_epoch: int | None

    def run(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        bench, train = self.bench, self.bench.config.train
        progress = Progress(self.name)
        saved = bench.folder.latest()
        if saved is not None and saved.state["phase"] == self.name:
            assign_variables(self.trainer.state, saved.arrays)
            progress = Progress.from_json(saved.state)
        elif saved is not None:
            progress.saves = saved.state["saves"]
        self.live = LiveRanker(self.trainer.model)
        steps = bench.reader.steps
        bench.display.begin(self.name, self.epochs * steps, progress.epoch * steps + progress.step)
        batches = training_batches(bench.maker, bench.reader, train.prefetch, epoch=progress.epoch, step=progress.step)
        pending: list[tf.Tensor] = []
        saved_at, took = time.monotonic(), 0.0
        while not progress.finished:
            if progress.step == 0:
                self._begin_epoch(progress)
            self._warm(progress)
            pending.append(self.trainer.train_step(next(batches)))
            progress.step += 1
            ended = progress.step == steps
            due = progress.step % train.checkpoint.every_steps == 0
            due |= time.monotonic() - saved_at > max(train.checkpoint.every_seconds, SAVING_SHARE * took)
            if ended or due or len(pending) >= LOG_STEPS:
                self._look(progress, pending)
                pending = []
            if ended:
                self._end_epoch(progress)
            if due or (ended and not progress.finished):
                progress.saves += 1
                started = time.monotonic()
                bench.folder.save(progress.saves, variable_arrays(self.trainer.state), progress.to_json())
                saved_at = time.monotonic()
                took = saved_at - started
        return self._end(progress)

    def _begin_epoch(self, progress: Progress) -> None:
        if self.rewind_epoch is None:
            self.trainer.slow_down(self.bench.config.train.plateau ** _stalls(progress.epochs))
        if progress.epoch == self.rewind_epoch:
            self._write("rewind", self._learned())

    def _warm(self, progress: Progress) -> None:
        """The gates' temperature of the step to come."""
        optimiser = self.trainer.gates
        if optimiser is None or not optimiser.search.changes_at(progress.step):
            return
        for one in optimiser.gates:
            if one.temperature is not None:
                one.temperature.assign(optimiser.search.temperature(progress.epoch, progress.step))

    def _look(self, progress: Progress, pending: list[tf.Tensor]) -> None:
        for loss in pending:  # one by one: the sum must not depend on when we look
            progress.loss_sum += float(loss)
        step = progress.epoch * self.bench.reader.steps + progress.step
        if not math.isfinite(progress.loss_sum):
            raise UserError(
                f"ranking: the loss stopped being a finite number at or before step {step} of '{self.name}'; lower "
                "ranking.train.learning_rate."
            )
        shown = f"{progress.epoch + 1}/{self.epochs}"
        self.bench.display.step(step, self.bench.reader.batch_size, float(pending[-1]), shown)

    def _end_epoch(self, progress: Progress) -> None:
        record = {"loss": progress.loss_sum / self.bench.reader.steps}
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        progress.finished = progress.epoch == self.epochs
        if self.trainer.gates is not None:
            self.trainer.gates.settle()
        gates = self.trainer.model.gates
        if gates is not None:
            record["open_gates"] = float(kept(gates.logits.numpy()).mean())
        examples = self.bench.judge
        if examples is not None:
            logits = self.live.every(examples.features)
            value = auc(logits[CLICK], examples.labels, examples.weights)
            record["auc"] = value
            for name, outcomes in examples.outcomes.items():
                known = ~np.isnan(outcomes)
                task_value = auc(logits[name][known], outcomes[known], examples.weights[known])
                if math.isfinite(task_value):
                    record[TASK_AUC + name] = task_value
            self.bench.display.measured({"auc": value})
            if value > progress.best_value:
                progress.best_epoch, progress.best_value = progress.epoch, value
                if self.rewind_epoch is None:
                    self._write("best", self._learned())
            late = progress.epoch - progress.best_epoch >= self.bench.config.train.patience
            progress.finished |= late and self.rewind_epoch is None
        progress.epochs.append(record)
        self._log(progress.epoch, record)

    def _end(self, progress: Progress) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"learned:{key}": value for key, value in self._learned().items()}
        if self.rewind_epoch is None and progress.best_epoch:
            best = self.bench.folder.require(f"{self.name}-best.npz", "the weights of the best epoch")
            arrays = {f"learned:{key}": value for key, value in best.arrays.items()}
        if self.rewind_epoch is not None:
            rewind = self.bench.folder.require(f"{self.name}-rewind.npz", "the weights to go back to")
            arrays |= {f"rewind:{key}": value for key, value in rewind.arrays.items()}
        if self.trainer.model.gates is not None:
            arrays["gates:"] = self.trainer.model.gates.logits.numpy()
        state = progress.to_json()
        self.bench.folder.write(f"{self.name}-ended.npz", arrays, state)
        for file in ("best", "rewind"):
            (self.bench.folder.folder / f"{self.name}-{file}.npz").unlink(missing_ok=True)
        return arrays, state

    def _learned(self) -> dict[str, np.ndarray]:
        return variable_arrays({"learned": self.trainer.model.learned})

    def _write(self, what: str, arrays: Weights) -> None:
        self.bench.folder.write(f"{self.name}-{what}.npz", arrays, {})

    def _log(self, epoch: int, record: Mapping[str, float]) -> None:
        if self.bench.logs is None:
            return
        writer = tf.summary.create_file_writer(str(self.bench.logs / self.name))
        with writer.as_default(step=epoch):
            for key, value in record.items():
                tf.summary.scalar(f"epoch/{key}", value)
        writer.close()
