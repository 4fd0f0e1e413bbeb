"""The stages in order, each skipped where its result is there already, made from the same inputs and settings.

Results appear whole or not at all, every stage is deterministic, and what it made is stamped (recsys/workdir.py), so a
run that was killed at any instant and is started again ends with what an undisturbed one makes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import registry
from recsys.artifacts import copy_artifact, open_artifact, recover
from recsys.config import Config
from recsys.errors import UserError
from recsys.evaluation import REPORT_FORMAT, REPORT_KIND
from recsys.promotion import calibration_evidence
from recsys.ranking import RANKER_FORMAT, RANKER_KIND
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.workdir import Identity, Made, Make, locked, make_once, read_stamp

if TYPE_CHECKING:
    from recsys.dataset_folder import DatasetFolder
    from recsys.datasets.source import RawSource

STAGES = ("ingest", "train", "index", "evaluate", "publish")
RANK = "rank"
"""The stage after training where the configuration has a ranker."""

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Pipeline:
    """The stages of one configuration in its workdir. `force` makes a stage's result again though it is there."""

    config: Config
    quiet: bool = False
    force: bool = False

    @property
    def workdir(self) -> Path:
        """The folder that receives everything."""
        return self.config.workdir

    @property
    def dataset_path(self) -> Path:
        """Where ingestion puts the data set."""
        return self.workdir / "dataset"

    @property
    def model_path(self) -> Path:
        """Where training puts the model."""
        return self.workdir / "model"

    @property
    def ranker_path(self) -> Path:
        """Where the ranking job puts the ranker."""
        return self.workdir / "ranker"

    @property
    def bundle_path(self) -> Path:
        """Where indexing puts the bundle."""
        return self.workdir / "bundle"

    @property
    def report_path(self) -> Path:
        """Where evaluation puts metrics.json and report.html."""
        return self.workdir / "report"

    @property
    def registry_path(self) -> Path:
        """Where bundles are published."""
        return self.workdir / "registry"

    def run(self, tell: Callable[[Made], None] = lambda made: None) -> list[Made]:
        """All stages; `tell` hears of each as it ends."""
        made = []
        for stage in self.stages:
            made.append(getattr(self, stage)())
            tell(made[-1])
        return made

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this configuration in order."""
        after = STAGES.index("train") + 1
        return STAGES if self.config.ranking is None else (*STAGES[:after], RANK, *STAGES[after:])

    def source(self) -> "RawSource":
        """Open the raw data; the simulator writes its logs under the workdir first."""
        with locked(self.workdir):
            return self._source()

    def ingest(self) -> Made:
        """Raw data to data set."""
        from recsys.ingestion.job import ingest

        with locked(self.workdir):
            source = self._source()
            inputs = {
                "data": self._settings("data"),
                "ingest": self._settings("ingest"),
                "seed": self.config.seed,
                "files": _files(source),
                "parent": _dataset_id(self.config.ingest.extend) if self.config.ingest.extend else None,
            }
            return self._make(
                "ingest",
                inputs,
                self.dataset_path,
                _dataset_id,
                lambda key: ingest(
                    source, self.config.ingest, self.dataset_path, seed=self.config.seed, quiet=self.quiet
                ),
            )

    def train(self) -> Made:
        """Data set to model; resumes from the checkpoints of a run that was killed."""
        with locked(self.workdir):
            dataset = self._dataset()
            inputs = {
                "dataset": dataset.artifact.artifact_id,
                "model": self._settings("model"),
                "train": self._settings("train"),
                "seed": self.config.seed,
            }

            def make(key: str) -> None:
                from recsys.retrieval.job import train

                if self.config.ranking is not None and self.config.ranking.reuse is None:
                    from recsys.ranking.job import check

                    check(dataset, self.config.ranking, self.config.seed)
                train(
                    dataset,
                    self.config.model,
                    self.config.train,
                    self.config.seed,
                    self.model_path,
                    checkpoints=self._checkpoints("train", key),
                    logs=self.workdir / "logs",
                    quiet=self.quiet,
                )

            made = self._make("train", inputs, self.model_path, _model_id, make)
            self._forget_checkpoints("train")
            return made

    def rank(self) -> Made:
        """Data set (and retrieval model, where its score is read) to ranker; resumes as `train` does."""
        ranking = self.config.ranking
        if ranking is None:
            raise UserError("ranking: the configuration has no such section, so there is no ranker to train.")
        with locked(self.workdir):
            dataset = self._dataset()
            if ranking.reuse is not None:
                return self._told_of_retrieval(self._reuse(dataset, ranking.reuse))
            inputs = {
                "dataset": dataset.artifact.artifact_id,
                "ranking": self._settings("ranking"),
                "seed": self.config.seed,
            }
            if ranking.retrieval_score:
                _needed(self.model_path, "retrieval model, whose score the ranker is to read", "train")
                inputs["model"] = _model_id(self.model_path)

            def make(key: str) -> None:
                from recsys.ranking.job import rank

                rank(
                    dataset,
                    ranking,
                    self.config.seed,
                    self.ranker_path,
                    checkpoints=self._checkpoints(RANK, key),
                    logs=self.workdir / "logs",
                    retrieval_model=self.model_path if self.model_path.is_dir() else None,
                    quiet=self.quiet,
                )

            made = self._make(RANK, inputs, self.ranker_path, _ranker_id, make)
            self._forget_checkpoints(RANK)
            return self._told_of_retrieval(made)

    def index(self) -> Made:
        """Data set and model (and ranker) to bundle."""
        with locked(self.workdir):
            dataset = self._dataset()
            _needed(self.model_path, "model", "train")
            model = open_artifact(self.model_path, MODEL_KIND, MODEL_FORMAT)
            if model.manifest.get("dataset") != dataset.artifact.artifact_id:
                raise UserError(
                    f"{self.model_path}: this model was trained on data set {model.manifest.get('dataset')}, but "
                    f"{self.dataset_path} is data set {dataset.artifact.artifact_id}, whose ids mean something else; "
                    "train the model again with 'recsys train'."
                )
            inputs = {
                "dataset": dataset.artifact.artifact_id,
                "model": model.artifact_id,
                "index": self._settings("index"),
                "seed": self.config.seed,
            }
            ranker = None
            if self.config.ranking is not None:
                _needed(self.ranker_path, "ranker", "train")
                ranker = self.ranker_path
                inputs["ranker"] = _ranker_id(ranker)

            def make(key: str) -> None:
                from recsys.index.job import build_bundle

                build_bundle(
                    dataset, self.model_path, self.config.index, self.bundle_path, ranker=ranker, quiet=self.quiet
                )

            return self._make("index", inputs, self.bundle_path, _bundle_id, make)

    def evaluate(self) -> Made:
        """Data set and bundle to report."""
        with locked(self.workdir):
            dataset = self._dataset()
            _needed(self.bundle_path, "bundle", "index")
            inputs = {
                "dataset": dataset.artifact.artifact_id,
                "bundle": _bundle_id(self.bundle_path),
                "evaluate": self._settings("evaluate"),
                "seed": self.config.seed,
            }

            def make(key: str) -> None:
                from recsys.evaluation.job import evaluate

                evaluate(
                    dataset,
                    self.bundle_path,
                    self.config.evaluate,
                    self.report_path,
                    seed=self.config.seed,
                    quiet=self.quiet,
                )

            return self._make("evaluate", inputs, self.report_path, _report_id, make)

    def publish(self) -> Made:
        """Bundle to registry, and current there; its measured figures go along where it was evaluated.

        A bundle that this stage made current before is not promoted again: a rollback since then stands. Raises
        UserError where the ranker must prove its calibration and does not; the bundle is published then all the same.
        """
        with locked(self.workdir):
            bundle = _bundle_id(self.bundle_path)
            stamp = read_stamp(self.workdir, "evaluate")
            evaluated = stamp is not None and stamp.get("bundle") == bundle
            metrics = self.metrics() if evaluated else None
            published = registry.publish(
                self.registry_path,
                self.bundle_path,
                metrics={} if metrics is None else headline(metrics),
                calibration=self._calibration(metrics),
                why=self.config.name,
            )

            def promote(key: str) -> None:
                registry.promote(self.registry_path, bundle, why=f"recsys run, {self.config.name}")

            def promoted(path: Path) -> str:
                registry.current(self.registry_path)  # raises where a registry made anew has none yet
                return _bundle_id(path)

            made = self._make("publish", {"bundle": bundle}, published.path, promoted, promote)
            now = registry.current(self.registry_path).bundle
            return made if now == bundle else replace(made, note=_left_alone(self.registry_path, bundle, now))

    def _reuse(self, dataset: "DatasetFolder", folder: Path) -> Made:
        """The ranker in `folder` instead of one trained here."""
        ranker = open_artifact(folder, RANKER_KIND, RANKER_FORMAT, verify=True)
        found, expected = ranker.manifest.get("dataset"), dataset.artifact.artifact_id
        if found != expected:
            raise UserError(
                f"ranking.reuse: {folder} is a ranker of data set {found}, but {self.dataset_path} is {expected}, "
                "whose ids mean something else; train a ranker on this one."
            )

        def make(key: str) -> None:
            if not (self.ranker_path.exists() and folder.samefile(self.ranker_path)):
                copy_artifact(ranker, self.ranker_path)

        inputs = {"dataset": expected, "reused": ranker.artifact_id}
        return self._make(RANK, inputs, self.ranker_path, _ranker_id, make)

    def _told_of_retrieval(self, made: Made) -> Made:
        """With a note where the ranker was trained beside another retrieval model than the one that is there now."""
        saw = open_artifact(made.path, RANKER_KIND, RANKER_FORMAT).manifest.get("retrieval_model")
        now = _model_id(self.model_path) if self.model_path.is_dir() else None
        if now is None or now == saw:
            return made
        return replace(
            made,
            note=f"The ranker was trained beside retrieval model {saw}, not {now}; promotion checks its calibration.",
        )

    def _calibration(self, metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The evidence that promotion may ask for; None without a ranker or an evaluation."""
        if metrics is None or self.config.ranking is None:
            return None
        return calibration_evidence(metrics.get("ranking"), self.config.promote.calibration)

    def metrics(self) -> dict[str, Any]:
        """What evaluation measured; raises UserError where nothing was evaluated yet."""
        path = self.report_path / "metrics.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: not there; evaluate the bundle first with 'recsys evaluate'.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not readable as JSON ({error}); run 'recsys evaluate --force'.") from None

    def _source(self) -> "RawSource":
        from recsys.datasets.load import load_source

        return load_source(self.config.data, self.config.seed, self.workdir)

    def _dataset(self) -> "DatasetFolder":
        from recsys.dataset_folder import DatasetFolder

        _needed(self.dataset_path, "data set", "ingest")
        return DatasetFolder.open(self.dataset_path)

    def _make(self, stage: str, inputs: Mapping[str, Any], path: Path, identity: Identity, make: Make) -> Made:
        return make_once(self.workdir, stage, inputs, path, identity, make, force=self.force)

    def _checkpoints(self, stage: str, key: str) -> Path:
        return self.workdir / CHECKPOINTS / f"{stage}-{key[:16]}"

    def _forget_checkpoints(self, stage: str) -> None:
        """A stage that has ended needs none; another one, killed, may."""
        for folder in (self.workdir / CHECKPOINTS).glob(f"{stage}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            (self.workdir / CHECKPOINTS).rmdir()

    def _settings(self, section: str) -> Any:
        return getattr(self.config, section).model_dump(mode="json")


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The few figures of an evaluation that the registry shows beside a bundle: those at its main cut-off."""
    cut = f"@{metrics['main_k']}"
    return {name: float(value) for name, value in metrics["headline"].items() if name.endswith(cut)}


def _left_alone(path: Path, bundle: str, now: str) -> str:
    return (
        f"Not promoted: bundle {bundle} was made current by an earlier run, and {now} took its place since then (a "
        f"rollback or a promotion), so that stays current; 'recsys promote {path} {bundle}' changes it."
    )


def _needed(path: Path, what: str, command: str) -> None:
    recover(path)
    if not path.is_dir():
        raise UserError(f"{path}: no {what} here; make it first with 'recsys {command} CONFIG'.")


def _files(source: "RawSource") -> list[list[str | int]]:
    """Path, size and time of change of every raw file: with equal ones the content is taken to be equal."""
    tables = (table for table in (source.events, source.items, source.users) if table is not None)
    names: Iterable[str] = sorted({shard.file for table in tables for shard in table.shards()})
    stats = [(name, Path(name).stat()) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _dataset_id(path: Path) -> str:
    from recsys.dataset_folder import DatasetFolder

    return DatasetFolder.open(path).artifact.artifact_id


def _model_id(path: Path) -> str:
    return open_artifact(path, MODEL_KIND, MODEL_FORMAT).artifact_id


def _ranker_id(path: Path) -> str:
    return open_artifact(path, RANKER_KIND, RANKER_FORMAT).artifact_id


def _bundle_id(path: Path) -> str:
    return open_artifact(path, registry.BUNDLE_KIND, registry.BUNDLE_FORMAT).artifact_id


def _report_id(path: Path) -> str:
    return open_artifact(path, REPORT_KIND, REPORT_FORMAT).artifact_id
