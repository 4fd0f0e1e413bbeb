"""The simulated shop: what its logs hold, and that its truth is true."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.simulator import Drift, SimulatorData
from recsys.datasets.simulator.catalogue import follow, make_catalogue
from recsys.datasets.simulator.clicks import calibrate, sigmoid
from recsys.datasets.simulator.exposure import Shelf, repeats
from recsys.datasets.simulator.schedule import profile
from recsys.datasets.simulator.tables import start_ms
from recsys.datasets.simulator.traffic import DAY_MS, DEVICES
from recsys.datasets.simulator.write import write_simulation
from tests.datasets.conftest import SHOP, Shop
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
    prices = np.log([field["price"] for field in fields])
    rests = []
    rng = np.random.default_rng(0)
    for row in rng.choice(len(log["item"]), 300, replace=False):
        item, user = items[log["item"][row]], users[log["user"][row]]
        time = (int(log["time"][row]) - start_ms(config)) / DAY_MS
        odds = config.taste * (affinities[user["user"], item["item"]] - affinities.mean()) / affinities.std()
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
    # The session's cluster is in no table: what is left is the constant, or the constant and the intent.
    rest = np.array(rests)
    constant = np.median(rest[rest < rest.mean()])
    deviation = np.minimum(abs(rest - constant), abs(rest - constant - config.intent))
    assert deviation.max() < 2e-3
    assert (abs(rest - constant - config.intent) < 2e-3).mean() > 0.1


def test_position_bias(shop: Shop):
    """Examination falls as configured, and hardly anything else depends on the position."""
    log = shop.log
    rate = np.array([log["label"][log["position"] == p].mean() for p in range(1, SHOP.list_length + 1)])
    relevance = np.array([log["relevance"][log["position"] == p].mean() for p in range(1, SHOP.list_length + 1)])
    assert relevance.max() / relevance.min() < 1.2, "only what no-item-twice does: popular items come a little earlier"
    slope = np.polyfit(np.log(np.arange(1, SHOP.list_length + 1)), np.log(rate / relevance), 1)[0]
    assert slope == pytest.approx(-SHOP.position_bias, abs=0.04)


def _odds(log: dict[str, np.ndarray], rows: np.ndarray) -> float:
    """Log-odds of a click on an examined item, from clicks and examination alone.

    Of a mixture of users: a drift moves it by less than its strength, which the plain Python test checks exactly.
    """
    rate = log["label"][rows].sum() / log["examination"][rows].sum()
    return math.log(rate / (1 - rate))


def _day(shop: Shop) -> np.ndarray:
    return (shop.log["time"] - start_ms(SHOP)) / DAY_MS


def test_drift_along_fields_follows_the_schedule(shop: Shop):
    log, day = shop.log, _day(shop)
    category = np.array(shop.items["category"].to_pylist())[log["item"]]
    others = np.isin(category, ["category_3", "category_4", "category_5"])

    def change(value: int, after: np.ndarray, before: np.ndarray) -> float:
        here = category == f"category_{value}"
        moved = _odds(log, here & after) - _odds(log, here & before)
        return moved - (_odds(log, others & after) - _odds(log, others & before))

    assert 0.4 * 1.5 < change(1, (day >= 4) & (day < 5), (day >= 3) & (day < 4)) < 1.1 * 1.5
    assert abs(change(1, (day >= 2) & (day < 4), day < 2)) < 0.2
    ends, middle = change(2, day >= 6, day < 2), change(2, (day >= 3.5) & (day < 4.5), day < 2)
    assert -1.1 * 1.2 < ends < -0.4 * 1.2
    assert ends < middle - 0.1 < -0.1
    assert 0.4 * 2.2 < change(0, (day > 1) & (day < 3), (day > 5) & (day < 7)) < 1.1 * 2.4
    assert abs(change(3, day >= 4, day < 4)) < 0.2


def test_what_drifts_up_is_shown_more_a_day_later(shop: Shop):
    category = np.array(shop.items["category"].to_pylist())[shop.log["item"]] == "category_1"
    day = _day(shop)
    before, same_day, after = (category[(day >= low) & (day < low + 1)].mean() for low in (3, 4, 5))
    assert after > 1.3 * before
    assert same_day < 1.3 * before


def test_latent_drift_divides_hidden_users_over_hidden_items_and_no_field_shows_either(shop: Shop):
    log, day = shop.log, _day(shop)
    item = shop.item_truth["hidden"].to_numpy()[log["item"]]
    user = shop.user_truth["hidden"].to_numpy()[log["user"]]
    after = day >= 4
    for half, sign in ((user, 1), (~user, -1)):
        moved = _odds(log, item & half & after) - _odds(log, item & half & ~after)
        rest = _odds(log, ~item & half & after) - _odds(log, ~item & half & ~after)
        assert 0.4 * 1.5 < sign * (moved - rest) < 1.1 * 1.5
    rng = np.random.default_rng(0)
    for table, truth in ((shop.items, shop.item_truth), (shop.users, shop.user_truth)):
        hidden = truth["hidden"].to_numpy()
        for name in table.column_names:
            if name not in ("item", "user", "title", "tags", "available_from"):
                values = _codes(table[name].to_numpy())
                chance = [_information(values, rng.permutation(hidden)) for _ in range(200)]
                assert _information(values, hidden) <= np.max(chance), name


def _codes(values: np.ndarray) -> np.ndarray:
    """Small integers for values; numbers by tenths."""
    if values.dtype.kind == "f":
        return np.searchsorted(np.quantile(values, np.arange(0.1, 1, 0.1)), values)
    return np.unique(values, return_inverse=True)[1]


def _information(values: np.ndarray, label: np.ndarray) -> float:
    """Mutual information in nats between small integers and a binary label."""
    joint = np.zeros((int(values.max()) + 1, 2))
    np.add.at(joint, (values, label.astype(int)), 1.0)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    here = joint > 0
    return float((joint[here] * np.log(joint[here] / independent[here])).sum())


def test_noise_fields_say_nothing_about_clicks_and_the_others_do(shop: Shop):
    """Chance is what the same values give when dealt anew to items, users or requests: their clicks differ anyway."""
    log = shop.log
    assert shop.manifest["noise_fields"] == {
        "item": ["noise_item_1", "noise_item_2"],
        "user": ["noise_user_1", "noise_user_2"],
        "context": ["noise_context_1"],
    }
    rng = np.random.default_rng(1)
    first_of = np.unique(log["request"], return_index=True)[1]
    request = np.searchsorted(log["request"][first_of], log["request"])
    sides = {
        "item": (shop.items, log["item"]),
        "user": (shop.users, log["user"]),
        "context": ({name: log[name][first_of] for name in ("noise_context_1", "device", "hour")}, request),
    }
    for side, informative in (("item", ["category"]), ("user", []), ("context", ["device", "hour"])):
        table, row = sides[side]
        for name in shop.manifest["noise_fields"][side] + informative:
            values = _codes(np.asarray(table[name]))
            chance = [_information(rng.permutation(values)[row], log["label"]) for _ in range(25)]
            found = _information(values[row], log["label"])
            if name in informative:
                assert found > 1.2 * max(chance), name
            else:
                assert found <= 1.1 * max(chance), name
    # A user field tells which items, not how many clicks.
    pair = (
        _codes(shop.users["segment"].to_numpy())[log["user"]] * 6
        + _codes(shop.items["category"].to_numpy())[log["item"]]
    )
    noise = _codes(shop.users["noise_user_1"].to_numpy())[log["user"]] % 8 * 6
    noise += _codes(shop.items["category"].to_numpy())[log["item"]]
    assert _information(pair, log["label"]) > 2 * _information(noise, log["label"])


def test_history_beats_popularity(shop: Shop):
    """What a user clicked before says more about the next click than popularity: retrieval has something to learn."""
    log = shop.log
    clicks = np.flatnonzero(log["label"])
    item, user = log["item"][clicks], log["user"][clicks]
    train = np.arange(len(clicks)) < 0.8 * len(clicks)
    category = _codes(shop.items["category"].to_numpy())
    popularity = np.bincount(item[train], minlength=len(category))
    liked = np.zeros((SHOP.users, 6))
    np.add.at(liked, (user[train], category[item[train]]), 1.0)
    liked = (liked + 0.2) / (liked.sum(1, keepdims=True) + 1.2)
    test = np.flatnonzero(~train)[:3000]
    scores = {"popularity": np.tile(popularity, (len(test), 1)), "history": popularity * liked[user[test]][:, category]}
    hits = {}
    for name, score in scores.items():
        target = score[np.arange(len(test)), item[test]]
        hits[name] = ((score > target[:, None]).sum(1) < 20).mean()
    assert hits["history"] > 1.25 * hits["popularity"]


def test_seasonal_gradual_and_abrupt_profiles():
    seasonal = Drift(kind="seasonal", along="latent", day=1, period_days=4, strength=1)
    np.testing.assert_allclose(profile(seasonal, np.array([0.5, 1, 2, 3, 4, 5])), [0, 0, 1, 0, -1, 0], atol=1e-12)
    gradual = Drift(kind="gradual", along="latent", day=1, until=3, strength=1)
    np.testing.assert_allclose(profile(gradual, np.array([0, 1, 2, 3, 9])), [0, 0, 0.5, 1, 1])
    abrupt = Drift(kind="abrupt", along="latent", day=1, until=3, strength=1)
    np.testing.assert_allclose(profile(abrupt, np.array([0.99, 1, 2.99, 3])), [0, 1, 1, 0])


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
