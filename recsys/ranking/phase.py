"""One phase of a ranker's training as it runs: steps, checkpoints by the clock, the judge after each epoch, its end."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys._tensorflow import tf
from recsys.errors import UserError
from recsys.features.gates import kept
from recsys.ranking.input import training_batches
from recsys.ranking.live import LiveRanker
from recsys.ranking.metrics import auc
from recsys.ranking.step import Trainer
from recsys.ranking.tasks import CLICK
from recsys.retrieval.state import Progress, assign_variables, variable_arrays

if TYPE_CHECKING:
    from recsys.ranking.workbench import Workbench

LOG_STEPS = 50
"""Steps between looks at the loss: reading it makes the host wait for the device."""

SAVING_SHARE = 20.0
"""A checkpoint by the clock waits so many times as long as the last one took: large tables cost 5 % of the time."""

TASK_AUC = "auc_"
"""Before a task's name, in the record of an epoch."""


@dataclass(eq=False)
class Phase:
    """One phase as it runs. A search (`rewind_epoch` is given) runs all its epochs and ends with the last weights."""

    bench: "Workbench"
    name: str
    trainer: Trainer
    epochs: int
    rewind_epoch: int | None

    def run(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Go on from the last checkpoint of this phase to its end: the arrays and state of the file that says so."""
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
            gates = self.trainer.gates
            rest = gates is not None and gates.search.rests(progress.epoch)
            pending.append(self.trainer.train_step(next(batches), rest))
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
            record["open_gates"] = float(kept(gates.logits.numpy())[self._counted()].mean())
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

    def _counted(self) -> np.ndarray:
        """Which gates are in force: of fields those that have one, of values those that occur in training too."""
        model = self.trainer.model
        if model.layer.field_gates is not None:
            return model.layer.gated
        gated = model.table.gated
        return self.bench.values if gated is None else self.bench.values & gated.numpy()

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

    def _write(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.bench.folder.write(f"{self.name}-{what}.npz", arrays, {})

    def _log(self, epoch: int, record: Mapping[str, float]) -> None:
        if self.bench.logs is None:
            return
        writer = tf.summary.create_file_writer(str(self.bench.logs / self.name))
        with writer.as_default(step=epoch):
            for key, value in record.items():
                tf.summary.scalar(f"epoch/{key}", value)
        writer.close()


def _stalls(epochs: Sequence[Mapping[str, float]]) -> int:
    """How many of the finished epochs had no better validation AUC than all before them."""
    values = [record["auc"] for record in epochs if "auc" in record]
    return sum(value <= max(values[:place]) for place, value in enumerate(values) if place)
