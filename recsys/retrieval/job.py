"""The training job: a data set folder to a model folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys._tensorflow import tf
from recsys.artifacts import Artifact, fingerprint, open_artifact, write_artifact
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.display import Display, training_display
from recsys.retrieval.export import catalogue_vectors, export_tower, write_json, write_vectors
from recsys.retrieval.input import event_reader, tower_columns
from recsys.retrieval.live import build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.loop import Loop
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.shards import scan_positives
from recsys.retrieval.spec import TwoTowerSpec, two_tower_spec
from recsys.retrieval.state import Progress, assign_variables
from recsys.retrieval.step import Catalogue, Trainer, recent_problem, uniform_negatives_problem
from recsys.retrieval.towers import TwoTower, named_seed
from recsys.retrieval.validation import Validation
from recsys.schema import ITEM, SPLITS, Side

SEARCH, REFIT = "train", "refit"


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

    def loop(self, phase: str) -> Loop:
        """A model at its initial weights, and its loop over the phase's events."""
        splits = SPLITS[:2] if phase == REFIT else SPLITS[:1]
        events = scan_positives(self.dataset, splits)
        spec = two_tower_spec(self.dataset, self.model, events.counts)
        model = TwoTower(spec, self.seed)
        build(model)
        validation = None
        if phase == SEARCH and self.dataset.event_files(SPLITS[1]):
            validation = Validation(self.dataset, self.config.validation)
        trainer = Trainer(
            model,
            make_optimiser(self.config.optimiser),
            self.config.loss,
            LogQ(
                self.config.loss,
                events.counts[ITEM],
                len(self.dataset.items),
                self.config.batch_size,
                named_seed(self.seed, "frequencies"),
            ),
            _catalogue(self.dataset, spec, self.config),
            named_seed(self.seed, phase),
        )
        reader = event_reader(self.dataset, spec, events, self.config, named_seed(self.seed, f"{phase}/order"))
        writer = tf.summary.create_file_writer(str(self.logs / phase))
        return Loop(trainer, self.dataset, reader, self.config, validation, self.folder, writer, self.display)


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
    fit the data set, a loss that is not finite, and checkpoints that cannot be read.
    """
    tf.config.experimental.enable_op_determinism()
    settings = {
        "dataset": dataset.artifact.artifact_id,
        "model": model.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "seed": seed,
    }
    folder = CheckpointFolder(checkpoints, fingerprint(settings))
    saved = folder.latest()
    with training_display(quiet) as display:
        run = _Run(dataset, model, train, seed, folder, Path(logs), display)
        searched: Mapping[str, Any] | None = None
        if saved is not None and saved.state["phase"] == REFIT:
            searched = saved.state["searched"]
        else:
            loop = run.loop(SEARCH)
            progress = Progress(SEARCH)
            if saved is not None:
                loop.restore(saved.arrays)
                progress = Progress.from_json(saved.state)
            progress = loop.run(progress, train.epochs)
            searched = progress.to_json()
            saved = None
        if train.refit_on_validation and dataset.event_files(SPLITS[1]):
            loop = run.loop(REFIT)
            progress = Progress(REFIT, saves=searched["saves"], searched=dict(searched))
            if saved is not None:
                loop.restore(saved.arrays)
                progress = Progress.from_json(saved.state)
            loop.run(progress, searched["best_epoch"])
        elif searched["best_epoch"]:
            _take_best(loop, folder, searched["best_epoch"])
    return _write(loop, dataset, settings, progress, output)


def _catalogue(dataset: DatasetFolder, spec: TwoTowerSpec, config: TrainConfig) -> Catalogue:
    unusable = recent_problem(spec, dataset.schema, config.loss)
    if unusable:
        raise UserError(unusable)
    if not config.loss.uniform_negatives:
        return Catalogue(len(dataset.items), {})
    static = tower_columns(dataset, spec.item, Side.ITEM).joined
    problem = uniform_negatives_problem(spec, static)
    if problem:
        raise UserError(problem)
    return Catalogue(len(dataset.items), {name: tf.constant(values) for name, values in static.items()})


def _take_best(loop: Loop, folder: CheckpointFolder, epoch: int) -> None:
    best = folder.read_best(epoch)
    if best is None:
        raise UserError(
            f"{folder.folder}: the weights of epoch {epoch}, the best one, cannot be read (truncated or removed); "
            "remove the folder to train from the start."
        )
    assign_variables({"model": loop.variables["model"]}, best.arrays)


def _write(
    loop: Loop, dataset: DatasetFolder, settings: Mapping[str, Any], progress: Progress, output: Path
) -> Artifact:
    model = loop.trainer.model
    vectors = catalogue_vectors(dataset, loop.embed_items)
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
    with write_artifact(output, MODEL_KIND, MODEL_FORMAT, {**settings, "parent": None}) as folder:
        export_tower(model.query_tower, folder / "query_tower")
        export_tower(model.item_tower, folder / "item_tower")
        write_vectors(folder / "vectors.npy", vectors)
        write_json(folder / "schema.json", dataset.schema.model_dump(mode="json"))
        write_json(folder / "representation.json", representation)
        write_json(folder / "training.json", history)
    return open_artifact(output, MODEL_KIND, MODEL_FORMAT)
