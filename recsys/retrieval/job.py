"""The training job: a data set folder to a model folder."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.artifacts import Artifact, fingerprint, open_artifact, write_artifact
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.device import on_device
from recsys.errors import UserError
from recsys.event_weights import check_weights
from recsys.features.spec import audience_spec
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.retrieval.checkpoints import Checkpoint, CheckpointFolder, best_file
from recsys.retrieval.display import Display, training_display
from recsys.retrieval.export import catalogue_vectors, export_tower, write_json, write_vectors
from recsys.retrieval.gate_report import write_gate_report
from recsys.retrieval.gate_search import (
    REWIND,
    carry_gates,
    gate_arrays,
    gate_stage,
    rare_values,
    rewind,
    saved_gates,
    set_gates,
)
from recsys.retrieval.gates import gate_spec, make_gates
from recsys.retrieval.input import drawable_ids, event_reader, tower_columns
from recsys.retrieval.live import LiveTower, build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.loop import Loop
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.pruning import prune
from recsys.retrieval.shards import positive_pairs, scan_positives
from recsys.retrieval.spec import TwoTowerSpec, two_tower_spec
from recsys.retrieval.ssl import report, self_supervisions
from recsys.retrieval.state import Progress, assign_variables
from recsys.retrieval.step import Catalogue, Trainer, recent_problem, uniform_negatives_problem
from recsys.retrieval.towers import TwoTower, named_seed
from recsys.retrieval.validation import Validation
from recsys.schema import ITEM, SPLITS, Side

GATES, SEARCH, REFIT = "gates", "train", "refit"
"""The phases: the search for gates, training with early stopping, training anew on validation events too."""


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same over the phases of one call of `train`."""

    dataset: DatasetFolder
    model: ModelConfig
    config: TrainConfig
    seed: int
    folder: CheckpointFolder
    logs: Path
    display: Display

    def loop(
        self, phase: str, found: Mapping[str, np.ndarray] | None = None, before: TwoTowerSpec | None = None
    ) -> Loop:
        """A model at its initial weights, and its loop over the phase's events.

        `found` are the logits of its gates where they are known, of the rows of `before` where that is given. In
        training and refit the loop is made for what they leave open: closed fields are none that views can hide.
        """
        splits = SPLITS[:2] if phase == REFIT else SPLITS[:1]
        events = scan_positives(self.dataset, splits)
        spec = two_tower_spec(self.dataset, self.model, events.counts)
        if self.model.item_audience:
            spec = replace(spec, audience=audience_spec(*positive_pairs(events), len(events.counts[ITEM])))
        gates = None
        if self.config.gates is not None:
            gates = make_gates(gate_spec(spec, self.config.gates), spec.tables, hard=phase != GATES)
        model = TwoTower(spec, self.seed, gates)
        build(model)
        if model.gates is not None and found is not None:
            if before is not None:
                found = carry_gates(found, before, spec, model.gates.spec.start)
            set_gates(model.gates, found)
        validation = None
        if phase != REFIT and self.dataset.event_files(SPLITS[1]):
            validation = Validation(self.dataset, self.config.validation)
        reader = event_reader(self.dataset, spec, events, self.config, named_seed(self.seed, f"{phase}/order"))
        stage = None
        if phase == GATES and self.config.gates is not None:
            stage = gate_stage(model, self.config.gates, events.rows, reader.steps)
            for told in rare_values(stage, self.config.gates, self.dataset, events.rows).values():
                print(told, file=sys.stderr, flush=True)
        catalogue = _catalogue(self.dataset, spec, self.config, splits, events.counts[ITEM])
        trainer = Trainer(
            model,
            make_optimiser(self.config.optimiser),
            self.config.loss,
            LogQ(
                self.config.loss,
                events.counts[ITEM],
                len(catalogue.ids),
                self.config.batch_size,
                named_seed(self.seed, "frequencies"),
            ),
            catalogue,
            named_seed(self.seed, phase),
            self_supervisions(self.dataset, model, self.config, self.seed, splits),
            gates=stage.optimiser if stage is not None else None,
        )
        writer = tf.summary.create_file_writer(str(self.logs / phase))
        return Loop(trainer, self.dataset, reader, self.config, validation, self.folder, writer, self.display, stage)

    def phase(
        self,
        start: Progress,
        epochs: int,
        saved: Checkpoint | None,
        gates: Mapping[str, np.ndarray] | None = None,
        before: TwoTowerSpec | None = None,
    ) -> tuple[Loop, Progress]:
        """Run a phase to its end: from `saved` where that is of this phase, else from the start.

        At its start, training takes over the `gates` that the search found and the weights to go back to; the refit
        takes the gates only, which are of the rows of `before`.
        """
        resumed = saved is not None and saved.state["phase"] == start.phase
        if saved is not None and resumed:
            loop, progress = self.loop(start.phase, saved_gates(saved.arrays)), Progress.from_json(saved.state)
            loop.restore(saved.arrays)
        else:
            loop, progress = self.loop(start.phase, gates, before), start
            if gates is not None and start.phase == SEARCH:
                back = self.folder.require(REWIND, "the weights to go back to")
                rewind(loop.trainer.model, loop.frequencies, back.arrays)
        return loop, loop.run(progress, epochs)


