"""The search for gates as a phase of training: soft gates, a temperature that grows, and the weights to go back to.

OptFS specification, sections 2.2 to 2.5. The phases are: search; then training from the rewound weights with the gates
found, now hard; then, where asked for, the refit with the same gates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.dataset_folder import DatasetFolder
from recsys.features.gate_optimiser import GateOptimiser, Occurrences
from recsys.features.gate_schedule import GateSearch, require_closable, too_rare_to_close
from recsys.features.gates import gates_name, kept
from recsys.features.ragged import as_ragged
from recsys.retrieval.gates import TowerGates, open_shares
from recsys.retrieval.input import Batch
from recsys.retrieval.spec import TwoTowerSpec
from recsys.retrieval.state import assign_variables, variable_arrays
from recsys.retrieval.towers import TwoTower
from recsys.schema import FIRST_VALUE_ID, MISSING_ID

REWIND = "rewind.npz"
"""The file of weights to go back to, beside the checkpoints."""

LOGITS = "logits/"
"""What the names of the gates begin with in a checkpoint."""


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
        random first values. The rows of missing and unseen values stay as long as any of their table does, so a missing
        or an unseen value never becomes a closed one.
        """
        logits = gate_arrays(self.gates)
        if self.search.penalty > 0.0:
            for one, met in zip(self.gates.all, self.optimiser.met(), strict=True):
                logits[one.name] = np.where(met, logits[one.name], np.float32(0.0))
        for one in self.gates.tables.values():
            if kept(logits[one.name])[MISSING_ID:].any():
                special = logits[one.name][MISSING_ID:FIRST_VALUE_ID]
                special[~kept(special)] = self.search.start
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
        warmup=config.warmup_epochs,
    )
    require_closable(search, "train.gates")
    optimiser = GateOptimiser(gates.all, search, dense=config.mode == "value-dense")
    return GateStage(model, gates, search, config.rewind_epoch, optimiser)


def rare_values(stage: GateStage, config: GatesConfig, dataset: DatasetFolder, examples: int) -> dict[str, str]:
    """By gated table, of how many values the gate moves too seldom to close, in words for the terminal.

    Empty in modes other than value-lazy, and where no value is too rare.
    """
    if config.mode != "value-lazy":
        return {}
    told = {}
    for name in stage.gates.tables:
        if name in dataset.schema.vocabularies:
            counts = dataset.vocabulary(name).table["count"].to_numpy()
            told[name] = too_rare_to_close(stage.search, counts, examples, "train.gates", f" of '{name}'")
    return {name: words for name, words in told.items() if words is not None}


def occurrences(model: TwoTower, batch: Batch) -> list[Occurrences | None]:
    """What the main batch looks up in each gated table, in the order of the gates; None for gates of fields.

    A table that several fields read, in one tower or both, counts the values of all.
    """
    gates = model.gates
    if gates is None:
        return []
    found: list[Occurrences | None] = []
    for name in gates.tables:
        rows = []
        for tower, side in ((model.query_tower, "query"), (model.item_tower, "item")):
            for inputs in tower.spec.inputs:
                if inputs.table == name:
                    ids = batch[side][inputs.name]
                    rows.append(tower.tables[name].rows(as_ragged(ids).values if inputs.is_list else ids))
        size = tf.shape(batch["query"][model.query_tower.spec.id_column])[0]
        found.append(Occurrences(tf.concat(rows, axis=0), size))
    return [*found, *(None for _ in gates.fields)]


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


def logit_variables(gates: TowerGates) -> dict[str, list[tf.Variable]]:
    """The logits as groups of a checkpoint, for `saved_gates` to find."""
    return {f"{LOGITS}{one.name}": [one.logits] for one in gates.all}


def saved_gates(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What `gate_arrays` gave when a checkpoint was written; None in one of a model without gates."""
    found = {key.removeprefix(LOGITS).rpartition("/")[0]: x for key, x in arrays.items() if key.startswith(LOGITS)}
    return found or None


def set_gates(gates: TowerGates, logits: Mapping[str, np.ndarray]) -> None:
    """Take over the logits that `gate_arrays` gave."""
    for one in gates.all:
        one.logits.assign(logits[one.name])


def carry_gates(
    logits: Mapping[str, np.ndarray], before: TwoTowerSpec, after: TwoTowerSpec, start: float
) -> dict[str, np.ndarray]:
    """The logits for a model on more data, in which ids may have got rows of their own: those start open."""
    carried = dict(logits)
    tables = {table.name: table for table in after.tables}
    for old in before.tables:
        name = gates_name(old.name)
        if name not in logits:
            continue
        new = tables[old.name]
        carried[name] = np.full(new.rows, start, np.float32)
        carried[name][:FIRST_VALUE_ID] = logits[name][:FIRST_VALUE_ID]
        ids = np.flatnonzero(old.row_of >= FIRST_VALUE_ID)
        carried[name][new.row_of[ids]] = logits[name][old.row_of[ids]]
    return carried


def rewind_arrays(model: TwoTower, frequencies: list[tf.Variable]) -> dict[str, np.ndarray]:
    """The whole state but gates and optimisers."""
    return variable_arrays({"weights": weights_without_gates(model), "frequencies": frequencies})


def rewind(model: TwoTower, frequencies: list[tf.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Set the state to what `rewind_arrays` took."""
    assign_variables({"weights": weights_without_gates(model), "frequencies": frequencies}, arrays)
