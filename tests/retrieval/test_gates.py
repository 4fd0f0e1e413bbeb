"""Gates in the towers: what they mask, prune and export, and what the search hands on."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.config.model import ModelConfig
from recsys.dataset_folder import DatasetFolder
from recsys.features.spec import audience_spec
from recsys.retrieval.export import export_tower
from recsys.retrieval.gate_search import gate_stage, rare_values, rewind, rewind_arrays
from recsys.retrieval.gates import gate_spec, make_gates, open_shares
from recsys.retrieval.live import LiveTower, build
from recsys.retrieval.pruning import prune
from recsys.retrieval.shards import positive_pairs, scan_positives
from recsys.retrieval.spec import TwoTowerSpec, two_tower_spec
from recsys.retrieval.towers import TwoTower
from recsys.schema import FIRST_VALUE_ID, MISSING_ID, UNSEEN_ID
from recsys.scoring.towers import load_tower
from tests.retrieval.test_job import run

ROWS = 4096
QUICK = {"search_epochs": 4, "learning_rate": 0.1, "penalty": 0.05}
MODES = ("field", "value-lazy", "value-dense")
SHAPES = {
    "concat": {},
    "sum": {"query": {"combine": "sum"}, "item": {"combine": "sum"}},
    "poolings": {
        "query": {"combine": "sum"},
        "item": {"combine": "sum", "hidden": [16]},
        "history": {
            "share_item_table": False,
            "poolings": [{"kind": "root"}, {"kind": "recent"}, {"kind": "position"}],
        },
    },
}


def spec_of(dataset: Path, model: dict | None = None) -> TwoTowerSpec:
    opened = DatasetFolder.open(dataset)
    return two_tower_spec(opened, ModelConfig.model_validate(model or {}), scan_positives(opened, ("train",)).counts)


def gated_model(spec: TwoTowerSpec, *, hard: bool, **config) -> TwoTower:
    gates = make_gates(gate_spec(spec, GatesConfig.model_validate({"penalty": 0.1} | config)), spec.tables, hard=hard)
    model = TwoTower(spec, 1, gates)
    build(model)
    return model


def random_rows(spec: TwoTowerSpec, side: str, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Rows with every id that there is, missing, unseen and out-of-range ones, lists with padding and empty lists."""
    rng = np.random.default_rng(5)
    tower = spec.query if side == "query" else spec.item
    sizes = {table.name: len(table.row_of) + 2 for table in spec.tables}
    columns = {tower.id_column: rng.integers(1, sizes[tower.id_column], rows).astype(np.int32)}
    for inputs in tower.inputs:
        if inputs.is_list:
            width = inputs.length or 4
            ids = rng.integers(1, sizes[inputs.table], (rows, width))
            columns[inputs.name] = np.where(np.arange(width) < rng.integers(0, width + 1, rows)[:, None], ids, 0)
        elif inputs.is_integer:
            columns[inputs.name] = rng.integers(1, sizes[inputs.table], rows)
        else:
            values = rng.normal(20, 5, rows).astype(np.float32)
            columns[inputs.name] = np.where(rng.random(rows) < 0.1, np.float32(np.nan), values)
    return columns


@pytest.mark.parametrize("mode", MODES)
def test_what_an_items_users_say_is_exported_too(tiny_dataset: Path, mode: str):
    """Of a tower that concatenates, behind the fields of which some were closed."""
    dataset = DatasetFolder.open(tiny_dataset)
    events = scan_positives(dataset, ("train",))
    spec = two_tower_spec(dataset, ModelConfig(item_audience=True), events.counts)
    spec = replace(spec, audience=audience_spec(*positive_pairs(events), len(events.counts["item"])))
    model = gated_model(spec, hard=True, mode=mode)
    close(model, 0.35)
    rows = random_rows(spec, "item")
    rows["item"] = np.minimum(rows["item"], len(events.counts["item"]) - 1)
    trained, exported = (LiveTower(one.item_tower)(rows) for one in (model, prune(model)))
    assert np.abs(trained - exported).max() < 1e-4


