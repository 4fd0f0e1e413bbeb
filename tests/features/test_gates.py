"""Gates, their schedule and their optimiser against finite differences and plain NumPy."""

import numpy as np
import pytest

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.errors import UserError
from recsys.features.embedding import EmbeddingTable
from recsys.features.gate_optimiser import GateOptimiser, Occurrences
from recsys.features.gate_schedule import GateSearch, fewest_occurrences, require_closable, unused_gate
from recsys.features.gates import Gates, open_share
from recsys.features.pruning import CLOSED_ROW, prune_table, pruned_rows
from recsys.features.spec import TableSpec, full_table

SEARCH = GateSearch(
    start=0.5,
    penalty=0.01,
    final_temperature=200.0,
    epochs=6,
    epoch_steps=100,
    learning_rate=0.01,
    epsilon=1e-8,
)


def change(**changes) -> GateSearch:
    return GateSearch(**{**SEARCH.__dict__, **changes})


def soft_gates(logits: list[float], temperature: float, start: float = 0.5) -> Gates:
    gates = Gates("g", len(logits), start=start, temperature=tf.Variable(temperature, trainable=False))
    gates.logits.assign(logits)
    return gates


def test_the_gate_is_the_paper_s():
    """1 at the start, c S(t m) while soft, c or 0 when hard; a logit of exactly 0 is closed."""
    gates = Gates("g", 3, start=0.5, temperature=tf.Variable(1.0, trainable=False))
    np.testing.assert_allclose(gates.all(), 1.0, atol=1e-6)
    assert gates.scale == pytest.approx(1.6065, abs=1e-4)
    gates = soft_gates([-0.3, 0.0, 0.7], 5.0)
    np.testing.assert_allclose(gates.at(tf.constant([2, 0])), gates.scale / (1 + np.exp([-3.5, 1.5])), rtol=1e-6)
    hard = Gates("g", 4, start=0.5, temperature=None)
    hard.logits.assign([-1e-9, 0.0, 1e-9, 3.0])
    np.testing.assert_allclose(hard.all(), [0, 0, hard.scale, hard.scale])
    assert open_share(hard) == 0.5 and open_share(hard, [0, 2, 3]) == pytest.approx(2 / 3)
    assert not gates.trainable_variables and gates.all().dtype == tf.float32


def test_both_gradients_are_those_of_finite_differences():
    """Of a loss that reads gated embeddings, and of the penalty: the two terms of the selection rule."""
    temperature, penalty, step = 3.0, 0.05, 1e-3
    start = np.array([0.5, -0.2, 0.8, 0.1])
    gates = soft_gates(list(start), temperature)
    table = EmbeddingTable(full_table("t", 4), 3, scale=1.0, seed=1, gates=gates)
    weights = table.table.numpy().astype(np.float64)
    rows, target = [0, 2, 2, 1], np.array([0.3, -0.1, 0.2])

    def loss(logits: np.ndarray) -> float:
        gate = (1 + np.exp(-0.5)) / (1 + np.exp(-temperature * logits))
        return float(np.sum((gate[rows, None] * weights[rows] - target) ** 2))

    def price(logits: np.ndarray) -> float:
        return float(np.sum(penalty / (1 + np.exp(-temperature * logits))))

    def slope(function) -> np.ndarray:
        ways = np.eye(4) * step
        return np.array([(function(start + way) - function(start - way)) / (2 * step) for way in ways])

    with tf.GradientTape() as tape:
        tape.watch(gates.logits)
        value = tf.reduce_sum((table.vectors(tf.constant(rows)) - tf.constant(target, tf.float32)) ** 2)
    assert float(value) == pytest.approx(loss(start), rel=1e-5)
    gradient = tape.gradient(value, gates.logits)
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), slope(loss), rtol=1e-3, atol=1e-4)

    # The optimiser's first step with a huge epsilon is plain descent: learning rate x gradient / epsilon.
    descent = change(penalty=penalty, learning_rate=1.0, epsilon=1e4)
    GateOptimiser([gates], descent, dense=True).apply([gradient])
    np.testing.assert_allclose((start - gates.logits.numpy()) * 1e4, slope(loss) + slope(price), rtol=2e-2, atol=2e-3)


