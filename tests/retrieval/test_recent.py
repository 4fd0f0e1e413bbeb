"""The sampling correction from clicks shortly before: what it stands for, and that it undoes the sampling."""

import numpy as np
import pytest
from pydantic import ValidationError

from recsys._tensorflow import tf
from recsys.config.train import LossConfig, RecentConfig
from recsys.retrieval.frequencies import recent_occurrences
from recsys.retrieval.log_q import LogQ
from recsys.schema import FIRST_VALUE_ID


def _oracle(batch: list[int], recent: list[float]) -> list[float]:
    rates = dict(zip(batch, recent, strict=True))
    scale = len(batch) / sum(rates.values())
    return [batch.count(item) * (1 - np.exp(-scale * rates[item])) for item in batch]


def test_it_is_count_times_the_chance_of_being_in_the_batch():
    batch, recent = [7, 3, 7, 9, 7, 3], [8.0, 2.0, 8.0, 0.05, 8.0, 2.0]
    found = recent_occurrences(tf.constant(batch), tf.constant(recent)).numpy()
    np.testing.assert_allclose(found, _oracle(batch, recent), rtol=1e-5)


def test_a_common_factor_of_the_counts_changes_nothing():
    batch, recent = tf.constant([4, 4, 5, 6]), tf.constant([3.0, 3.0, 1.0, 0.5])
    np.testing.assert_allclose(recent_occurrences(batch, recent), recent_occurrences(batch, 100.0 * recent), rtol=1e-5)


def test_weighted_batches_add_up_to_the_whole_catalogue():
    """Over many batches the corrected sum of exp(score) is that over all items, rare ones included."""
    rng = np.random.default_rng(5)
    rates = np.array([200.0, 60.0, 20.0, 5.0, 1.0, 0.5, 0.5, 0.5])
    values = rng.uniform(1.0, 3.0, len(rates))
    sums = []
    for _ in range(3000):
        items = rng.permutation(np.repeat(np.arange(len(rates)), rng.poisson(rates))).astype(np.int32)
        weights = recent_occurrences(tf.constant(items), tf.constant(rates[items], tf.float32)).numpy()
        sums.append(np.sum(values[items] / weights))
    assert np.mean(sums) == pytest.approx(values.sum(), rel=0.03)


def test_log_q_reads_the_configured_column_and_adds_the_floor():
    config = LossConfig(frequencies="recent", recent=RecentConfig(field="clicks_hour", floor=0.5))
    counts = np.zeros(FIRST_VALUE_ID + 3, np.int64)
    ids = tf.constant([3, 4, 3, 5])
    columns = {"clicks_hour": tf.constant([9.0, 1.0, 9.0, 0.0]), "clicks_day": tf.constant([0.0, 7.0, 0.0, 7.0])}
    found = LogQ(config, counts, 3, 4, 1)(ids, ids, columns).numpy()
    np.testing.assert_allclose(found, np.log(_oracle([3, 4, 3, 5], [9.5, 1.5, 9.5, 0.5])), rtol=1e-5)
    assert found[0] > found[1] > found[3]


@pytest.mark.parametrize("settings", [{"frequencies": "recent"}, {"recent": {"field": "clicks_hour"}}])
def test_the_two_settings_go_together(settings: dict):
    with pytest.raises(ValidationError, match="go together"):
        LossConfig.model_validate(settings)
