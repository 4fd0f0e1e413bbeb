"""Cross-batch negatives: what the queue holds, what the loss makes of it, and that the correction still corrects."""

from collections import Counter

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.train import LossConfig
from recsys.features.spec import audience_spec
from recsys.retrieval.candidate_queue import CandidateQueue, Candidates
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.softmax import sampled_softmax_loss
from recsys.retrieval.step import Trainer
from recsys.schema import ITEM, USER
from tests.retrieval.test_step import BATCH, ITEMS, SEED, one_batch, trainer_of

RATE = tf.constant(0.05)


def step_seed(trainer: Trainer) -> tf.Tensor:
    """The seed that the trainer's next step will use."""
    return tf.random.fold_in(tf.constant([trainer.seed % (1 << 31), 0x57E9], tf.int32), trainer.step)


def rows_of(candidates: Candidates) -> Counter:
    """Candidates as a bag of (id, logQ, vector), to the precision that compiled and eager code share."""
    parts = zip(candidates.ids.numpy(), candidates.log_q.numpy(), candidates.vectors.numpy(), strict=True)
    return Counter((int(item), round(float(q), 4), tuple(np.round(vector, 4) + 0.0)) for item, q, vector in parts)


def batch_of(items: np.ndarray) -> dict[str, dict[str, tf.Tensor]]:
    """`one_batch` with other items."""
    return {**one_batch(), "item": {ITEM: tf.constant(items, tf.int32)}}


@pytest.mark.parametrize(("uniform", "audience"), [(0, False), (4, True)])
def test_it_holds_the_last_steps_as_they_were(uniform: int, audience: bool) -> None:
    """After four steps with room for two: ids, logQ and vectors of steps three and four, before their updates."""
    users, items = one_batch()["query"][USER].numpy(), one_batch()["item"][ITEM].numpy()
    pairs = np.unique(np.stack([users, items]), axis=1)
    config = LossConfig(uniform_negatives=uniform, cross_batch_negatives=2 * (BATCH + uniform))
    trainer = trainer_of(config, audience_spec(*pairs, ITEMS + 3) if audience else None)
    rng, seen = np.random.default_rng(1), []
    for _ in range(4):
        batch = batch_of(rng.integers(3, ITEMS + 3, BATCH))
        seen.append(rows_of(trainer._candidates(batch, step_seed(trainer))))
        trainer.train_step(batch, RATE)
    assert rows_of(trainer.queue.stored()) == seen[2] + seen[3]
    assert seen[2] != seen[3]


def test_before_it_is_full_there_is_nothing_but_what_came_in() -> None:
    """No zero vectors: the first step's loss is that without a queue, the second's has one step's candidates more."""
    batch = one_batch()
    trainer, plain = trainer_of(LossConfig(cross_batch_negatives=1000)), trainer_of(LossConfig())
    assert float(trainer.train_step(batch, RATE)) == pytest.approx(float(plain.train_step(batch, RATE)), rel=1e-6)
    stored = trainer.queue.stored()
    assert stored.ids.shape == [BATCH]
    np.testing.assert_allclose(np.linalg.norm(stored.vectors.numpy(), axis=1), 1, rtol=1e-5)
    # The parameters are the same, so all that differs is the negatives.
    assert float(trainer.loss(batch, SEED)) > float(plain.loss(batch, SEED)) + 0.1


