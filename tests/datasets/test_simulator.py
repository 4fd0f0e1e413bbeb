"""The simulated shop: what its logs hold, and that its truth is true."""

import math
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import follow, make_catalogue
from recsys.datasets.simulator.clicks import calibrate, sigmoid
from recsys.datasets.simulator.exposure import Shelf, repeats
from recsys.datasets.simulator.tables import start_ms
from recsys.datasets.simulator.traffic import DAY_MS, DEVICES
from recsys.datasets.simulator.write import write_simulation
from tests.datasets.conftest import SHOP, Shop, read_shop
from tests.datasets.reading import read_all, source_of

SMALL = {"users": 50, "items": 60, "new_items_per_day": 5, "days": 2, "impressions": 3000}


def test_same_seed_same_bytes(tmp_path, monkeypatch):
    config = SimulatorData(**SMALL)
    manifests = []
    for name, seed, threads in (("a", 1, 2), ("b", 1, 1), ("c", 2, 2)):
        monkeypatch.setattr("recsys.datasets.simulator.write._THREADS", threads)
        monkeypatch.setattr("recsys.datasets.simulator.write._FILE_ROWS", 1000)
        manifests.append(write_simulation(config, seed, tmp_path / name, quiet=True).manifest)
    assert manifests[0] == manifests[1]
    assert len([name for name in manifests[0]["files"] if name.startswith("impressions/")]) == 3
    parts = [pq.read_table(file)["item"][:500] for file in sorted((tmp_path / "a" / "impressions").iterdir())]
    assert len({str(part) for part in parts}) == 3, "every file's lists are drawn anew"
    first, other = manifests[0]["files"], manifests[2]["files"]
    assert all(first[name] != other[name] for name in first)


def test_a_noise_field_more_changes_nothing_else(tmp_path):
    one, two = (
        write_simulation(SimulatorData(**SMALL, noise_item_fields=count), 1, tmp_path / str(count), quiet=True).manifest
        for count in (1, 2)
    )
    changed = {name for name in one["files"] if one["files"][name] != two["files"][name]}
    assert changed == {"items/items-00000.parquet"}


def test_the_logs_are_those_of_a_shop(shop: Shop):
    log, start = shop.log, start_ms(SHOP)
    assert len(log["item"]) == shop.manifest["counts"]["impressions"]
    assert abs(len(log["item"]) / SHOP.impressions - 1) < 0.01
    assert (np.diff(log["time"]) >= 0).all()
    assert log["time"].min() >= start
    assert log["time"].max() < start + SHOP.days * DAY_MS
    born = shop.items["available_from"].to_numpy()
    assert (born[log["item"]] <= log["time"]).all(), "an item was shown before it appeared"
    assert (born >= start).sum() == SHOP.days * SHOP.new_items_per_day
    pairs = log["request"] * len(born) + log["item"]
    assert len(np.unique(pairs)) == len(pairs), "an item twice in a list"
    same = np.diff(log["request"]) == 0
    assert (np.diff(log["position"].astype(int))[same] == 1).all()
    assert (log["position"][1:][~same] == 1).all()
    clicked = log["label"] == 1
    assert (np.isnan(log["feedback_time"]) == ~clicked).all()
    again = np.diff(log["request"][clicked]) == 0
    reported = log["feedback_time"][clicked]
    assert (np.diff(reported)[again] > 0).all(), "two clicks of a list at once or in another order"
    delay = (reported - log["time"][clicked])[~np.append(False, again)] / 1000
    assert (delay > 0).all()
    assert np.median(delay) == pytest.approx(SHOP.delay_median_s, rel=0.05)
    assert np.log(delay).std() == pytest.approx(SHOP.delay_sigma, rel=0.05)


def test_truth_is_calibrated(shop: Shop):
    """Clicks agree with the true probabilities: over all, by tenth of the probability, and by position."""
    log = shop.log
    groups = {"all": np.zeros(len(log["label"]), int), "position": log["position"]}
    groups["tenth"] = np.argsort(np.argsort(log["probability"])) * 10 // len(log["label"])
    for name, group in groups.items():
        for value in np.unique(group):
            here = group == value
            p = log["probability"][here].astype(np.float64)
            error = math.sqrt((p * (1 - p)).sum()) / here.sum()
            assert abs(log["label"][here].mean() - p.mean()) < 4 * error, (name, value)
    assert log["relevance"].mean(dtype=np.float64) == pytest.approx(SHOP.click_rate, rel=0.03)
    np.testing.assert_allclose(log["probability"], log["relevance"] * log["examination"], rtol=1e-6)