def adam_oracle(search: GateSearch, temperature, gradients, dense, shares=None):
    """Row by row in float64; a gate's clock counts its own updates. `shares` `[steps][rows]` are those of the price."""
    rows = len(gradients[0])
    logit, mean, square, updates = (np.full(rows, search.start), np.zeros(rows), np.zeros(rows), np.zeros(rows))
    for step, gradient in enumerate(gradients):
        for row in range(rows):
            share = shares[step][row] if shares is not None else 1.0
            if not dense and gradient[row] is None and (shares is None or not share):
                continue
            soft = 1 / (1 + np.exp(-temperature * logit[row]))
            slope = (gradient[row] or 0.0) + share * search.penalty * temperature * soft * (1 - soft)
            updates[row] += 1
            mean[row] = 0.9 * mean[row] + 0.1 * slope
            square[row] = 0.999 * square[row] + 0.001 * slope**2
            corrected = mean[row] / (1 - 0.9 ** updates[row])
            root = np.sqrt(square[row] / (1 - 0.999 ** updates[row]))
            logit[row] -= search.learning_rate * corrected / (root + search.epsilon)
    return logit


@pytest.mark.parametrize("dense", [False, True])
def test_the_optimiser_equals_plain_numpy(dense: bool):
    """Repeated rows of a step are added up; the penalty falls once on each row of the step, or on all rows."""
    rng = np.random.default_rng(3)
    gates = soft_gates([0.5] * 6, 2.0)
    optimiser = GateOptimiser([gates], SEARCH, dense=dense)
    plain = []
    for _ in range(30):
        rows = rng.integers(0, 5, 4)  # row 5 is never looked up
        values = rng.normal(0, 0.01, 4).astype(np.float32)
        sums = [values[rows == row].sum() if (rows == row).any() else None for row in range(6)]
        plain.append(sums)
        optimiser.apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([6]))])
    np.testing.assert_allclose(gates.logits, adam_oracle(SEARCH, 2.0, plain, dense), atol=1e-4)
    assert (gates.logits.numpy()[5] == 0.5) is not dense or gates.logits.numpy()[5] < 0.5


def test_occurrences_are_priced_by_their_share_of_the_batch():
    """Against plain NumPy: a row with only a gradient (of a second loss) has no price, one twice in the batch two."""
    rng = np.random.default_rng(4)
    gates = soft_gates([0.5] * 7, 2.0)
    optimiser = GateOptimiser([gates], SEARCH, dense=False)
    plain, shares = [], []
    for _ in range(30):
        rows, seen = rng.integers(0, 5, 4), rng.integers(1, 6, 9)  # row 0 is never in the batch, 5 has no gradient
        values = rng.normal(0, 0.01, 4).astype(np.float32)
        plain.append([values[rows == row].sum() if (rows == row).any() else None for row in range(7)])
        shares.append([(seen == row).sum() / 4 for row in range(7)])
        slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([7]))
        optimiser.apply([slices], [Occurrences(tf.constant(seen), tf.constant(4))])
    np.testing.assert_allclose(gates.logits, adam_oracle(SEARCH, 2.0, plain, False, shares), atol=1e-4)
    assert gates.logits.numpy()[6] == 0.5 > gates.logits.numpy()[5]


def test_lazy_gates_judge_values_by_their_worth_an_occurrence():
    """Two values worth the same an occurrence, one in half of the rows and one in a sixty-fourth: both stay or neither.

    Dense gates keep the frequent one alone: to them a value is worth what it is worth times how often it occurs.
    """
    batch, frequent = 64, 32

    def search(worth: float, *, dense: bool) -> np.ndarray:
        gates = soft_gates([0.5, 0.5], 1.0)
        optimiser = GateOptimiser([gates], change(penalty=0.002 if dense else 0.01, learning_rate=0.03), dense=dense)
        for _ in range(50):
            soft = 1 / (1 + np.exp(-gates.logits.numpy()))
            rows = np.array([0] * frequent + [1])
            values = (-worth * soft * (1 - soft))[rows].astype(np.float32) / batch
            slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([2]))
            seen = None if dense else [Occurrences(tf.constant(rows), tf.constant(batch))]
            optimiser.apply([slices], seen)
        return gates.logits.numpy() > 0

    assert search(0.02, dense=False).tolist() == [True, True]
    assert search(0.005, dense=False).tolist() == [False, False]
    assert search(0.02, dense=True).tolist() == [True, False]


