"""The search for gates as a phase of the towers' job: what it finds, exports and reports, killed at any moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys._tensorflow import tf
from recsys.errors import UserError
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.retrieval.gate_search import REWIND, weights_without_gates
from recsys.retrieval.live import LiveTower, build
from recsys.retrieval.loop import Loop
from recsys.retrieval.pruning import prune
from recsys.retrieval.spec import TwoTowerSpec
from recsys.retrieval.towers import TwoTower
from recsys.scoring.towers import load_tower
from tests.retrieval.test_gates import QUICK, random_rows, spec_of
from tests.retrieval.test_job import Stopped, run


def test_a_larger_penalty_keeps_less(tiny_dataset: Path, tmp_path: Path):
    """Without one the device, which says nothing, stays; with a fair one only the colour does; with a huge one none."""
    kept = []
    for penalty in (0.0, 1.0, 50.0):
        folder = tmp_path / str(penalty)
        run(
            tiny_dataset,
            folder,
            model={"item": {"features": ["colour", "price"]}, "query": {"features": ["club", "device"]}},
            gates={"mode": "field", **QUICK, "penalty": penalty},
            epochs=1,
        )
        report = json.loads((folder / "model" / "gates.json").read_text())
        kept.append({name for name, entry in report["fields"].items() if entry["open"]})
    assert kept[0] >= {"colour", "device"}
    assert kept[1] == {"colour"}
    assert kept[2] == set()


def test_without_the_section_nothing_is_different(tiny_dataset: Path, tmp_path: Path):
    """Gates that cost nothing: no variable, no operation, no file more; and the model learns the same bits."""
    run(tiny_dataset, tmp_path / "off", epochs=1)
    spec = spec_of(tiny_dataset)
    plain = TwoTower(spec, 1)
    build(plain)
    assert not [one.name for one in plain.variables if "gate" in one.name]
    operations = {
        side: [one.type for one in _graph(getattr(plain, f"{side}_tower"), spec, side).get_operations()]
        for side in ("query", "item")
    }
    assert not {"Sigmoid", "Greater"} & {kind for kinds in operations.values() for kind in kinds}
    assert not (tmp_path / "off" / "model" / "gates.json").exists()
    assert not (tmp_path / "off" / "checkpoints" / REWIND).exists()


def _graph(tower, spec: TwoTowerSpec, side: str) -> tf.Graph:
    rows = {name: tf.constant(column[:4]) for name, column in random_rows(spec, side).items()}
    return tf.function(lambda: tower(rows)).get_concrete_function().graph


def test_the_job_retrains_without_moving_a_gate_and_reports_each(tiny_dataset: Path, tmp_path: Path, monkeypatch):
    """The logits at the end are those of the search; the report's rows are those of the exported tables."""
    at_rewind: dict[str, np.ndarray] = {}
    saved: list[tuple[str, dict]] = []
    write = CheckpointFolder.write

    def watch(folder, name, arrays, state):
        if name == REWIND:
            at_rewind.update(arrays)
        elif name.startswith("checkpoint"):
            saved.append((state["phase"], {**arrays, "step": state["step"], "epoch": state["epoch"]}))
        write(folder, name, arrays, state)

    monkeypatch.setattr(CheckpointFolder, "write", watch)
    started: dict[str, list[np.ndarray]] = {}

    def watch_start(loop, progress, epochs):
        started[progress.phase] = [one.numpy() for one in weights_without_gates(loop.trainer.model)]
        return train_loop(loop, progress, epochs)

    train_loop = Loop.run
    monkeypatch.setattr(Loop, "run", watch_start)
    trained: list[TwoTower] = []
    monkeypatch.setattr("recsys.retrieval.job.prune", lambda one: trained.append(one) or prune(one))
    artifact = run(
        tiny_dataset,
        tmp_path,
        epochs=2,
        refit_on_validation=True,
        gates={"mode": "value-lazy", **QUICK, "rewind_epoch": 2},
    )
    model = tmp_path / "model"
    tables = {path.stem: pq.read_table(path).to_pydict() for path in (model / "gates").glob("*.parquet")}
    assert set(tables) == {"club", "device", "colour", "tags"}
    phases = [phase for phase, _ in saved]
    assert list(dict.fromkeys(phases)) == ["gates", "train", "refit"]
    logits = {name: table["logit"] for name, table in tables.items()}
    device = logits["device"]
    found = [
        [array for key, array in arrays.items() if key.startswith("model/") and _is(array, device)]
        for phase, arrays in saved
        if phase != "gates"
    ]
    assert all(len(one) == 1 for one in found), "the logits of the search are in every later checkpoint, unmoved"
    # What training started from is the state after two epochs of search, gates and optimiser left out.
    after_two = next(arrays for phase, arrays in saved if phase == "gates" and arrays["epoch"] == 2)
    weights = [array for key, array in at_rewind.items() if key.startswith("weights/")]
    of_model = [array for key, array in after_two.items() if key.startswith("model/")]
    assert len(weights) == len(of_model) - 6  # four tables' gates, the gates of numbers, the temperature
    assert all(any(_is(array, other) for other in of_model) for array in weights)
    for mine, right in zip(started["train"], weights, strict=True):
        np.testing.assert_array_equal(mine, right)
    assert any(not np.array_equal(mine, first) for mine, first in zip(weights, started["gates"], strict=True))
    for name, table in tables.items():
        assert table["kept"] == [logit > 0 for logit in table["logit"]]
        kept_rows = [row for row, stays in zip(table["row"], table["kept"], strict=True) if stays]
        assert len(set(kept_rows)) == len(kept_rows), name
    assert tables["club"]["value"][:2] == ["(missing)", "(unseen)"] and tables["club"]["kept"][:2] == [True, True]
    report = json.loads((model / "gates.json").read_text())
    assert 0 < report["rows"]["after"] < report["rows"]["before"]
    for side in ("query", "item"):
        exported, live = load_tower(model / f"{side}_tower"), getattr(trained[-1], f"{side}_tower")
        rows = random_rows(trained[-1].spec, side)
        read = {name: values for name, values in rows.items() if name in exported.inputs}
        assert np.abs(exported(read) - LiveTower(live)(rows)).max() < 1e-4
    exported = load_tower(model / "query_tower")
    assert ("device" in exported.inputs) == ("device" not in report["closed_fields"])
    record = json.loads((model / "training.json").read_text())
    assert len(record["gates"]) == 4 and record["gates"][0]["open_gates/club"] == 1.0
    assert len(record["refit"]) == record["best_epoch"] + 2
    assert artifact.manifest["train"]["gates"]["mode"] == "value-lazy"