def close(model: TwoTower, share: float, seed: int = 3) -> None:
    """Random signs; most weights off their initial values, so that nothing agrees by being zero."""
    rng = np.random.default_rng(seed)
    for gates in model.gates.all:
        gates.logits.assign(np.where(rng.random(gates.size) < share, -1.0, 1.0))
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(0, 0.05, variable.shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_at_the_start_gates_change_nothing(tiny_dataset: Path, mode: str, shape: str):
    """Temperature 1 and every logit at its start: the vectors of the model without gates, within 1e-6."""
    spec = spec_of(tiny_dataset, SHAPES[shape])
    plain = TwoTower(spec, 1)
    build(plain)
    fields = ["history"] if shape == "poolings" else []  # named, since histories have a table of their own here
    names = {"fields": [*fields, "club", "device", "colour", "tags", "price"]}
    gated = gated_model(spec, hard=False, mode=mode, **names)
    for side in ("query", "item"):
        rows = random_rows(spec, side)
        towers = [getattr(model, f"{side}_tower") for model in (plain, gated)]
        expected, found = (LiveTower(tower)(rows) for tower in towers)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_exported_equals_what_was_trained(tiny_dataset: Path, mode: str, shape: str):
    """With a third of the gates closed, on 4,096 rows: specification section 8, item 5."""
    spec = spec_of(tiny_dataset, SHAPES[shape])
    names = {"fields": ["history", "club", "device", "colour", "tags", "price"]} if shape == "poolings" else {}
    model = gated_model(spec, hard=True, mode=mode, **names)
    close(model, 0.35)
    small = prune(model)
    assert small.gates is None and len(small.variables) < len(model.variables)
    assert sum(table.table.shape[0] for table in small.embedding_tables.values()) < sum(
        table.table.shape[0] + 1 for table in model.embedding_tables.values()
    )
    for side in ("query", "item"):
        rows = random_rows(spec, side)
        trained, exported = (LiveTower(getattr(one, f"{side}_tower"))(rows) for one in (model, small))
        assert np.abs(trained - exported).max() < 1e-4
        assert np.abs(trained[1:] - trained[:-1]).max() > 0.1


def test_a_closed_value_is_no_other_kind_of_absence(tiny_dataset: Path):
    """Closed, missing, unseen and hidden colours give four vectors; the closed one is that of a zero row, before and
    after the export."""
    spec = spec_of(tiny_dataset, {"item_id": {"use": False}, "item": {"combine": "sum", "feature_dropout": 0.1}})
    model = gated_model(spec, hard=True, mode="value-lazy", fields=["colour", "tags"])
    close(model, 0.0)
    logits = model.gates.tables["colour"].logits.numpy()
    logits[3] = -1.0
    model.gates.tables["colour"].logits.assign(logits)
    for one in (model, prune(model)):
        tower = one.item_tower
        row = {"item": [3] * 4, "colour": [4, MISSING_ID, UNSEEN_ID, 3], "tags": [[3]] * 4, "price": [20.0] * 4}
        vectors = tower.field_vectors({name: tf.constant(values) for name, values in row.items()}, None)
        found = vectors["colour"].numpy()
        np.testing.assert_array_equal(found[3], 0)
        masked = tower.hide(vectors, tf.constant([[True, False, False]]))["colour"].numpy()
        kinds = [*found, masked[0]]
        np.testing.assert_array_equal(masked[0], masked[3])  # a closed value that is hidden is hidden
        assert min(np.abs(a - b).max() for place, a in enumerate(kinds) for b in kinds[:place]) > 1e-3
        vectors = LiveTower(tower)({name: np.array(values) for name, values in row.items()})
        assert len(np.unique(vectors.round(5), axis=0)) == 4


def test_the_exported_tower_keeps_masked_closed_missing_and_unseen_apart(tiny_dataset: Path, tmp_path: Path):
    """Through the SavedModel: a closed colour gives the vector of a model without gates whose row for it is zeros."""
    spec = spec_of(tiny_dataset, {"item_id": {"use": False}, "item": {"combine": "sum", "feature_dropout": 0.1}})
    model = gated_model(spec, hard=True, mode="value-lazy", fields=["colour", "tags"])
    close(model, 0.0)
    gates = model.gates.tables["colour"]
    gates.logits.assign(tf.tensor_scatter_nd_update(gates.logits, [[3]], [-1.0]))
    plain = TwoTower(spec, 1)
    build(plain)
    for target, source in zip(plain.trainable_variables, model.trainable_variables, strict=True):
        target.assign(source)
    for name in ("colour", "tags"):
        table = plain.embedding_tables[name].table
        table.assign(table * gates.scale)
    table = plain.embedding_tables["colour"].table
    table.assign(tf.tensor_scatter_nd_update(table, [[3]], tf.zeros([1, table.shape[1]])))
    export_tower(prune(model).item_tower, tmp_path / "item_tower")
    exported = load_tower(tmp_path / "item_tower")
    colours = [4, MISSING_ID, UNSEEN_ID, 3, 99]
    row = {"item": [3] * 5, "colour": colours, "tags": [[3]] * 5, "price": [20.0] * 5}
    arrays = {name: np.array(values, np.float32 if name == "price" else np.int32) for name, values in row.items()}
    found = exported(arrays)
    np.testing.assert_allclose(found, LiveTower(plain.item_tower)(arrays), atol=1e-5)
    np.testing.assert_array_equal(found[4], found[2])  # an id that no table knows is unseen
    tower = model.item_tower
    shown = tower.field_vectors({name: tf.constant(values) for name, values in arrays.items()}, None)
    masked = tower.encode(tower.hide(shown, tf.constant([[True, False, False]]))).numpy()[0]
    kinds = [*found[:4], masked]
    assert min(np.abs(a - b).max() for place, a in enumerate(kinds) for b in kinds[:place]) > 1e-3


def test_a_search_leaves_missing_and_unseen_values_open_as_long_as_any_value_is(tiny_dataset: Path, monkeypatch):
    """They are their rows', not the zero row's; a table of which nothing stays is closed as a whole."""
    spec = spec_of(tiny_dataset)
    model = gated_model(spec, hard=False, mode="value-dense", fields=["colour", "tags"])
    config = {"mode": "value-dense", "kappa": 1.0, "search_epochs": 500, "learning_rate": 0.1}
    stage = gate_stage(model, GatesConfig.model_validate(config), 100, 10)
    colour, tags = (model.gates.tables[name] for name in ("colour", "tags"))
    for gates in (colour, tags):
        gates.logits.assign(tf.fill([gates.size], -0.7))
    colour.logits.assign(tf.tensor_scatter_nd_update(colour.logits, [[UNSEEN_ID], [FIRST_VALUE_ID]], [0.9, 0.8]))
    monkeypatch.setattr(stage.optimiser, "met", lambda: [np.ones(gates.size, bool) for gates in model.gates.all])
    found = stage.found()
    np.testing.assert_allclose(found[colour.name][MISSING_ID : FIRST_VALUE_ID + 1], [stage.search.start, 0.9, 0.8])
    assert not (found[colour.name][FIRST_VALUE_ID + 1 :] > 0).any()
    assert not (found[tags.name] > 0).any()


def test_what_no_step_looked_up_is_closed(tiny_dataset: Path, monkeypatch):
    """Its row holds nothing but random first values; without a penalty nothing is closed."""
    for penalty in (0.1, 0.0):
        model = gated_model(spec_of(tiny_dataset), hard=False, mode="value-lazy", fields=["colour"], penalty=penalty)
        config = {"mode": "value-lazy", "penalty": penalty, "search_epochs": 500, "learning_rate": 0.1}
        stage = gate_stage(model, GatesConfig.model_validate(config), 100, 10)
        gates = model.gates.tables["colour"]
        met = np.arange(gates.size) != FIRST_VALUE_ID
        monkeypatch.setattr(stage.optimiser, "met", lambda met=met: [met])
        found = stage.found()[gates.name]
        assert (found[FIRST_VALUE_ID] > 0) == (penalty == 0.0)
        assert (found[met] > 0).all()


def test_going_back_takes_the_streaming_frequencies_along(tiny_dataset: Path):
    """The state that training starts from is that of the rewound epoch as a whole."""
    model = gated_model(spec_of(tiny_dataset), hard=False, mode="field")
    frequencies = [tf.Variable([1.0, 2.0])]
    back = {name: array.copy() for name, array in rewind_arrays(model, frequencies).items()}
    weights = [variable.numpy() for variable in model.trainable_variables]
    frequencies[0].assign([5.0, 6.0])
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    rewind(model, frequencies, back)
    assert frequencies[0].numpy().tolist() == [1.0, 2.0]
    for variable, before in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before, err_msg=variable.name)


