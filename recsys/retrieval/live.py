"""The model under training as functions from arrays to vectors, in batches, as an exported tower would be."""

from collections.abc import Mapping

import numpy as np

from recsys._tensorflow import tf
from recsys.retrieval.spec import TowerSpec
from recsys.retrieval.towers import Tower, TwoTower


def tower_signature(spec: TowerSpec) -> dict[str, tf.TensorSpec]:
    """The tower's inputs by column name (docs/contracts.md): ids int32, numbers float32, lists `[batch, width]`.

    A history's width is its field's length; a multi-valued field's is free.
    """
    signature = {spec.id_column: tf.TensorSpec([None], tf.int32, name=spec.id_column)}
    for inputs in spec.inputs:
        shape = [None, inputs.length or None] if inputs.is_list else [None]
        dtype = tf.int32 if inputs.is_integer else tf.float32
        signature[inputs.name] = tf.TensorSpec(shape, dtype, name=inputs.name)
    return signature


def build(model: TwoTower) -> None:
    """Create every weight by running both towers once, on empty batches."""
    for tower in (model.query_tower, model.item_tower):
        tower(
            {
                name: tf.zeros([0] + [1] * (inputs.shape.rank - 1), inputs.dtype)
                for name, inputs in tower_signature(tower.spec).items()
            }
        )


class LiveTower:
    """A tower of the model as it is now. `inputs` are the columns that it reads."""

    def __init__(self, tower: Tower, batch_size: int = 4096) -> None:
        self.signature = tower_signature(tower.spec)
        self.inputs = tuple(self.signature)
        self.batch_size = batch_size
        self.dimension = tower.dimension
        free = {
            name: tf.TensorSpec([None] * spec.shape.rank, spec.dtype, name) for name, spec in self.signature.items()
        }
        self._function = tf.function(lambda features: tower(features), input_signature=[free])

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Vectors of `[rows, dim] float32`; columns that the tower does not read are ignored."""
        rows = len(next(iter(arrays.values())))
        parts = []
        for start in range(0, max(rows, 1), self.batch_size):
            part = {
                name: tf.constant(arrays[name][start : start + self.batch_size], spec.dtype)
                for name, spec in self.signature.items()
            }
            parts.append(self._function(part).numpy())
        return np.concatenate(parts)