def _is(array: np.ndarray, other) -> bool:
    """Equal, padding's gate aside."""
    other = np.asarray(other, array.dtype)
    if array.ndim == other.ndim == 1 and len(array) == len(other) + 1:
        array = array[1:]
    return array.shape == other.shape and np.array_equal(array, other)


KILLED = {
    "loss": {"frequencies": "streaming", "cross_batch_negatives": 40},
    "epochs": 2,
    "refit_on_validation": True,
    "gates": {"mode": "value-dense", **QUICK, "search_epochs": 3, "warmup_epochs": 1},
}

CHILD = """
import sys
from pathlib import Path
from tests.retrieval.test_gates_job import KILLED, run
run(Path(sys.argv[1]), Path(sys.argv[2]), **KILLED)
"""


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tiny_dataset: Path, tmp_path: Path, monkeypatch):
    """By SIGKILL in the search, and right after the last checkpoint of each phase and the first of the next."""
    numbers: dict[int, str] = {}
    save = CheckpointFolder.save

    def watching(folder, number, arrays, state):
        save(folder, number, arrays, state)
        numbers[number] = state["phase"]

    monkeypatch.setattr(CheckpointFolder, "save", watching)
    expected = run(tiny_dataset, tmp_path / "undisturbed", **KILLED)
    last = {phase: number for number, phase in numbers.items()}
    disturbed = tmp_path / "disturbed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tiny_dataset), str(disturbed)])
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if (disturbed / "checkpoints" / "checkpoint-000000000002.npz").exists():
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    for stop in (last["gates"], last["gates"] + 1, last["train"]):

        def stopping(folder, number, arrays, state, stop=stop):
            save(folder, number, arrays, state)
            if number == stop:
                raise Stopped

        monkeypatch.setattr(CheckpointFolder, "save", stopping)
        with pytest.raises(Stopped):
            run(tiny_dataset, disturbed, **KILLED)
    monkeypatch.undo()
    assert run(tiny_dataset, disturbed, **KILLED).artifact_id == expected.artifact_id


def test_settings_that_cannot_work_are_user_errors(tiny_dataset: Path, tmp_path: Path):
    """A gate that could not close, fields that no tower reads, ids, and a search that leaves nothing."""
    gates = {"mode": "field", **QUICK}
    with pytest.raises(UserError, match=r"train\.gates: .*learning_rate.*epsilon"):
        run(tiny_dataset, tmp_path, gates={**gates, "learning_rate": 1e-4})
    with pytest.raises(UserError, match=r"train\.gates: .*epsilon"):
        run(tiny_dataset, tmp_path, gates={**gates, "penalty": 1e-9, "epsilon": 1e-7})
    with pytest.raises(UserError, match=r"train\.gates\.fields: 'weight'"):
        run(tiny_dataset, tmp_path, gates={**gates, "fields": ["weight"]})
    with pytest.raises(UserError, match=r"train\.gates\.fields: 'item': ids are never gated"):
        run(tiny_dataset, tmp_path, gates={**gates, "fields": ["item"]})
    with pytest.raises(UserError, match=r"train\.gates\.fields: 'history'"):
        run(tiny_dataset, tmp_path, gates={**gates, "mode": "value-lazy", "fields": ["history"]})
    with pytest.raises(UserError, match=r"closed every field of the item tower"):
        run(
            tiny_dataset,
            tmp_path,
            gates={**gates, "penalty": 50.0},
            model={"item_id": {"use": False}, "history": {"share_item_table": False}},
            epochs=1,
        )
    assert not (tmp_path / "model").exists()
