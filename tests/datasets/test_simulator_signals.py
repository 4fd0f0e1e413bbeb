"""What the simulated shop's logs show: position bias, drift on schedule, noise that is noise, tastes to be learned."""

import math

import numpy as np
import pytest

from recsys.config.simulator import Drift
from recsys.datasets.simulator.schedule import profile
from recsys.datasets.simulator.tables import start_ms
from recsys.datasets.simulator.traffic import DAY_MS
from tests.datasets.conftest import SHOP, Shop


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
    for table, name in ((shop.items, "noise_item"), (shop.users, "noise_user")):
        one, two = (_codes(table[f"{name}_{number}"].to_numpy()) for number in (1, 2))
        assert (one == two).mean() < 3 / SHOP.noise_values, "two noise fields are one"
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
