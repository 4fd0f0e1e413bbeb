"""The model folder of docs/contracts.md: SavedModels, the catalogue's vectors, and how the model came to be."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from recsys._tensorflow import tf
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.inputs import item_inputs
from recsys.evaluation.queries import Events
from recsys.evaluation.two_tower import Embedder, ItemRefresh
from recsys.retrieval.live import tower_signature
from recsys.retrieval.towers import Tower

OUTPUT = "vector"

_FUNCTION = re.compile(r"\b(__(?:inference|forward|backward)_\w+_)(\d+)\b")


def export_tower(tower: Tower, folder: Path) -> None:
    """Write a tower as a SavedModel with the signature `serving_default`: inputs by column name, output `vector`.

    Equal towers give equal bytes, whatever the process did before.
    """
    signature = tower_signature(tower.spec)
    module = tf.Module()
    module.weights = list(tower.variables)
    function = tf.function(lambda **features: {OUTPUT: tower(features)})
    tf.saved_model.save(
        module, str(folder), signatures={"serving_default": function.get_concrete_function(**signature)}
    )
    _make_canonical(folder)


def _make_canonical(folder: Path) -> None:
    """Renumber functions, whose names hold a counter of the whole process, and drop the file with a random id."""
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    text = text_format.MessageToString(model)
    numbers = sorted({int(match.group(2)) for match in _FUNCTION.finditer(text)})
    place = {number: index for index, number in enumerate(numbers)}
    text = _FUNCTION.sub(lambda match: f"{match.group(1)}{place[int(match.group(2))]:06d}", text)
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    for graph in model.meta_graphs:
        functions = sorted(graph.graph_def.library.function, key=lambda function: function.signature.name)
        del graph.graph_def.library.function[:]
        graph.graph_def.library.function.extend(functions)
    path.write_bytes(model.SerializeToString(deterministic=True))


def catalogue_vectors(dataset: DatasetFolder, tower: Embedder) -> np.ndarray:
    """Vectors of every item, row = id - 3, `[items, dim] float32`; point-in-time fields as of the end of the data."""
    static = item_inputs(dataset, tower.inputs)
    if set(tower.inputs) <= set(static):
        return tower(static)
    from recsys.encoding.point_in_time import point_in_time_of

    events = Events.read(dataset).by_time()
    always = np.zeros(len(dataset.items), np.int64)
    refresh = ItemRefresh(tower, static, point_in_time_of(dataset), events, always)
    return refresh.vectors(int(events.times[-1]) + 1, np.zeros((len(dataset.items), 1), np.float32))


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Write `vectors.npy`, `[items, dim] float32`."""
    np.save(path, np.ascontiguousarray(vectors, np.float32))
