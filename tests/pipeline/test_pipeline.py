"""The pipeline's one job, with stages that only count: skip what is made from the same inputs, make again the rest."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.artifacts import open_artifact, write_artifact
from recsys.config import Config, parse_config
from recsys.errors import UserError
from recsys.pipeline import STAGES, Pipeline
from recsys.schema import Schema
from recsys.workdir import Made


class Stages:
    """Stand-ins for the five jobs that write the smallest artefacts and remember that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.die_after: str | None = None

    def note(self, stage: str) -> None:
        self.ran.append(stage)

    def end(self, stage: str) -> None:
        if self.die_after == stage:
            raise KeyboardInterrupt

    def ingest(self, source: Any, config: Any, output: Path, *, seed: int, quiet: bool) -> None:
        self.note("ingest")
        text = Path(source.events.shards()[0].file).read_text()
        with write_artifact(output, "dataset", 1, {"schema": Schema().model_dump(mode="json")}) as folder:
            (folder / "rows.txt").write_text(text.strip() + str(config.lag_ms))
        self.end("ingest")

    def train(
        self,
        dataset: Any,
        model: Any,
        train: Any,
        seed: int,
        output: Path,
        *,
        checkpoints: Path,
        logs: Path,
        quiet: bool,
    ) -> None:
        self.note("train")
        resumed = (checkpoints / "half").exists()
        checkpoints.mkdir(parents=True, exist_ok=True)
        (checkpoints / "half").write_text("")
        if self.die_after == "half of train" and not resumed:
            raise KeyboardInterrupt
        self.note(f"resumed {resumed}")
        with write_artifact(output, "model", 1, {"dataset": dataset.artifact.artifact_id}) as folder:
            (folder / "weights.txt").write_text(f"{seed}{train.model_dump_json()}")
        self.end("train")

    def rank(
        self,
        dataset: Any,
        ranking: Any,
        seed: int,
        output: Path,
        *,
        checkpoints: Path,
        logs: Path,
        retrieval_model: Path | None,
        quiet: bool,
    ) -> None:
        resumed = (checkpoints / "half").exists()
        checkpoints.mkdir(parents=True, exist_ok=True)
        (checkpoints / "half").write_text("")
        if self.die_after == "half of rank" and not resumed:
            raise KeyboardInterrupt
        self.note(f"rank resumed {resumed}")
        with write_artifact(output, "ranker", 1, {"dataset": dataset.artifact.artifact_id}):
            pass

    def index(self, dataset: Any, model: Path, config: Any, output: Path, *, ranker: Path | None, quiet: bool) -> None:
        self.note("index")
        with write_artifact(output, "bundle", 1, {"dataset": dataset.artifact.artifact_id}) as folder:
            shutil.copytree(model, folder / "model")
            (folder / "index.txt").write_text(config.type)
        self.end("index")

    def evaluate(self, dataset: Any, bundle: Path, config: Any, output: Path, *, seed: int, quiet: bool) -> None:
        self.note("evaluate")
        metrics = {"main_k": 10, "headline": {"recall@10": 0.5, "recall@5": 0.3}}
        with write_artifact(output, "report", 1, {}) as folder:
            (folder / "metrics.json").write_text(json.dumps(metrics))
        self.end("evaluate")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages()
    for name, function, call in (
        ("recsys.ingestion.job", "ingest", stages.ingest),
        ("recsys.retrieval.job", "train", stages.train),
        ("recsys.ranking.job", "rank", stages.rank),
        ("recsys.index.job", "build_bundle", stages.index),
        ("recsys.evaluation.job", "evaluate", stages.evaluate),
    ):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{function: call}, check=lambda *_: None))
    return stages


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    events = tmp_path / "events.csv"
    events.write_text("user,item\na,b\n")

    def make(**sections: Any) -> Config:
        data = {"source": "files", "events": {"paths": str(events)}}
        return parse_config({"name": "test", "workdir": str(tmp_path / "work"), "data": data, **sections})

    return make


def made_again(pipeline: Pipeline) -> list[str]:
    return [made.stage for made in pipeline.run() if made.seconds is not None]


def test_everything_is_made_once(stages: Stages, configure: Callable[..., Config]) -> None:
    heard: list[Made] = []
    made = Pipeline(configure()).run(heard.append)
    assert tuple(one.stage for one in made) == STAGES and heard == made
    assert all(one.seconds is not None for one in made)
    ran = list(stages.ran)
    again = Pipeline(configure()).run()
    assert [one.seconds for one in again] == [None] * 5 and stages.ran == ran
    assert [one.identity for one in again] == [one.identity for one in made]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"index": {"type": "hnsw"}}, ["index", "evaluate", "publish"]),
        ({"train": {"epochs": 99}}, ["train", "index", "evaluate", "publish"]),
        ({"ingest": {"lag_ms": 5}}, list(STAGES)),
        ({"seed": 2}, ["ingest", "train", "index", "evaluate", "publish"]),
        ({"serve": {"port": 1}}, []),
        ({"name": "other"}, []),
    ],
)
def test_a_setting_remakes_its_stage_and_what_follows(
    stages: Stages, configure: Callable[..., Config], sections: dict, expected: list[str]
) -> None:
    Pipeline(configure()).run()
    assert made_again(Pipeline(configure(**sections))) == expected


