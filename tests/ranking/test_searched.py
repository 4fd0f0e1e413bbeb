"""What the job does with its searches: the order of phases, where each starts, which values, and what is written."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.config.ranking import RankingConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.gate_schedule import fewest_occurrences
from recsys.ranking.calibration import IDENTITY
from recsys.ranking.job import _calibrations, _searched, rank
from recsys.ranking.occurrences import live_interactions
from recsys.ranking.pruning import prune
from recsys.ranking.step import Trainer
from recsys.ranking.value_report import write_value_tables
from recsys.ranking.workbench import Outcome, Workbench
from recsys.retrieval.checkpoints import CheckpointFolder
from recsys.schema import Side
from tests.impressions import write_impressions

GATES = {"mode": "value-dense", "kappa": 2.0, "search_epochs": 3, "learning_rate": 0.5}
SETTINGS = {
    "model": {"backbone": "fm", "embedding_dim": 2, "numeric": {"default": "quantile", "quantiles": 3}},
    "train": {"batch_size": 64, "epochs": 2},
    "gates": GATES,
}


@pytest.fixture(scope="module")
def shop(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return write_impressions(DatasetFolder.open(tiny_dataset), tmp_path_factory.mktemp("searched") / "dataset")


def bench_of(dataset: DatasetFolder, folder: Path, **changes) -> Workbench:
    merged = {key: {**value, **changes.pop(key, {})} for key, value in SETTINGS.items()}
    return Workbench(dataset, RankingConfig.model_validate({**merged, **changes}), 1, CheckpointFolder(folder, "test"))


class Script:
    """A workbench of ten rows that writes down what it is asked for. Row 9 never occurs; rows 0 and 1 have no gates."""

    seed, rows = 1, 100
    counts = np.array([5, 9, 1, 2, 3, 4, 8, 7, 6, 0])
    dataset = SimpleNamespace(path="shop")

    def __init__(self, config: RankingConfig, aucs: dict[str, float]) -> None:
        self.config, self.aucs = config, aucs
        self.values, self.judge = self.counts > 0, object()
        self.searches: list[tuple[str, GatesConfig]] = []
        self.trained: dict[str, tuple] = {}

    def search_settings(self, config: GatesConfig) -> None:
        assert not self.searches  # every setting is checked before the first search

    def rare_values(self, config: GatesConfig) -> str | None:
        return f"{self.counts.sum()} are rare" if config.kappa == 4 else None

    def search(self, name: str, config: GatesConfig) -> Outcome:
        self.searches.append((name, config))
        gates = np.full(10, -1.0)
        gates[2 : 5 if config.kappa == 4 else 9] = 1.0
        return Outcome({"w": np.array("last")}, gates, {"w": np.array(f"rewind of {name}")}, [{"loss": 1.0}], 1, 0.5)

    def train(self, name: str, config=None, gates=None, start=None) -> Outcome:
        self.trained[name] = (config, gates, None if start is None else str(start["w"]))
        return Outcome({}, gates, {}, [{"auc": self.aucs[name]}], 1, self.aucs[name])

    def gated(self, config: GatesConfig) -> np.ndarray:
        return np.arange(10) >= 2

    def kept_rows(self, gates: np.ndarray, config: GatesConfig) -> np.ndarray:
        return (gates > 0) | ~self.gated(config)

    def kept_ratio(self, gates: np.ndarray, config: GatesConfig) -> float:
        return float(self.kept_rows(gates, config)[self.values].mean())


def scripted(**changes) -> Script:
    config = {"gates": GATES, "kappas": [1, 4], "controls": ["backbone", "frequency", "random", "field"]}
    controls = {f"control-{name}": 0.5 for name in config["controls"]}
    return Script(
        RankingConfig.model_validate(config | changes), {"train-0": 0.8005, "train-1": 0.8, "train-2": 0.7} | controls
    )


def test_each_set_is_trained_from_its_own_search_and_the_knee_is_taken() -> None:
    bench = scripted()
    chosen = _searched(bench, bench.config.gates)
    assert {name: one.kappa for name, one in bench.searches} == {
        "search-0": 1.0,
        "search-1": 4.0,
        "control-field-search": 4.0,
    }
    for place in (0, 1):
        _, gates, start = bench.trained[f"train-{place}"]
        assert start == f"rewind of search-{place}" and (gates > 0).sum() == (7, 3)[place]
    assert chosen.gates is not None and chosen.gates.kappa == 4.0  # within .001 of the best, and smaller
    assert [(one.name, one.chosen) for one in chosen.sets[:2]] == [("search", False), ("search", True)]
    assert [one.kappa for one in chosen.sets] == [1.0, 4.0, None, None, None, None]
    assert chosen.sets[1].kept_ratio == pytest.approx(5 / 9)
    np.testing.assert_array_equal(chosen.outcome.gates, bench.trained["train-1"][1])


def test_controls_keep_as_much_and_start_where_the_chosen_set_did() -> None:
    bench = scripted()
    _searched(bench, bench.config.gates)
    assert bench.trained["control-backbone"] == (None, None, None)
    for name in ("frequency", "random"):
        config, gates, start = bench.trained[f"control-{name}"]
        assert config.mode == "value-dense" and start == "rewind of search-1"
        assert (gates > 0).sum() == 3 and not (gates > 0)[[0, 1, 9]].any()
    assert np.flatnonzero(bench.trained["control-frequency"][1] > 0).tolist() == [6, 7, 8]
    assert np.flatnonzero(bench.trained["control-random"][1] > 0).tolist() != [6, 7, 8]
    config, gates, start = bench.trained["control-field"]
    assert config.mode == "field" and start == "rewind of control-field-search" and (gates > 0).sum() == 3


def test_controls_of_values_have_gates_of_values_where_fields_were_searched() -> None:
    bench = scripted(gates={**GATES, "mode": "field"}, controls=["frequency", "random"])
    _searched(bench, bench.config.gates)
    modes = {name: trained[0].mode for name, trained in bench.trained.items()}
    assert modes == {"train-0": "field", "train-1": "field"} | dict.fromkeys(
        ("control-frequency", "control-random"), "value-dense"
    )


def test_it_says_what_a_lazy_search_cannot_close(
    shop: DatasetFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each user has 16 training rows, of the 17 that would close a gate; clubs have 272; items have no gates here."""
    bench = scripted()
    _searched(bench, bench.config.gates)
    assert capsys.readouterr().err == "45 are rare\n"
    gates = {"mode": "value-lazy", "fields": ("user", "club"), "learning_rate": 0.01}
    bench = bench_of(shop, tmp_path, gates=gates, train={"batch_size": 16})
    gates = bench.config.gates
    needed = fewest_occurrences(bench.search_settings(gates), bench.rows)
    counts = np.concatenate([bench.counts[bench.spec.part(name)] for name in ("user", "club")])
    rare, seen = int(((counts > 0) & (counts < needed)).sum()), int((counts > 0).sum())
    assert 0 < rare < seen and bench.counts[bench.spec.part("item")].min() < needed
    said = bench.rare_values(gates)
    assert said is not None and f" {rare:,} of {seen:,} values occur fewer than {needed} times" in said
    assert bench.rare_values(gates.model_copy(update={"mode": "value-dense"})) is None
    assert bench.rare_values(gates.model_copy(update={"kappa": 0.0})) is None


