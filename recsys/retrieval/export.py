"""The model folder of docs/contracts.md: SavedModels, the catalogue's vectors, and how the model came to be."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.retrieval.live import tower_signature
from recsys.retrieval.towers import Tower

OUTPUT = "vector"


def export_tower(tower: Tower, folder: Path) -> None:
    """Write a tower as a SavedModel with the signature `serving_default`: inputs by column name, output `vector`."""
    signature = tower_signature(tower.spec)
    module = tf.Module()
    module.weights = list(tower.variables)
    function = tf.function(lambda **features: {OUTPUT: tower(features)})
    options = tf.saved_model.SaveOptions(save_debug_info=False)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={"serving_default": function.get_concrete_function(**signature)},
        options=options,
    )


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Write `vectors.npy`, `[items, dim] float32`."""
    np.save(path, np.ascontiguousarray(vectors, np.float32))