def train(
    dataset: DatasetFolder,
    model: ModelConfig,
    train: TrainConfig,
    seed: int,
    output: Path,
    *,
    checkpoints: Path,
    logs: Path,
    quiet: bool = False,
) -> Artifact:
    """Train a two-tower model and write its folder to `output`.

    Killed at any moment and called again with the same `checkpoints` folder, it goes on and ends with the same model.
    With validation events the epoch with the best recall is kept; with `refit_on_validation` the model is then trained
    anew for that many epochs on both parts. TensorBoard logs go to `logs`. Raises UserError for settings that do not
    fit the data set or the machine, a loss that is not finite, and checkpoints that cannot be read.
    """
    tf.config.experimental.enable_op_determinism()
    settings = {
        "dataset": dataset.artifact.artifact_id,
        "model": model.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "seed": seed,
    }
    if train.loss.weight_field is not None:
        check_weights(dataset, train.loss.weight_field, "train.loss.weight_field", positives_only=True)
    folder = CheckpointFolder(checkpoints, fingerprint(settings))
    saved = folder.latest()
    with on_device(train.device, "train.device"), training_display(quiet) as display:
        run = _Run(dataset, model, train, seed, folder, Path(logs), display)
        phase = saved.state["phase"] if saved is not None else None
        progress, gates = Progress(SEARCH), None
        if train.gates is not None and phase in (None, GATES):
            loop, found = run.phase(Progress(GATES), train.gates.epochs, saved)
            progress = Progress(SEARCH, saves=found.saves, gate_epochs=found.epochs)
            gates = loop.stage.found() if loop.stage is not None else None
        if saved is not None and phase == REFIT:
            searched, before = saved.state["searched"], None
        else:
            loop, progress = run.phase(progress, train.epochs, saved, gates)
            searched, gates, before = progress.to_json(), _gates_of(loop), loop.trainer.model.spec
        if train.refit_on_validation and dataset.event_files(SPLITS[1]):
            start = Progress(REFIT, saves=searched["saves"], searched=dict(searched))
            # The refit starts from initial weights, so it also makes up for the epochs before the rewound ones.
            epochs = searched["best_epoch"] + (train.gates.rewind_epoch if train.gates is not None else 0)
            loop, progress = run.phase(start, epochs, saved, gates, before)
        elif searched["best_epoch"]:
            best = folder.require(best_file(searched["best_epoch"]), "the weights of the best epoch")
            assign_variables({"model": loop.variables["model"]}, best.arrays)
    return _write(loop, dataset, settings, progress, output)


def _catalogue(
    dataset: DatasetFolder, spec: TwoTowerSpec, config: TrainConfig, splits: tuple[str, ...], counts: np.ndarray
) -> Catalogue:
    """What uniform negatives are drawn from, given the training positives of each item id, `counts` `[ids]`."""
    unusable = recent_problem(spec, dataset.schema, config.loss)
    if unusable:
        raise UserError(unusable)
    ids = drawable_ids(dataset, Side.ITEM, splits)
    columns = tower_columns(dataset, spec.item, Side.ITEM)
    static, fixed = columns.joined, not columns.event
    if not config.loss.uniform_negatives:
        return Catalogue(ids, {}, fixed)
    problem = uniform_negatives_problem(spec, static)
    if problem:
        raise UserError(problem)
    if config.loss.uniform_negatives_from == "positives":
        ids = ids[counts[ids] > 0]
    return Catalogue(ids, {name: tf.constant(values) for name, values in static.items()}, fixed)


def _gates_of(loop: Loop) -> dict[str, np.ndarray] | None:
    gates = loop.trainer.model.gates
    return gate_arrays(gates) if gates is not None else None


def _write(
    loop: Loop, dataset: DatasetFolder, settings: Mapping[str, Any], progress: Progress, output: Path
) -> Artifact:
    trained = loop.trainer.model
    model = prune(trained)
    vectors = catalogue_vectors(dataset, loop.embed_items if model is trained else LiveTower(model.item_tower))
    representation = {
        "epoch": fingerprint(settings)[:16],
        "dimension": int(vectors.shape[1]),
        "normalised": True,
        "temperature": 1.0 / float(model.inverse_temperature),
        "vertices": None,
        "class_registry": None,
    }
    searched = progress.searched or progress.to_json()
    history = {
        "epochs": searched["epochs"],
        "best_epoch": searched["best_epoch"] or searched["epoch"],
        "refit": progress.epochs if progress.phase == REFIT else None,
    }
    if trained.gates is not None:
        history["gates"] = searched["gate_epochs"]
    for one in loop.trainer.self_supervisions:
        history.setdefault("self_supervision", {})[one.tower.spec.name] = report(one)
    with write_artifact(output, MODEL_KIND, MODEL_FORMAT, {**settings, "parent": None}) as folder:
        export_tower(model.query_tower, folder / "query_tower")
        export_tower(model.item_tower, folder / "item_tower")
        write_vectors(folder / "vectors.npy", vectors)
        write_json(folder / "schema.json", dataset.schema.model_dump(mode="json"))
        write_json(folder / "representation.json", representation)
        write_json(folder / "training.json", history)
        if trained.gates is not None:
            write_gate_report(folder, dataset, trained, settings["train"]["gates"])
    return open_artifact(output, MODEL_KIND, MODEL_FORMAT)
