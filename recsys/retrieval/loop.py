"""The training loop: epochs of steps, validation, early stopping, and checkpoints to go on from."""

import math
import time
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.config.train import OptimiserConfig, TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.display import Display
from recsys.retrieval.gate_search import REWIND, GateStage, logit_variables, rewind_arrays
from recsys.retrieval.health import Health
from recsys.retrieval.input import Batch, training_batches
from recsys.retrieval.live import LiveTower
from recsys.retrieval.shards import EventReader
from recsys.retrieval.state import Progress, assign_variables, variable_arrays
from recsys.retrieval.step import Trainer
from recsys.retrieval.validation import Validation

LOG_STEPS = 50
"""Steps between looks at the loss: reading it makes the host wait for the device."""


def learning_rate(config: OptimiserConfig, epoch: int, step: int, total: int) -> float:
    """The learning rate of global step `step` of `total` (from 0) in `epoch` (from 0): warm-up times decay."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = 1.0 - step / total if config.to_zero else 1.0
    return config.learning_rate * config.decay**epoch * warm * left


@dataclass(eq=False)
class Loop:
    """One phase of training over one model; `run` may be called in a process that restored a checkpoint first."""

    trainer: Trainer
    dataset: DatasetFolder
    reader: EventReader
    config: TrainConfig
    validation: Validation | None
    folder: CheckpointFolder
    writer: tf.summary.SummaryWriter
    display: Display
    stage: GateStage | None = None

    def __post_init__(self) -> None:
        model = self.trainer.model
        self.embed_queries, self.embed_items = LiveTower(model.query_tower), LiveTower(model.item_tower)
        self.health = Health(self.trainer)
        self.trainer.optimiser.build(model.trainable_variables)
        streaming = self.trainer.log_q.streaming
        self.frequencies = list(streaming.variables) if streaming is not None else []
        self.variables = {
            "model": model.variables,
            "optimiser": self.trainer.optimiser.variables,
            "trainer": [self.trainer.step],
            "frequencies": self.frequencies,
            "queue": list(self.trainer.queue.variables) if self.trainer.queue is not None else [],
            "gates": list(self.stage.optimiser.variables) if self.stage is not None else [],
            **(logit_variables(model.gates) if model.gates is not None else {}),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over the variables of a checkpoint."""
        assign_variables(self.variables, arrays)

    def run(self, progress: Progress, epochs: int) -> Progress:
        """Train from `progress` on until `epochs` are done or validation has stopped rising."""
        steps = self.reader.steps
        self.display.begin(progress.phase, epochs * steps, progress.epoch * steps + progress.step)
        batches = iter(
            training_batches(
                self.dataset,
                self.trainer.model.spec,
                self.reader,
                self.config.input.prefetch,
                epoch=progress.epoch,
                step=progress.step,
                weight=self.config.loss.weight_field,
            )
        )
        saved = time.monotonic()
        pending: list[tf.Tensor] = []
        while not progress.finished:
            if progress.step == 0:
                self._begin_epoch(progress)
            if self.stage is not None:
                self.stage.begin_step(progress.epoch, progress.step)
            step = progress.epoch * steps + progress.step
            rate = learning_rate(self.config.optimiser, progress.epoch, step, epochs * steps)
            batch = next(batches)
            rest = self.stage is not None and self.stage.search.rests(progress.epoch)
            pending.append(self.trainer.train_step(batch, tf.constant(rate, tf.float32), self.trainer.due(step), rest))
            progress.step += 1
            ended = progress.step == steps
            due = progress.step % self.config.checkpoint.every_steps == 0
            due |= time.monotonic() - saved > self.config.checkpoint.every_seconds
            if ended or due or len(pending) >= LOG_STEPS:
                self._look(progress, pending, rate, epochs)
                pending = []
            if ended:
                self._end_epoch(progress, epochs, batch)
            if ended or due:
                self._save(progress)
                saved = time.monotonic()
        return progress

    def _begin_epoch(self, progress: Progress) -> None:
        """In a search for gates: keep the weights to go back to when their epoch has come."""
        if self.stage is not None and progress.epoch == self.stage.rewind_epoch:
            self.folder.write(REWIND, rewind_arrays(self.trainer.model, self.frequencies), {})

    def _look(self, progress: Progress, pending: list[tf.Tensor], rate: float, epochs: int) -> None:
        """Add up the losses since the last look, log and show them."""
        losses = [float(loss) for loss in pending]
        for loss in losses:  # one by one: the sum must not depend on when we look
            progress.loss_sum += loss
        step = progress.epoch * self.reader.steps + progress.step
        if not math.isfinite(progress.loss_sum):
            raise UserError(
                f"train: the loss stopped being a finite number at or before step {step} (epoch {progress.epoch + 1}); "
                "lower train.optimiser.learning_rate or raise model.temperature.value."
            )
        with self.writer.as_default(step=step):
            tf.summary.scalar("loss", losses[-1])
            tf.summary.scalar("learning_rate", rate)
            tf.summary.scalar("examples_per_second", self.display.rate(step, self.config.batch_size))
        self.display.step(step, self.config.batch_size, losses[-1], f"{progress.epoch + 1}/{epochs}")

    def _end_epoch(self, progress: Progress, epochs: int, batch: Batch) -> None:
        """Validate, note the best epoch, decide whether to go on; log how training goes, on the epoch's last batch."""
        record = {"loss": progress.loss_sum / self.reader.steps}
        temperature = 1.0 / float(self.trainer.model.inverse_temperature)
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
        if self.stage is not None:
            self.stage.optimiser.settle()
        health = self.health.measure(batch)
        last = progress.epoch == epochs
        stop = last
        if self.stage is not None:
            record |= self.stage.record()
        if self.validation is not None and (last or progress.epoch % self.config.validation.every_epochs == 0):
            metrics, details = self.validation.measure(self.embed_queries, self.embed_items)
            record |= metrics
            health |= details
            self.display.measured(metrics)
            if self.stage is None:  # a search for gates is only watched: it has no best epoch and no early end
                stop |= self._compare(
                    progress, *(metrics[f"{name}@{self.validation.k}"] for name in ("recall", "ndcg"))
                )
        progress.epochs.append(record)
        progress.finished = stop
        with self.writer.as_default(step=progress.epoch):
            for name, value in {**record, **health, "temperature": temperature}.items():
                tf.summary.scalar(f"epoch/{name}", value)
        self.writer.flush()

    def _compare(self, progress: Progress, value: float, tie: float) -> bool:
        """Keep the weights of the best epoch so far; whether training has gone on for long enough since then.

        Recall of a long list ends at 1 on a small catalogue; `tie`, the NDCG, still tells epochs apart there.
        """
        if (value, tie) > (progress.best_value, progress.best_tie):
            progress.best_epoch, progress.best_value, progress.best_tie = progress.epoch, value, tie
            self.folder.write_best(progress.epoch, variable_arrays({"model": self.variables["model"]}))
        return progress.epoch - progress.best_epoch >= self.config.patience

    def _save(self, progress: Progress) -> None:
        progress.saves += 1
        self.folder.save(progress.saves, variable_arrays(self.variables), progress.to_json())
