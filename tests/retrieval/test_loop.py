"""The learning rate by step."""

import pytest

from recsys.config.train import OptimiserConfig
from recsys.retrieval.loop import learning_rate


def rates(**settings) -> list[float]:
    """Those of 3 epochs of 4 steps each."""
    config = OptimiserConfig.model_validate({"learning_rate": 0.1, **settings})
    return [learning_rate(config, step // 4, step, 12) for step in range(12)]


def test_constant_unless_told_otherwise() -> None:
    assert rates() == [0.1] * 12


def test_decay_is_by_epoch() -> None:
    assert rates(decay=0.5) == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 4)


def test_to_zero_falls_evenly_and_would_be_zero_one_step_later() -> None:
    found = rates(to_zero=True)
    assert found[0] == 0.1
    assert [a - b for a, b in zip(found, [*found[1:], 0.0], strict=True)] == pytest.approx([0.1 / 12] * 12)


def test_warm_up_multiplies() -> None:
    found = rates(to_zero=True, warmup_steps=4)
    assert found[:4] == pytest.approx([0.1 * (1 - n / 12) * (n + 1) / 4 for n in range(4)])
    assert found[4:] == rates(to_zero=True)[4:]
