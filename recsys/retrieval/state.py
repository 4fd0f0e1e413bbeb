"""What a training run must remember: its progress, and the variables by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from recsys._tensorflow import tf


@dataclass
class Progress:
    """How far a phase of training is. `epoch` and `step` are the next ones to run, counted from 0.

    `losses` holds the sum of the losses of the running epoch; `epochs` one record for each finished one; `best_epoch`
    the number of epochs after which validation was best (0: none yet), by recall (`best_value`) and where that is equal
    by NDCG (`best_tie`); `saves` numbers the checkpoints. `searched` is what the phase before the refit ended with,
    `gate_epochs` the records of the epochs in which gates were searched.
    """

    phase: str
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -1.0
    best_tie: float = -1.0
    finished: bool = False
    saves: int = 0
    searched: dict[str, Any] | None = None
    gate_epochs: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Progress":
        """From a checkpoint."""
        return cls(**state)


def variable_arrays(groups: Mapping[str, Sequence[tf.Variable]]) -> dict[str, np.ndarray]:
    """Values of variables by group and place; the order of variables is fixed by the model's specification."""
    return {
        f"{group}/{place:04d}": variable.numpy()
        for group, variables in groups.items()
        for place, variable in enumerate(variables)
    }


def assign_variables(groups: Mapping[str, Sequence[tf.Variable]], arrays: Mapping[str, np.ndarray]) -> None:
    """Set variables to the values that `variable_arrays` took of them."""
    for group, variables in groups.items():
        for place, variable in enumerate(variables):
            variable.assign(arrays[f"{group}/{place:04d}"])
