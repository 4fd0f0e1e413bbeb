"""The model folder of docs/contracts.md: SavedModels, the catalogue's vectors, and how the model came to be."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from recsys._tensorflow import tf
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.inputs import item_inputs
from recsys.evaluation.queries import Events
from recsys.evaluation.two_tower import ItemRefresh
from recsys.retrieval.live import LiveTower, tower_signature
from recsys.retrieval.reproducible import settle_saved_model
from recsys.retrieval.towers import Tower

OUTPUT = "vector"


def export_tower(tower: Tower, folder: Path) -> None:
    """Write a tower as a SavedModel with the signature `serving_default`: inputs by column name, output `vector`.

    Equal towers give equal bytes, whatever the process did before.
    """
    signature = tower_signature(tower.spec)
    module = tf.Module()
    module.weights = list(tower.variables)
    function = tf.function(lambda **features: {OUTPUT: tower(features)})
    tf.saved_model.save(
        module,
        str(folder),
        signatures={"serving_default": function.get_concrete_function(**signature)},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    settle_saved_model(folder)


def catalogue_vectors(dataset: DatasetFolder, tower: LiveTower) -> np.ndarray:
    """Vectors of every item, row = id - 3, `[items, dim] float32`; point-in-time fields as of the end of the data."""
    static = item_inputs(dataset, tower.inputs)
    if set(tower.inputs) <= set(static):
        return tower(static)
    from recsys.encoding.point_in_time import point_in_time_of

    events = Events.read(dataset).by_time()
    always = np.zeros(len(dataset.items), np.int64)
    refresh = ItemRefresh(tower, static, point_in_time_of(dataset), events, always)
    return refresh.vectors(int(events.times[-1]) + 1, np.zeros((len(dataset.items), tower.dimension), np.float32))


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Write `vectors.npy`, `[items, dim] float32`."""
    np.save(path, np.ascontiguousarray(vectors, np.float32))