def test_gates_without_rows_are_in_every_step():
    """Gates of fields have dense gradients: the penalty reaches them in the lazy mode too."""
    gates = soft_gates([0.5, 0.5], 1.0)
    GateOptimiser([gates], SEARCH, dense=False).apply([tf.constant([0.0, -1.0])])
    np.testing.assert_allclose(gates.logits, [0.5 - SEARCH.learning_rate, 0.5 + SEARCH.learning_rate], atol=1e-5)


# Specification, section 5: steps an epoch, epochs, final temperature, learning rate, penalty, epsilon -> (the epoch in
# which the logit crosses 0, where it ends).
PUBLISHED = [
    ("criteo_fm", 8953, 10, 1000, 3e-4, 2e-9, 1e-8, 3, -0.43),
    ("criteo_fm_keras_epsilon", 8953, 10, 1000, 3e-4, 2e-9, 1e-7, None, 0.43),
    ("criteo_fm_large_epsilon", 8953, 10, 1000, 3e-4, 2e-9, 1e-6, None, 0.49),
    ("criteo_deepfm", 8953, 15, 200, 3e-4, 5e-9, 1e-8, 2, -1.01),
    ("criteo_dcn", 8953, 5, 10000, 3e-4, 1e-8, 1e-8, 1, -0.52),
    ("criteo_dcn_keras_epsilon", 8953, 5, 10000, 3e-4, 1e-8, 1e-7, None, 0.40),
    ("criteo_ipnn", 8953, 10, 2000, 3e-4, 5e-9, 1e-8, 2, -0.68),
    ("avazu", 7896, 5, 5000, 3e-4, 2e-9, 1e-8, 3, -0.09),
    ("avazu_small_epsilon", 7896, 5, 5000, 3e-4, 2e-9, 1e-10, 1, -1.4),
    ("kdd12_dcn", 29226, 5, 1000, 3e-5, 5e-9, 1e-8, 3, -0.13),
    ("short_slow", 123, 6, 200, 3e-4, 1e-4, 1e-8, None, 0.38),
    ("short_quick", 123, 6, 200, 3e-3, 1e-4, 1e-8, 2, -0.56),
    ("short_quicker", 123, 6, 200, 1e-2, 1e-4, 1e-8, 1, -1.43),
]


@pytest.mark.parametrize(
    ("steps", "epochs", "temperature", "rate", "penalty", "epsilon", "crosses", "ends"),
    [case[1:] for case in PUBLISHED],
    ids=[case[0] for case in PUBLISHED],
)
def test_an_unused_gate_goes_where_the_specification_says(
    steps, epochs, temperature, rate, penalty, epsilon, crosses, ends
):
    """And the pre-flight check fails exactly where it stays open, naming what to change."""
    search = GateSearch(0.5, penalty, temperature, epochs, steps, rate, epsilon)
    after = unused_gate(search)
    assert after[-1] == pytest.approx(ends, abs=0.03 if abs(ends) > 1 else 0.006)
    assert next((epoch for epoch, logit in enumerate(after, 1) if logit <= 0), None) == crosses
    if crosses:
        require_closable(search, "train.gates")
    else:
        with pytest.raises(UserError, match=r"train\.gates: .*learning_rate.*epsilon"):
            require_closable(search, "train.gates")


@pytest.mark.parametrize(
    ("rate", "epsilon"),
    [(1e-3, 1e-8), (3e-3, 1e-8), (1e-2, 1e-8), (0.1, 1e-8), (0.6, 1e-8), (3e-3, 1e-4), (3e-3, 4e-4)],
)
def test_the_fewest_occurrences_that_close_a_gate(rate: float, epsilon: float):
    """As the recursion of a value with so many and with one less: 100 steps of 32 rows, a price an occurrence. Where
    Adam's epsilon is large beside that price, a value has to occur several times a batch."""
    search = change(learning_rate=rate, epsilon=epsilon)
    needed = fewest_occurrences(search, 3200)

    def ends_at(occurrences: int) -> float:
        steps, share = min(occurrences, 100), max(occurrences / 100, 1.0) / 32
        return unused_gate(change(learning_rate=rate, epsilon=epsilon, epoch_steps=steps, penalty=0.01 * share))[-1]

    assert ends_at(needed) <= 0 < ends_at(needed - 1) if needed > 1 else ends_at(1) <= 0
    assert ends_at(3200) == unused_gate(search)[-1] <= 0
    assert (needed > 100) == (epsilon == 4e-4)


