"""The search for gates as a phase of training: soft gates, a temperature that grows, and the weights to go back to.

OptFS specification, sections 2.2 to 2.5. The phases are: search; then training from the rewound weights with the gates
found, now hard; then, where asked for, the refit with the same gates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gate_schedule import GateSearch, require_closable
from recsys.retrieval.gates import TowerGates, open_shares
from recsys.retrieval.state import assign_variables, variable_arrays
from recsys.retrieval.towers import TwoTower

REWIND = "rewind.npz"
"""The file of weights to go back to, beside the checkpoints."""


@dataclass(frozen=True, eq=False)
class GateStage:
    """What a loop that searches does beyond the others."""

    model: TwoTower
    gates: TowerGates
    search: GateSearch
    rewind_epoch: int
    optimiser: GateOptimiser

    def begin_step(self, epoch: int, step: int) -> None:
        """Set the temperature of a step, both from 0."""
        if self.gates.temperature is not None and self.search.changes_at(step):
            self.gates.temperature.assign(self.search.temperature(epoch, step))

    def record(self) -> dict[str, float]:
        """The share of open gates by field, as an epoch's record holds it."""
        return {f"open_gates/{field}": share for field, share in open_shares(self.gates, self.model.spec).items()}

    def found(self) -> dict[str, np.ndarray]:
        """The logits that the search ends with, by the gates' names.

        Where an open gate has a price, one that no step looked up gets logit 0, hence closed: its row holds nothing but
        random first values.
        """
        logits = gate_arrays(self.gates)
        if self.search.penalty > 0.0:
            for one, met in zip(self.gates.all, self.optimiser.met(), strict=True):
                logits[one.name] = np.where(met, logits[one.name], np.float32(0.0))
        return logits


def gate_stage(model: TwoTower, config: GatesConfig, examples: int, epoch_steps: int) -> GateStage:
    """The search of a model with soft gates. Raises UserError where a gate that nothing needs could not close."""
    gates = model.gates
    if gates is None:
        raise ValueError("the model has no gates to search")
    search = GateSearch(
        config.start,
        config.penalty_for(examples),
        config.final_temperature,
        config.search_epochs,
        epoch_steps,
        config.learning_rate,
        config.epsilon,
        by_step=config.temperature_by == "step",
    )
    require_closable(search, "train.gates")
    optimiser = GateOptimiser(gates.all, search, dense=config.mode == "value-dense")
    return GateStage(model, gates, search, config.rewind_epoch, optimiser)


def weights_without_gates(model: TwoTower) -> list[tf.Variable]:
    """A model's variables less its gates' and their temperature: the same list for soft and hard gates."""
    gates = model.gates
    if gates is None:
        return list(model.variables)
    own = {id(one.logits) for one in gates.all} | {id(gates.temperature)}
    return [variable for variable in model.variables if id(variable) not in own]


def gate_arrays(gates: TowerGates) -> dict[str, np.ndarray]:
    """The logits by the gates' names."""
    return {one.name: one.logits.numpy() for one in gates.all}


def set_gates(gates: TowerGates, logits: Mapping[str, np.ndarray]) -> None:
    """Take over the logits that `gate_arrays` gave."""
    for one in gates.all:
        one.logits.assign(logits[one.name])


def rewind_arrays(model: TwoTower, frequencies: list[tf.Variable]) -> dict[str, np.ndarray]:
    """The whole state but gates and optimisers."""
    return variable_arrays({"weights": weights_without_gates(model), "frequencies": frequencies})


def rewind(model: TwoTower, frequencies: list[tf.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Set the state to what `rewind_arrays` took."""
    assign_variables({"weights": weights_without_gates(model), "frequencies": frequencies}, arrays)