@pytest.mark.parametrize("capacity", [3, 14, 20, 50])
def test_first_in_first_out_whatever_the_capacity(capacity: int) -> None:
    """Steps of 14 candidates: the newest are there whole, of one more step a part, of older ones nothing."""
    queue = CandidateQueue(capacity, 2)
    for step in range(9):
        ids = tf.range(14) + 100 * step
        values = tf.cast(ids, tf.float32)
        queue.push(Candidates(tf.stack([values, -values], axis=1), ids, values / 2), tf.constant([1, step]))
        stored = queue.stored()
        found = stored.ids.numpy()
        assert len(found) == len(set(found)) == min(capacity, 14 * (step + 1))
        ages = Counter(step - found // 100)
        assert [ages[age] for age in range(len(ages))] == [14] * (len(found) // 14) + [len(found) % 14] * bool(
            len(found) % 14
        )
        np.testing.assert_array_equal(stored.vectors.numpy(), np.stack([found, -found], axis=1))
        np.testing.assert_array_equal(stored.log_q.numpy(), found / 2)


def test_the_part_of_a_step_that_is_left_is_a_random_one() -> None:
    """Else the last candidates of a step, its uniform ones, would be more than their share, and logQ wrong for them."""
    queue = CandidateQueue(5, 2)
    kept = np.zeros(20)
    push = tf.function(lambda seed: queue.push(Candidates(tf.zeros([20, 2]), tf.range(20), tf.zeros([20])), seed))
    for step in range(600):
        push(tf.constant([3, step]))
        kept[queue.stored().ids.numpy()] += 1
    assert np.abs(kept / 600 - 0.25).max() < 0.075  # four standard deviations


SETTINGS: list[dict] = [
    {"frequencies": "none", "mask_accidental_hits": False},
    {"frequencies": "exact", "mask_accidental_hits": False},
    {"frequencies": "exact"},
    {"frequencies": "exact", "log_q_strength": 0.5, "uniform_negatives": 7},
    {"frequencies": "exact", "mask_history": True, "uniform_negatives": 7, "block_rows": 5},
    {"frequencies": "streaming", "mask_history": True},
    {"frequencies": "batch"},
]


def expected(trainer: Trainer, config: LossConfig) -> float:
    """The loss of `one_batch` by its definition, row by row in float64, the queue's entries as further columns."""
    batch = one_batch()
    live, stored = trainer._candidates(batch, SEED), trainer.queue.stored()
    queries = trainer.model.query_tower(batch["query"]).numpy().astype(np.float64)
    ids, log_q, vectors = (
        np.concatenate([getattr(part, name).numpy() for part in (live, stored)]).astype(np.float64)
        for name in ("ids", "log_q", "vectors")
    )
    histories = batch["query"]["history"].numpy()
    total = 0.0
    for row in range(BATCH):
        logits = {}
        for column, item in enumerate(ids):
            hit = config.mask_accidental_hits and item == ids[row]
            hit |= config.mask_history and item in histories[row]
            if column == row or not hit:
                cosine = queries[row] @ vectors[column]
                logits[column] = cosine / trainer.model.spec.config.temperature.value - log_q[column]
        top = max(logits.values())
        total += top + np.log(sum(np.exp(logit - top) for logit in logits.values())) - logits[row]
    return total / BATCH


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_loss_is_what_its_definition_says(settings: dict) -> None:
    """After three steps of other items: masks reach the queue, each of its entries takes off its own logQ."""
    config = LossConfig.model_validate({"cross_batch_negatives": 40, **settings})
    trainer = trainer_of(config)
    rng = np.random.default_rng(2)
    for step in range(3):
        batch, seed = batch_of(rng.integers(3, ITEMS + 3, BATCH)), tf.constant([5, step])
        trainer.log_q.update(batch["item"][ITEM])
        trainer.queue.push(trainer._candidates(batch, seed), seed)
    assert trainer.queue.stored().ids.shape == [40]
    assert float(trainer.loss(one_batch(), SEED)) == pytest.approx(expected(trainer, config), rel=2e-5)


def test_what_is_stored_is_pushed_by_no_step() -> None:
    """A step moves the rows of its own items only; those of items that stand in the queue alone rest."""
    trainer = trainer_of(LossConfig(cross_batch_negatives=2 * BATCH))
    trainer.train_step(batch_of(np.full(BATCH, 3 + ITEMS - 1)), RATE)
    histories = tf.fill([BATCH, 3], 3)
    batch = {"query": {**one_batch()["query"], "history": histories}, "item": {ITEM: tf.fill([BATCH], 4)}}
    before = trainer.model.embedding_tables[ITEM].table.numpy()
    stored = trainer.queue.stored().vectors.numpy()
    trainer.train_step(batch, RATE)
    moved = np.any(trainer.model.embedding_tables[ITEM].table.numpy() != before, axis=1)
    assert set(np.flatnonzero(moved)) == {3, 4}
    np.testing.assert_array_equal(
        np.sort(trainer.queue.stored().vectors.numpy()[:BATCH], axis=0), np.sort(stored, axis=0)
    )


def gradient_error(correction: str) -> float:
    """How far the gradient on a query is from that of the full softmax over a toy corpus, relative to it.

    Popularity moves on from step to step, uniform negatives come on top, and the queue holds two and a half steps.
    Candidates take off the logQ of their `own` step, all that of the `last` one, or `none`.
    """
    rng, inverse, target, draws, uniform, items = np.random.default_rng(8), 4.0, 5, 6000, 2000, 12
    vectors = rng.normal(size=(items + 1, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    corpus, query = vectors[:-1], vectors[-1:]
    full = np.exp(corpus @ query[0] * inverse)
    right = inverse * ((full / full.sum()) @ corpus - corpus[target])
    config = LossConfig(uniform_negatives=uniform, log_q_strength=0.0 if correction == "none" else 1.0)

    def candidates(step: int) -> Candidates:
        counts = np.roll(np.arange(1, items + 1) ** 2, step)
        drawn = np.concatenate([rng.choice(items, draws, p=counts / counts.sum()), rng.integers(0, items, uniform)])
        drawn[0] = target
        law = counts if correction == "own" else np.roll(counts, 3 - step)
        ids = tf.constant(drawn + 3, tf.int32)
        log_q = LogQ(config, np.concatenate([[0, 0, 0], law]), items, draws, 1)(ids, ids)
        return Candidates(tf.constant(corpus[drawn], tf.float32), ids, log_q)

    queue = CandidateQueue(int(2.5 * (draws + uniform)), 4)
    for step in range(3):
        queue.push(candidates(step), tf.constant([1, step]))
    live, stored, queries = candidates(3), queue.stored(), tf.constant(query, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(queries)
        log_q = tf.concat([live.log_q, stored.log_q], axis=0)
        loss = sampled_softmax_loss(queries, live.vectors, log_q, tf.constant(inverse), stored=stored.vectors)
    found = tape.gradient(loss, queries).numpy()[0]
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def test_with_log_q_batch_uniform_and_queue_together_approach_the_full_softmax() -> None:
    """Each candidate's own step is what counts; without correction, or with that of now, the gradient is another."""
    assert gradient_error("own") < 0.02
    assert gradient_error("last") > 0.07
    assert gradient_error("none") > 0.1