def test_without_rows_to_judge_by_no_kappa_is_chosen() -> None:
    bench = scripted()
    bench.judge = None
    with pytest.raises(UserError, match=r"ranking\.kappas: .* has none with both labels"):
        _searched(bench, bench.config.gates)
    bench = scripted(kappas=[4])
    bench.judge = None
    assert len(_searched(bench, bench.config.gates).sets) == 5


@pytest.mark.parametrize("lacking", ["rows", "a class"])
def test_without_validation_all_epochs_run_and_nothing_is_claimed(
    shop: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "rows":
        monkeypatch.setattr(Workbench, "validation", None)
    else:
        monkeypatch.setattr("recsys.ranking.workbench.np.unique", lambda labels: labels[:1])
    config = RankingConfig.model_validate({**SETTINGS, "gates": None, "train": {"batch_size": 64, "epochs": 3}})
    folders = {"checkpoints": tmp_path / "checkpoints", "logs": tmp_path / "logs"}
    made = rank(shop, config, 1, tmp_path / "ranker", **folders, quiet=True)
    report = json.loads((made.path / "ranking.json").read_text(), parse_constant=pytest.fail)
    assert report["sets"][0]["validation_auc"] is None and report["best_epoch"] == 0
    assert [sorted(one) for one in report["epochs"]] == [["loss"]] * 3


def test_gates_of_some_fields(shop: DatasetFolder, tmp_path: Path) -> None:
    bench = bench_of(shop, tmp_path)
    some = bench.config.gates.model_copy(update={"fields": ("colour", "price")})
    parts = [bench.spec.part(name) for name in ("colour", "price")]
    expected = np.zeros(bench.spec.rows, bool)
    for part in parts:
        expected[part] = True
    np.testing.assert_array_equal(bench.gated(some), expected)
    closed = np.full(bench.spec.rows, -1.0, np.float32)
    np.testing.assert_array_equal(bench.kept_rows(closed, some), ~expected)
    by_field = some.model_copy(update={"mode": "field"})
    gates = np.array([1.0 if one.name == "price" else -1.0 for one in bench.spec.fields], np.float32)
    expected[bench.spec.part("price")] = False
    np.testing.assert_array_equal(bench.kept_rows(gates, by_field), ~expected)
    for names, said in ((("colour", "size"), "reads no field 'size'"), (("item",), r"\['item', 'history'\] share")):
        for mode in ("value-dense", "field"):
            wrong = some.model_copy(update={"fields": names, "mode": mode})
            with pytest.raises(UserError, match=f"ranking.gates.fields: .*{said}"):
                bench.search("search", wrong)


def test_the_kept_ratio_is_of_values_seen_in_training(shop: DatasetFolder, tmp_path: Path) -> None:
    bench = bench_of(shop, tmp_path)
    assert 0 < bench.values.sum() < bench.spec.rows - 6
    assert bench.kept_ratio(np.where(bench.values, 1.0, -1.0), bench.config.gates) == 1.0
    assert bench.kept_ratio(np.where(bench.values, -1.0, 1.0), bench.config.gates) == 0.0


def test_a_lazy_search_leaves_alone_what_no_row_has(shop: DatasetFolder, tmp_path: Path) -> None:
    for mode in ("value-lazy", "value-dense"):
        bench = bench_of(shop, tmp_path / mode, gates={"mode": mode})
        gates = bench.search("search", bench.config.gates).gates
        assert gates is not None and (gates[bench.values] != 0.5).all()
        assert (gates[~bench.values] == 0.5).all() == (mode == "value-lazy")


def test_drawn_negatives_are_examples_to_the_price_and_no_rates_to_the_calibration(
    shop: DatasetFolder, tmp_path: Path
) -> None:
    bench = bench_of(shop, tmp_path, train={"negatives": {"per_positive": 3}})
    positives = int(shop.events("train")["label"].to_numpy().sum())
    assert bench.rows == 4 * positives
    assert bench.search_settings(bench.config.gates).penalty == pytest.approx(2.0 / (4 * positives))
    assert bench_of(shop, tmp_path).rows == len(shop.events("train"))
    assert _calibrations(bench, bench._model(None, None))[0] == IDENTITY


def tables(bench: Workbench, gates: np.ndarray, config: GatesConfig, folder: Path) -> dict[str, dict]:
    model = bench._model(config, None)
    assert model.gates is not None
    model.gates.logits.assign(gates)
    write_value_tables(folder, bench, gates, config, prune(model))
    return {path.stem: pq.read_table(path).to_pydict() for path in folder.glob("*.parquet")}


def test_value_tables_name_buckets_and_tell_who_has_no_gate(shop: DatasetFolder, tmp_path: Path) -> None:
    bench = bench_of(shop, tmp_path)
    config = bench.config.gates.model_copy(update={"fields": ("colour", "price")})
    gates = np.full(bench.spec.rows, -1.0, np.float32)
    gates[bench.spec.part("colour").start + 4] = 0.25
    found = tables(bench, gates, config, tmp_path / "values")
    assert found["colour"]["logit"][2:] == [-1.0, 0.25] and found["colour"]["kept"][2:] == [False, True]
    assert found["colour"]["new_id"][3] == 4  # behind padding, missing, unseen and the row of zeros
    assert set(found["user"]["logit"]) == {None} and all(found["user"]["kept"])
    assert set(found["price"]["new_id"]) == {None}  # closed as a whole and dropped
    edges = next(one for one in bench.spec.fields if one.name == "price").edges
    low, high = (f"{edge:.6g}" for edge in edges)
    assert found["price"]["value"] == [
        "(missing)",
        "(unseen)",
        f"-inf <= x < {low}",
        f"{low} <= x < {high}",
        f"{high} <= x < inf",
    ]
    prices = shop.features(Side.ITEM)["price"][shop.events("train")["item"].to_numpy()]
    assert found["price"]["count"][2:] == [
        (prices < edges[0]).sum(),
        ((prices >= edges[0]) & (prices < edges[1])).sum(),
        (prices >= edges[1]).sum(),
    ]


def test_gates_of_fields_have_value_tables_too(shop: DatasetFolder, tmp_path: Path) -> None:
    bench = bench_of(shop, tmp_path)
    config = bench.config.gates.model_copy(update={"mode": "field"})
    for item, history in ((0.5, -2.0), (-2.0, 0.5)):
        logits = {"item": item, "history": history}
        gates = np.array([logits.get(one.name, -1.0) for one in bench.spec.fields], np.float32)
        found = tables(bench, gates, config, tmp_path / f"values {item}")
        assert set(found["item"]["logit"]) == {0.5} and all(found["item"]["kept"])  # one of the two reads these rows
    assert set(found["colour"]["logit"]) == {-1.0} and not any(found["colour"]["kept"])
    assert set(found["colour"]["new_id"]) == {None} and found["item"]["new_id"] == found["item"]["old_id"]


def test_live_interactions_are_pairs_of_fields_with_an_open_value(shop: DatasetFolder, tmp_path: Path) -> None:
    """Beside plain Python; a list counts once, however many of its values are open."""
    bench = bench_of(shop, tmp_path)
    model, examples = bench._model(None, None), bench.validation
    assert examples is not None
    kept = np.random.default_rng(0).random(bench.spec.rows) < 0.4
    fields = []
    for row in range(len(examples)):
        count = 0
        for one in bench.spec.fields:
            row_of = next(table.row_of for table in bench.spec.tables if table.name == one.table)
            opened, value = kept[bench.spec.part(one.table)][row_of], examples.features[one.name][row]
            if one.is_list:
                count += any(opened[value[value > 0]]) if (value > 0).any() else opened[1]
            elif one.is_number:
                count += opened[3 + sum(edge <= value for edge in one.edges)]
            else:
                count += opened[value]
        fields.append(int(count))
    live = live_interactions(model, examples, kept)
    assert live.fields == pytest.approx(np.mean(fields))
    assert live.interactions == pytest.approx(np.mean([count * (count - 1) / 2 for count in fields]))


def test_a_closed_field_is_no_live_one_though_another_reads_its_rows(shop: DatasetFolder, tmp_path: Path) -> None:
    bench = bench_of(shop, tmp_path)
    model, examples = bench._model(None, None), bench.validation
    assert examples is not None
    every = np.ones(bench.spec.rows, bool)
    for closed in ("item", "history"):
        fields = np.array([one.name != closed for one in bench.spec.fields])
        found = live_interactions(model, examples, every, fields)
        count = len(fields) - 1
        assert (found.fields, found.interactions) == (count, count * (count - 1) / 2)


def test_what_a_phase_trained_is_freed(shop: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that TensorFlow keeps, for what a graph with a custom gradient reads is never freed."""
    trainers: list[Trainer] = []
    made = Workbench._trainer
    monkeypatch.setattr(Workbench, "_trainer", lambda *given: trainers.append(made(*given)) or trainers[-1])
    bench = bench_of(shop, tmp_path)
    searched = bench.search("search", bench.config.gates)
    trained = bench.train("train", bench.config.gates, searched.gates, searched.rewind)
    assert len(trainers) == 2 and all(values.size for values in (*trained.weights.values(), *searched.weights.values()))
    for one in trainers:
        variables = [one.model.table.table, one.model.table.row_of, *one.table_optimiser.variables[-2:]]
        assert [int(tf.raw_ops.VariableShape(input=each.handle)[0]) for each in variables] == [0] * 4