def test_true_probabilities_against_plain_python(shop: Shop):
    """The log-odds of the truth, recomputed one impression at a time, differ by one constant."""
    log, config = shop.log, shop.config
    items, users = shop.item_truth.to_pylist(), shop.user_truth.to_pylist()
    fields = shop.items.to_pylist()
    user_vectors = np.array([user["vector"] for user in users], np.float64)
    item_vectors = np.array([item["vector"] for item in items], np.float64)
    affinities = user_vectors @ item_vectors.T
    affinities = (affinities - affinities.mean()) / affinities.std()
    prices = np.log([field["price"] for field in fields])
    rests = []
    rng = np.random.default_rng(0)
    cluster = shop.item_truth["cluster"].to_numpy()[log["item"]]
    shown = np.zeros((log["session"].max() + 1, config.clusters), int)
    np.add.at(shown, (log["session"], cluster), 1)
    session_cluster = shown.argmax(axis=1)  # in no table; but half of what is shown comes from it
    long = np.flatnonzero(shown.sum(axis=1)[log["session"]] >= 40)
    for row in rng.choice(long, 300, replace=False):
        item, user = items[log["item"][row]], users[log["user"][row]]
        time = (int(log["time"][row]) - start_ms(config)) / DAY_MS
        odds = config.taste * affinities[user["user"], item["item"]]
        odds += config.intent * (item["cluster"] == session_cluster[log["session"][row]])
        odds += config.quality_effect * item["quality"]
        price = (prices[item["item"]] - prices.mean()) / prices.std()
        odds -= config.price_effect * price * user["thrift"]
        device = {"mobile": -0.5, "desktop": 0.5, "tablet": 0.0}[log["device"][row]]
        odds += config.context_effect * (device + math.cos(2 * math.pi * (time % 1 * 24 - 21) / 24))
        category = fields[item["item"]]["category"]
        if category == "category_0":
            odds += 1.2 * math.sin(2 * math.pi * time / 8)
        if category == "category_1" and time >= 4:
            odds += 1.5
        if category == "category_2":
            odds -= 1.2 * min(max((time - 2) / 4, 0), 1)
        if item["hidden"] and time >= 4:
            odds += 1.5 if user["hidden"] else -1.5
        p = float(log["relevance"][row])
        rests.append(math.log(p / (1 - p)) - odds)
    assert np.ptp(rests) < 2e-3


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), min_size=1)))
def test_repeats_against_plain_python(lists):
    expected = [[item in row[:place] for place, item in enumerate(row)] for row in lists]
    assert repeats(np.array(lists)).tolist() == expected


@pytest.mark.parametrize(("exploration", "personalisation"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.2, 0.5)])
def test_items_are_drawn_by_their_weights(exploration, personalisation):
    config = SHOP.model_copy(update={"exploration": exploration, "personalisation": personalisation})
    catalogue = make_catalogue(config, 3)
    order = np.argsort(catalogue.cluster, kind="stable")
    hour = 100
    age = hour - catalogue.born
    weight = np.exp(config.popularity_sigma * catalogue.quality) * 0.5 ** (age / catalogue.half_life)
    offset = np.where(catalogue.category == 0, 1.2 * math.sin(2 * math.pi * (hour / 24 - 1) / 8), 0.0)
    offset += np.where(catalogue.category == 2, -1.2 * (hour / 24 - 1 - 2) / 4, 0.0)
    weight = np.where(age >= 0, weight * np.exp(config.drift_response * offset), 0.0)
    own = np.where(catalogue.cluster == 5, weight, 0.0)
    uniform = (age >= 0) / (age >= 0).sum()
    expected = exploration * uniform + personalisation * own / own.sum()
    expected += (1 - exploration - personalisation) * weight / weight.sum()
    count = 400_000
    drawn = Shelf(config, catalogue, order, hour).draw(config, np.full(count, 5), np.random.default_rng(2))
    found = np.bincount(drawn, minlength=len(catalogue)) / count
    assert (abs(found - expected) <= 5 * np.sqrt(expected / count) + 1e-12).all()