def test_the_optimiser_moves_an_unused_gate_as_foreseen():
    """float32, step by step, through every temperature; without a penalty nothing moves and nothing is asked."""
    temperature = tf.Variable(1.0, trainable=False)
    gates = Gates("g", 2, start=0.5, temperature=temperature)
    optimiser = GateOptimiser([gates], SEARCH, dense=True)
    apply = tf.function(optimiser.apply)
    found = []
    for epoch in range(SEARCH.epochs):
        temperature.assign(SEARCH.temperature(epoch))
        for _ in range(SEARCH.epoch_steps):
            apply([tf.zeros([2])])
        found.append(gates.logits.numpy()[0])
    np.testing.assert_allclose(found, unused_gate(SEARCH), atol=1e-3)
    assert SEARCH.temperature(0) == 1 and SEARCH.temperature(5) == pytest.approx(200)
    require_closable(change(penalty=0.0), "train.gates")
    assert unused_gate(change(penalty=0.0))[-1] == 0.5


def test_pruning_keeps_four_things_apart():
    """Missing, unseen, closed and kept values each have a row; closed ones are zeros; scale is folded in."""
    spec = TableSpec("t", np.array([0, 1, 2, 3, 2, 4, 5, 6]))
    rows = np.arange(7, dtype=np.float32)[:, None] + 10
    pruned, source = prune_table(spec, np.array([False, True, True, True, False, True, False]))
    weights = pruned_rows(rows, source, 2.0)
    assert pruned.closed_row == CLOSED_ROW and pruned.rows == len(weights) == 6
    assert pruned.row_of.tolist() == [0, 1, 2, 4, 2, CLOSED_ROW, 5, CLOSED_ROW]
    layer = EmbeddingTable(pruned, 1, scale=1.0, seed=1)
    layer.table.assign(weights)
    found = layer(tf.constant([1, 2, 3, 4, 5, 6, 7, 999])).numpy()[:, 0]
    np.testing.assert_allclose(found, [22, 24, 26, 24, 0, 30, 0, 24])
    np.testing.assert_allclose(layer.openness(layer.rows(tf.constant([1, 2, 3, 5]))), [1, 1, 1, 0])


def test_missing_and_unseen_can_be_closed_too():
    """Then they are zeros and count nothing, and so are ids that the table does not know."""
    pruned, source = prune_table(full_table("t", 5), np.array([True, False, False, False, True]))
    assert pruned.row_of.tolist() == [0, CLOSED_ROW, CLOSED_ROW, CLOSED_ROW, 4]
    assert source.tolist() == [0, -1, -1, -1, 4]
    layer = EmbeddingTable(pruned, 2, scale=1.0, seed=1)
    layer.table.assign(pruned_rows(np.ones([5, 2], np.float32), source, 1.5))
    np.testing.assert_allclose(layer(tf.constant([1, 2, 3, 4, 77]))[:, 0], [0, 0, 0, 1.5, 0])


def test_nonsense_settings_are_refused():
    """A rewind point beyond the search, and a penalty given twice or not at all."""
    good = {"mode": "field", "penalty": 0.01}
    GatesConfig.model_validate(good)
    GatesConfig.model_validate(good | {"warmup_epochs": 4, "rewind_epoch": 9})
    assert GatesConfig.model_validate(good | {"warmup_epochs": 4}).epochs == 10
    assert "warmup_epochs" not in GatesConfig.model_validate(good).model_dump()  # else all older runs would be others
    for bad in (
        {"rewind_epoch": 6},
        {"warmup_epochs": 4, "rewind_epoch": 10},
        {"warmup_epochs": -1},
        {"kappa": 1.0},
        {"penalty": None},
        {"search_epochs": 1},
        {"epsilon": 0},
    ):
        with pytest.raises(ValueError):
            GatesConfig.model_validate(good | bad)
    assert GatesConfig.model_validate({"mode": "field", "kappa": 2.0}).penalty_for(1000) == pytest.approx(0.002)