def test_the_job_says_on_the_terminal_what_is_too_rare_to_close(tiny_dataset: Path, tmp_path: Path, capsys):
    lazy = {"mode": "value-lazy", "penalty": 1.0, "search_epochs": 4, "learning_rate": 0.05}
    run(tiny_dataset, tmp_path, epochs=1, gates=lazy)
    assert re.search(r"train\.gates: \d+ of \d+ values of '\w+' occur fewer than \d+ times", capsys.readouterr().err)


def test_values_too_rare_to_close_are_counted_before_the_search(tiny_dataset: Path):
    """Where a gate moves only with its value, those of less than so many occurrences; elsewhere none."""
    dataset = DatasetFolder.open(tiny_dataset)
    counts = dataset.vocabulary("tags").table["count"].to_numpy()
    told = {}
    for mode in MODES:
        config = GatesConfig.model_validate({"mode": mode, "penalty": 1.0, "search_epochs": 4, "learning_rate": 0.005})
        model = gated_model(spec_of(tiny_dataset), hard=False, mode=mode)
        stage = gate_stage(model, config, 1000, 300)
        told[mode] = rare_values(stage, config, dataset, 1000)
    assert not told["field"] and not told["value-dense"]
    needed = int(re.search(r"fewer than (\d+) times", told["value-lazy"]["tags"])[1])
    assert 0.5 / 0.005 / 4 < needed < 100  # at most its learning rate a step, each of four epochs
    assert told["value-lazy"]["tags"].startswith(f"train.gates: {(counts < needed).sum()} of {len(counts)} values")


