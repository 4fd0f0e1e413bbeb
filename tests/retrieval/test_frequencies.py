"""Frequencies of items in batches: the streaming estimator against plain Python and against the truth."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.train import LossConfig, StreamingConfig
from recsys.retrieval.frequencies import StreamingFrequencies, expected_counts, occurrences
from recsys.retrieval.log_q import LogQ


def plain_estimator(batches, hashed, hashes, buckets, alpha, first_gap):
    """Algorithm 2 of Yi et al. 2019, one bucket at a time."""
    last = np.zeros((hashes, buckets))
    gap = np.full((hashes, buckets), first_gap)
    for step, batch in enumerate(batches, start=1):
        for index in range(hashes):
            for bucket in {int(hashed(index, item)) for item in batch}:
                gap[index, bucket] = (1 - alpha) * gap[index, bucket] + alpha * (step - last[index, bucket])
                last[index, bucket] = step
    return gap


@pytest.mark.parametrize("hashes", [1, 3])
def test_the_state_follows_the_published_algorithm(hashes):
    """Every bucket after every batch, collisions and repeats of an item in a batch included."""
    rng = np.random.default_rng(1)
    config = StreamingConfig(buckets=11, hashes=hashes, alpha=0.2)
    estimator = StreamingFrequencies(config, first_gap=7.0, seed=5)
    batches = [rng.integers(3, 40, 16) for _ in range(30)]
    for batch in batches:
        estimator.update(tf.constant(batch, tf.int32))

    def hashed(index, item):
        return ((int(item) * int(estimator.multipliers[index]) + int(estimator.offsets[index])) % (2**31 - 1)) % 11

    gap = plain_estimator(batches, hashed, hashes, 11, 0.2, 7.0)
    np.testing.assert_allclose(estimator.gap.numpy(), gap, rtol=1e-5)
    ids = np.arange(3, 40)
    longest = [max(gap[index, hashed(index, item)] for index in range(hashes)) for item in ids]
    np.testing.assert_allclose(
        estimator.probabilities(tf.constant(ids)), np.minimum(1 / np.array(longest), 1), rtol=1e-5
    )


def stream_error(hashes: int, buckets: int) -> float:
    """sum |estimate - truth| / 2B on the paper's kind of stream: 200 items, probabilities ~ rank^2, batches of 32."""
    rng = np.random.default_rng(2)
    items, batch = 200, 32
    share = np.arange(1, items + 1.0) ** 2
    share /= share.sum()
    config = StreamingConfig(buckets=buckets, hashes=hashes, alpha=0.01)
    estimator = StreamingFrequencies(config, first_gap=items / batch, seed=4)
    update = tf.function(estimator.update)
    for _ in range(1500):
        update(tf.constant(rng.choice(items, batch, p=share), tf.int32))
    truth = 1 - (1 - share) ** batch
    return float(np.abs(estimator.probabilities(tf.range(items)).numpy() - truth).sum() / (2 * batch))


def test_it_finds_the_frequencies_and_several_hashes_undo_collisions():
    """Little error with room; with few buckets, several hashes err less (Yi et al., section 4.1)."""
    assert stream_error(1, 100_000) < 0.1
    assert stream_error(3, 97) < 0.6 * stream_error(1, 97)


def test_it_follows_a_change_and_starts_an_unknown_item_as_rare():
    """An item that becomes hot is seen as hot; one never seen has the first gap, not probability 1."""
    estimator = StreamingFrequencies(StreamingConfig(buckets=1 << 16, hashes=2, alpha=0.1), first_gap=50.0, seed=1)
    unknown = float(estimator.probabilities(tf.constant([9]))[0])
    assert unknown == pytest.approx(1 / 50)
    for _ in range(80):
        estimator.update(tf.constant([4]))
    for _ in range(80):
        estimator.update(tf.constant([9]))
    assert float(estimator.probabilities(tf.constant([9]))[0]) > 0.5
    assert float(estimator.probabilities(tf.constant([4]))[0]) > 0.5  # not seen again: its gap is not yet updated
    estimator.update(tf.constant([4]))
    assert float(estimator.probabilities(tf.constant([4]))[0]) < 0.2


def test_expected_counts_are_what_sampling_gives():
    """Batch size times share; an item without positives counts as one."""
    counts = np.array([0, 0, 0, 30, 60, 10])
    np.testing.assert_allclose(expected_counts(counts, 50)[3:], [15, 30, 5])
    assert expected_counts(counts, 50)[0] == pytest.approx(0.5)


def test_occurrences_count_in_the_batch():
    """Against a loop."""
    batch, ids = [3, 5, 3, 9, 3], [9, 3, 4]
    assert occurrences(tf.constant(ids), tf.constant(batch)).numpy().tolist() == [batch.count(i) for i in ids]


def test_log_q_of_mixed_negatives_adds_the_uniform_share():
    """log(B q_j + B' / corpus); strength scales it; `none` is zero."""
    counts = np.array([0, 0, 0, 75, 25])
    ids = tf.constant([3, 4])
    config = LossConfig(uniform_negatives=10, log_q_strength=0.5)
    found = LogQ(config, counts, catalogue_items=2, batch_size=8, seed=1)(ids, ids).numpy()
    np.testing.assert_allclose(found, 0.5 * np.log([8 * 0.75 + 5, 8 * 0.25 + 5]), rtol=1e-6)
    nothing = LogQ(LossConfig(frequencies="none"), counts, 2, 8, 1)(ids, ids).numpy()
    np.testing.assert_array_equal(nothing, 0)