def test_fields_follow_clusters():
    cluster = np.random.default_rng(0).integers(0, 12, 50_000)
    few = follow(cluster, 6, 0.2, np.random.default_rng(1))
    assert (few == cluster % 6).mean() == pytest.approx(0.8 + 0.2 / 6, abs=0.01)
    many = follow(cluster, 36, 0.0, np.random.default_rng(1))
    assert (many // 3 == cluster).all()
    assert set(many) == set(range(36))


@pytest.mark.parametrize("rate", [0.01, 0.15, 0.9])
def test_calibration_of_the_constant(rate):
    odds = np.random.default_rng(0).normal(3, 2, 10_000).astype(np.float32)
    assert sigmoid(odds + calibrate(odds, rate)).mean() == pytest.approx(rate, rel=1e-4)


def test_devices_are_those_of_the_odds(shop: Shop):
    assert set(shop.log["device"]) == set(DEVICES)


def test_as_a_source_it_is_written_once(tmp_path):
    data = {"source": "simulator", **SMALL}
    source = source_of(data, tmp_path)
    manifest = tmp_path / "raw" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    events, rows, rejected = read_all(source.events)
    names = ["user", "item", "time", "label", "device", "hour", "position", "noise_context_1"]
    assert events.column_names == names
    assert (len(events), rejected) == (len(rows), [])
    assert {field.name for field in source.schema.fields} >= {"category", "tags", "noise_user_2", "position"}
    assert read_all(source.items)[0].column_names[:3] == ["item", "title", "available_from"]

    clicks = source_of(data | {"events": "clicks", "drop_fields": ["noise_item_1"]}, tmp_path)
    assert manifest.stat().st_mtime_ns == written, "the same shop was simulated again"
    table, _, _ = read_all(clicks.events)
    assert len(table) == sum(events["label"].to_pylist())
    assert "label" not in table.column_names
    assert "position" not in table.column_names
    assert all(before != "noise_item_1" for before in read_all(clicks.items)[0].column_names)

    times = [written]
    source_of(data | {"taste": 0.5}, tmp_path)
    times.append(manifest.stat().st_mtime_ns)
    source_of(data | {"taste": 0.5}, tmp_path, seed=2)
    times.append(manifest.stat().st_mtime_ns)
    file = next((tmp_path / "raw" / "clicks").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    source_of(data | {"taste": 0.5}, tmp_path, seed=2)
    times.append(manifest.stat().st_mtime_ns)
    assert all(before < after for before, after in pairwise(times)), "a change or damage must write it again"


def test_conversions_follow_their_true_probability(tmp_path):
    """Known for clicks alone, as often as the truth says, cheaper for the thrifty; all other columns as without."""
    size = {"users": 400, "items": 100, "new_items_per_day": 5, "days": 3, "impressions": 80_000}
    shops = []
    for on in (False, True):
        config = SimulatorData(**size, click_rate=0.3, conversions=on)
        write_simulation(config, 3, tmp_path / str(on), quiet=True)
        shops.append(read_shop(tmp_path / str(on), config))
    off, on = shops
    assert set(on.log) - set(off.log) == {"conversion"}
    assert "conversions" not in off.manifest["settings"] and on.manifest["settings"]["conversions"]
    for name in ("item", "label", "feedback_time", "probability"):
        np.testing.assert_array_equal(on.log[name], off.log[name])
    table = pq.read_table(tmp_path / "True" / "impressions")["conversion"].to_numpy()
    clicked = on.log["label"] == 1
    assert np.isnan(table[~clicked]).all() and set(table[clicked]) == {0.0, 1.0}
    assert np.isfinite(pq.read_table(tmp_path / "True" / "clicks")["conversion"].to_numpy()).all()
    chance = pq.read_table(tmp_path / "True" / "truth" / "impressions-00000.parquet")["conversion"].to_numpy()
    assert chance[clicked].mean(dtype=np.float64) == pytest.approx(0.2, rel=0.03)
    tenth = np.argsort(np.argsort(chance[clicked])) * 10 // clicked.sum()
    for value in range(10):
        p = chance[clicked][tenth == value].astype(np.float64)
        error = math.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(table[clicked][tenth == value].mean() - p.mean()) < 4 * error, value


def test_conversion_odds_against_plain_python(tmp_path):
    config = SimulatorData(**SMALL, conversions=True)
    write_simulation(config, 3, tmp_path / "raw", quiet=True)
    shop = read_shop(tmp_path / "raw", config)
    chance = pq.read_table(tmp_path / "raw" / "truth" / "impressions-00000.parquet")["conversion"].to_numpy()
    users, items = shop.user_truth.to_pylist(), shop.item_truth.to_pylist()
    affinities = np.array([user["vector"] for user in users]) @ np.array([item["vector"] for item in items]).T
    affinities = (affinities - affinities.mean()) / affinities.std()
    prices = np.log(shop.items["price"].to_numpy())
    rests = []
    for row in range(0, len(chance), 31):
        user, item = shop.log["user"][row], shop.log["item"][row]
        price = (prices[item] - prices.mean()) / prices.std()
        odds = 0.6 * affinities[user, item] - price * (0.8 + 0.6 * users[user]["thrift"])
        rests.append(math.log(chance[row] / (1 - chance[row])) - odds)
    assert np.std(rests) < 1e-4


def test_a_conversion_is_an_outcome_and_no_input(tmp_path):
    source = source_of({"source": "simulator", "events": "impressions", "conversions": True, **SMALL}, tmp_path)
    field = source.schema.field("conversion")
    assert (field.kind, field.side, field.is_input) == ("outcome", "context", False)
    table, _, _ = read_all(source.events)
    assert table["conversion"].null_count == (len(table) - sum(table["label"].to_pylist()))