def test_closed_tags_do_not_count_in_the_mean(tiny_dataset: Path):
    """An open tag beside closed ones weighs as much as alone; nothing but closed ones is the zero vector."""
    spec = spec_of(tiny_dataset)
    model = gated_model(spec, hard=True, mode="value-dense")
    model.gates.tables["tags"].logits.assign([-1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    for one in (model, prune(model)):
        rows = {"item": [3] * 3, "colour": [3] * 3, "price": [1.0] * 3, "tags": [[3, 0, 0], [4, 3, 5], [5, 4, 0]]}
        found = one.item_tower.field_vectors({name: tf.constant(v) for name, v in rows.items()}, None)["tags"].numpy()
        np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
        np.testing.assert_array_equal(found[2], 0)
        table = model.embedding_tables["tags"].table.numpy()
        np.testing.assert_allclose(found[0], model.gates.tables["tags"].scale * table[3], rtol=1e-6)


def test_open_shares_follow_the_logits(tiny_dataset: Path):
    """By field; padding's gate is no value's."""
    spec = spec_of(tiny_dataset)
    model = gated_model(spec, hard=True, mode="value-lazy")
    model.gates.tables["tags"].logits.assign([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    model.gates.fields["item"].logits.assign([0.0])
    shares = open_shares(model.gates, spec)
    assert shares == {"club": 1.0, "device": 1.0, "colour": 1.0, "tags": pytest.approx(0.4), "price": 0.0}
