"""An exported tower (SavedModel) as a function from arrays to vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import UserError

SIGNATURE = "serving_default"
OUTPUT = "vector"


@dataclass(frozen=True, eq=False)
class Tower:
    """A tower ready to be called from any thread.

    `inputs` maps each input's name to its NumPy dtype and `widths` to its second dimension: None where the input is
    `[batch]`, 0 where any width will do.
    """

    folder: Path
    inputs: Mapping[str, np.dtype]
    widths: Mapping[str, int | None]
    dimension: int
    _function: Any
    _module: Any  # the function dies with the module that holds its variables

    def __call__(self, arrays: Mapping[str, np.ndarray], *, batch_size: int = 4096) -> np.ndarray:
        """Embed rows, `batch_size` at a time: `[rows, dim] float32`, L2-normalised by the tower.

        `arrays` holds one array an input, batch first; others are ignored. Raises UserError naming an input that is
        missing or of another length.
        """
        # Imported here so that importing this package stays instant.
        from recsys._tensorflow import tf

        batch = {name: self._checked(name, arrays) for name in self.inputs}
        sizes = {name: len(array) for name, array in batch.items()}
        rows = next(iter(sizes.values()))
        if any(size != rows for size in sizes.values()):
            raise UserError(f"{self.folder}: the inputs have different numbers of rows: {sizes}.")
        vectors = np.empty((rows, self.dimension), np.float32)
        for start in range(0, rows, batch_size):
            part = {name: tf.constant(array[start : start + batch_size]) for name, array in batch.items()}
            vectors[start : start + batch_size] = self._function(**part)[OUTPUT].numpy()
        return vectors

    def _checked(self, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        if name not in arrays:
            raise UserError(f"{self.folder}: the tower reads the column '{name}', but only {sorted(arrays)} are given.")
        array = np.ascontiguousarray(arrays[name], self.inputs[name])
        width = self.widths[name]
        if (array.ndim == 1) != (width is None) or (width and array.shape[1] != width):
            expected = "[rows]" if width is None else f"[rows, {width or 'any'}]"
            raise UserError(f"{self.folder}: input '{name}' has shape {list(array.shape)}, expected {expected}.")
        return array


def load_tower(folder: Path) -> Tower:
    """Load a SavedModel exported by training (docs/contracts.md, 'Model folder').

    Raises UserError naming the folder where it is missing, truncated or has another signature.
    """
    from recsys._tensorflow import tf

    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder}: no SavedModel here (no saved_model.pb); train the model first, or check the path.")
    try:
        module = tf.saved_model.load(str(folder))
    except Exception as error:  # protobuf, checkpoint reader and graph importer each raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: not a readable SavedModel ({type(error).__name__}: {reason}); expected one written by "
            "'recsys train' whole. It was truncated or altered: train the model again."
        ) from error
    if SIGNATURE not in module.signatures:
        raise UserError(f"{folder}: the SavedModel has no signature '{SIGNATURE}'; train the model again.")
    function = module.signatures[SIGNATURE]
    specs = function.structured_input_signature[1]
    outputs = function.structured_outputs
    if OUTPUT not in outputs or not specs:
        raise UserError(f"{folder}: expected inputs by column name and the output '{OUTPUT}', found {sorted(outputs)}.")
    return Tower(
        folder=folder,
        inputs={name: np.dtype(spec.dtype.as_numpy_dtype) for name, spec in specs.items()},
        widths={name: None if spec.shape.rank == 1 else int(spec.shape[1] or 0) for name, spec in specs.items()},
        dimension=int(outputs[OUTPUT].shape[-1]),
        _function=function,
        _module=module,
    )