def test_touched_input_is_read_again_but_equal_content_stops_there(
    stages: Stages, configure: Callable[..., Config], tmp_path: Path
) -> None:
    Pipeline(configure()).run()
    (tmp_path / "events.csv").write_text("user,item\na,b\n\n")  # the stand-in strips the last line
    assert made_again(Pipeline(configure())) == ["ingest"]
    (tmp_path / "events.csv").write_text("user,item\na,c\n")
    assert made_again(Pipeline(configure())) == list(STAGES)


@pytest.mark.parametrize("victim", ["dataset/rows.txt", "model/weights.txt", "bundle/index.txt", "report/metrics.json"])
def test_a_damaged_result_is_made_again(
    stages: Stages, configure: Callable[..., Config], tmp_path: Path, victim: str
) -> None:
    before = Pipeline(configure()).run()
    (tmp_path / "work" / victim).write_text("")
    after = Pipeline(configure()).run()
    stage = {"dataset": "ingest", "model": "train", "bundle": "index", "report": "evaluate"}[victim.split("/")[0]]
    assert [made.stage for made in after if made.seconds is not None] == [stage]
    assert [made.identity for made in after] == [made.identity for made in before]


@pytest.mark.parametrize("moment", ["ingest", "half of train", "train", "index", "evaluate"])
def test_a_run_that_died_goes_on(stages: Stages, configure: Callable[..., Config], tmp_path: Path, moment: str) -> None:
    """Dying after a stage's result is there but before its stamp: the stage runs again, to the same result."""
    undisturbed = Pipeline(configure(workdir=str(tmp_path / "other"))).run()
    stages.ran.clear()
    stages.die_after = moment
    with pytest.raises(KeyboardInterrupt):
        Pipeline(configure()).run()
    stages.die_after = None
    made = Pipeline(configure()).run()
    assert [one.identity for one in made] == [one.identity for one in undisturbed]
    if moment == "half of train":
        assert "resumed True" in stages.ran
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_a_ranker_that_died_goes_on_though_training_is_skipped(
    stages: Stages, configure: Callable[..., Config], tmp_path: Path
) -> None:
    stages.die_after = "half of rank"
    with pytest.raises(KeyboardInterrupt):
        Pipeline(configure(ranking={})).run()
    stages.die_after = None
    Pipeline(configure(ranking={})).run()
    assert "rank resumed True" in stages.ran
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_force_makes_again(stages: Stages, configure: Callable[..., Config]) -> None:
    Pipeline(configure()).run()
    stages.ran.clear()
    assert Pipeline(configure(), force=True).index().seconds is not None
    assert stages.ran == ["index"]


def test_a_model_of_another_data_set_is_refused(stages: Stages, configure: Callable[..., Config]) -> None:
    Pipeline(configure()).run()
    Pipeline(configure(ingest={"lag_ms": 77})).ingest()
    with pytest.raises(UserError, match=r"this model was trained on data set .* whose ids mean something else"):
        Pipeline(configure()).index()


def test_published_figures_are_those_of_the_bundle(stages: Stages, configure: Callable[..., Config]) -> None:
    from recsys import registry

    pipeline = Pipeline(configure())
    pipeline.run()
    assert registry.listing(pipeline.registry_path)[0].metrics == {"recall@10": 0.5}
    other = Pipeline(configure(index={"type": "hnsw"}))
    other.index()
    other.publish()  # not evaluated: the old report does not speak of this bundle
    first, second = registry.listing(pipeline.registry_path)
    assert second.metrics == {} and second.status == "current" and first.status == "previous"
    assert open_artifact(registry.bundle_path(pipeline.registry_path), "bundle", 1).artifact_id == second.bundle


def test_a_rollback_outlives_an_unchanged_run(
    stages: Stages, configure: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    from recsys import registry
    from recsys.commands.common import tell_made

    first = Pipeline(configure()).run()[-1].identity
    changed = Pipeline(configure(index={"type": "hnsw"}))
    second = changed.run()[-1].identity
    root = changed.registry_path
    assert registry.rollback(root) == registry.Current(first, None)
    log = (root / registry.LOG).read_bytes()
    last = changed.run()[-1]
    assert (last.identity, last.seconds) == (second, None) and registry.current(root).bundle == first
    assert (root / registry.LOG).read_bytes() == log
    tell_made(last)
    said = capsys.readouterr().err
    assert f"Not promoted: bundle {second}" in said and f"{first} took its place" in said
    assert f"'recsys promote {root} {second}'" in said
    # What is made anew is promoted: other settings, and going back to those of before.
    assert Pipeline(configure()).run()[-1].note is None
    assert changed.run()[-1].note is None and registry.current(root).bundle == second


def test_a_bundle_that_was_published_but_never_current_is_promoted(
    stages: Stages, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys import registry

    def killed(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    pipeline = Pipeline(configure())
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(registry, "promote", killed)
        pipeline.run()
    made = pipeline.run()[-1]
    assert made.seconds is not None and registry.current(pipeline.registry_path).bundle == made.identity


def test_two_commands_do_not_work_in_one_folder(
    stages: Stages, configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.workdir.LOCK_SECONDS", 0.2)
    work = tmp_path / "work"
    work.mkdir()
    code = (
        "import fcntl, sys\nlock = open(sys.argv[1], 'w')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\ninput()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(work / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another recsys command works in this folder"):
            Pipeline(configure()).ingest()
        other.kill()
    assert Pipeline(configure()).ingest().seconds is not None  # the lock died with its holder
