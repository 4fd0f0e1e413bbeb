"""Phases of training over one data set: a search for gates, and training with any of the values kept.

A phase that was killed goes on from its last checkpoint; one that ended is read back. So a job is a plain sequence of
calls, and run again it ends with the same bytes.
"""

from collections.abc import Callable, Mapping
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
from recsys.features.gate_schedule import GateSearch, require_closable, too_rare_to_close
from recsys.features.gates import Gates, kept
from recsys.ranking.examples import ExampleMaker, Examples, positives_per_batch, split_examples, training_scores
from recsys.ranking.model import Ranker
from recsys.ranking.occurrences import row_counts
from recsys.ranking.phase import TASK_AUC, Phase
from recsys.ranking.retrieval_score import open_scores, score_report
from recsys.ranking.seeds import named_seed
from recsys.ranking.spec import RankerSpec, ranker_spec
from recsys.ranking.step import Trainer
from recsys.ranking.tasks import check_labels, check_tasks
from recsys.retrieval.checkpoints import Checkpoint, CheckpointFolder
from recsys.retrieval.display import Display
from recsys.retrieval.shards import EventReader, scan_positives
from recsys.retrieval.state import assign_variables
from recsys.schema import RETRIEVAL_SCORE, SPLITS

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
        check_labels(self.dataset, self.config)
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
            warmup=config.warmup_epochs,
        )
        require_closable(found, "ranking.gates")
        return found

    def rare_values(self, config: GatesConfig) -> str | None:
        """Of how many values a lazy search moves the gates too seldom to close, in words; None where it says nothing.

        The steps whose batch has a value are no more than the value has training rows, drawn negatives aside.
        """
        if config.mode != "value-lazy":
            return None
        counts = self.counts[self.values & self.gated(config)]
        return too_rare_to_close(self.search_settings(config), counts, self.rows, "ranking.gates")

    def search(self, name: str, config: GatesConfig) -> Outcome:
        """Train weights and gates together; `Outcome.gates` decide, `Outcome.rewind` is where to go on from."""
        search = self.search_settings(config)

        def trainer() -> Trainer:
            model = self._model(config, tf.Variable(1.0, trainable=False, name="temperature"))
            assert model.gates is not None
            return self._trainer(model, GateOptimiser([model.gates], search, dense=config.mode != "value-lazy"))

        return self._run(name, trainer, config.epochs, config.rewind_epoch)

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
            ended = Checkpoint(*Phase(self, name, one, epochs, rewind_epoch).run())
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
