"""An exported ranker (SavedModel) as a function from arrays to probabilities and activations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import UserError

SIGNATURE = "serving_default"
PROBABILITY = "probability"
ACTIVATIONS = ("encoded", "first_hidden", "last_hidden")
MODEL = "model"


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Of n candidates `[n] float32`: calibrated `probability` of another task's outcome, and the head's `logit`.

    Of a task of clicks the probability is that of the click and the outcome, the logit is given the click.
    """

    probability: np.ndarray
    logit: np.ndarray


@dataclass(frozen=True, eq=False)
class Scores:
    """Of n candidates: calibrated `probability` and `logit` `[n] float32`, activations by name `[n, any] float32`.

    They are of the click; `tasks` holds the same of other tasks by name, where the ranker has any.
    """

    probability: np.ndarray
    logit: np.ndarray
    activations: dict[str, np.ndarray]
    tasks: dict[str, TaskScores] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ranker:
    """A ranker ready to be called from any thread. `inputs` maps each input's name to its NumPy dtype.

    `tasks` are predicted beside the click.
    """

    folder: Path
    inputs: Mapping[str, np.dtype]
    tasks: tuple[str, ...]
    _ranks: Mapping[str, int]
    _function: Any
    _module: Any  # the function dies with the module that holds its variables

    def score(self, arrays: Mapping[str, np.ndarray]) -> Scores:
        """Score candidates in one call; `arrays` by column name, a row a candidate, others are ignored.

        Raises UserError naming an input that is missing or of another shape.
        """
        from recsys._tensorflow import tf

        batch = {name: tf.constant(self._checked(name, arrays)) for name in self.inputs}
        found = {name: values.numpy() for name, values in self._function(**batch).items()}
        tasks = {name: TaskScores(found[f"{PROBABILITY}_{name}"], found[f"logit_{name}"]) for name in self.tasks}
        return Scores(found[PROBABILITY], found["logit"], {name: found[name] for name in ACTIVATIONS}, tasks)

    def __call__(self, arrays: Mapping[str, np.ndarray], *, batch_size: int = 8192) -> np.ndarray:
        """Calibrated probabilities of a click of any number of rows, `[rows] float32`, `batch_size` at a time."""
        return self.probabilities(arrays, batch_size=batch_size)[PROBABILITY]

    def probabilities(self, arrays: Mapping[str, np.ndarray], *, batch_size: int = 8192) -> dict[str, np.ndarray]:
        """As by calling it, `probability`, and of each task `probability_<task>`."""
        rows = len(arrays[next(iter(self.inputs))])
        parts: dict[str, list[np.ndarray]] = {PROBABILITY: [np.empty(0, np.float32)]}
        parts |= {f"{PROBABILITY}_{name}": [np.empty(0, np.float32)] for name in self.tasks}
        for start in range(0, rows, batch_size):
            scores = self.score({name: arrays[name][start : start + batch_size] for name in self.inputs})
            parts[PROBABILITY].append(scores.probability)
            for name, task in scores.tasks.items():
                parts[f"{PROBABILITY}_{name}"].append(task.probability)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _checked(self, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        if name not in arrays:
            raise UserError(
                f"{self.folder}: the ranker reads the column '{name}', but only {sorted(arrays)} are given."
            )
        array = np.ascontiguousarray(arrays[name], self.inputs[name])
        if array.ndim != self._ranks[name]:
            expected = "[rows]" if self._ranks[name] == 1 else "[rows, any]"
            raise UserError(f"{self.folder}: input '{name}' has shape {list(array.shape)}, expected {expected}.")
        return array


def load_ranker(folder: Path) -> Ranker:
    """Load the ranker of a ranker folder (docs/contracts.md); raises UserError where it is missing or damaged."""
    from recsys._tensorflow import tf

    folder = Path(folder) / MODEL
    if not (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder}: no SavedModel here (no saved_model.pb); train the ranker first, or check the path.")
    try:
        module = tf.saved_model.load(str(folder))
        function = module.signatures[SIGNATURE]
        specs = function.structured_input_signature[1]
    except Exception as error:  # protobuf, checkpoint reader and graph importer each raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: not a readable ranker ({type(error).__name__}: {reason}); it was truncated or altered: train "
            "it again with 'recsys train'."
        ) from error
    missing = {PROBABILITY, "logit", *ACTIVATIONS} - set(function.structured_outputs)
    if missing:
        raise UserError(f"{folder}: the ranker has no output '{min(missing)}'; train it again.")
    prefix = f"{PROBABILITY}_"
    return Ranker(
        folder=folder,
        tasks=tuple(
            sorted(name.removeprefix(prefix) for name in function.structured_outputs if name.startswith(prefix))
        ),
        inputs={name: np.dtype(spec.dtype.as_numpy_dtype) for name, spec in sorted(specs.items())},
        _ranks={name: int(spec.shape.rank) for name, spec in specs.items()},
        _function=function,
        _module=module,
    )
