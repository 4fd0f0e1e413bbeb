"""A bundle of the tiny data set whose towers are written by hand, so that its answers are known without training.

An item's vector is its block (even or odd) and a little of its own; a query's is the mean of its history's items, or
without a history the block of its club (even users are in club a). So a user of the even block gets even items.
"""

import json
from pathlib import Path

import numpy as np

from recsys.artifacts import write_artifact
from recsys.config.index import IndexConfig
from recsys.dataset_folder import DatasetFolder
from recsys.index.job import build_bundle
from recsys.schema import FIRST_VALUE_ID


def item_vectors(dataset: DatasetFolder, dimension: int = 8) -> np.ndarray:
    """`[items, dimension] float32`, normalised: column 0 or 1 says the block."""
    own = np.random.default_rng(3).normal(0, 0.1, (len(dataset.items), dimension))
    odd = np.array([int(raw[1:]) % 2 for raw in dataset.items["raw"].to_pylist()])
    own[np.arange(len(odd)), odd] += 1
    return (own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32)


def write_tiny_model(dataset: DatasetFolder, path: Path) -> Path:
    """A model folder by contract whose query tower pools the history."""
    from recsys._tensorflow import tf

    vectors = item_vectors(dataset)
    special = np.zeros((FIRST_VALUE_ID, vectors.shape[1]), np.float32)
    length = dataset.schema.field("history").length

    class Query(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(np.concatenate([special, vectors]))

        @tf.function(
            input_signature=[
                {
                    "user": tf.TensorSpec([None], tf.int32, "user"),
                    "club": tf.TensorSpec([None], tf.int32, "club"),
                    "device": tf.TensorSpec([None], tf.int32, "device"),
                    "history": tf.TensorSpec([None, length], tf.int32, "history"),
                }
            ]
        )
        def serve(self, inputs):  # type: ignore[no-untyped-def]
            pooled = tf.reduce_sum(tf.gather(self.table, inputs["history"]), 1)
            club = tf.one_hot(inputs["club"] - FIRST_VALUE_ID, vectors.shape[1])
            known = tf.reduce_any(inputs["history"] >= FIRST_VALUE_ID, 1, keepdims=True)
            return {"vector": tf.math.l2_normalize(tf.where(known, pooled, club), axis=1)}

    class Item(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(np.concatenate([special, vectors]))

        @tf.function(input_signature=[{"item": tf.TensorSpec([None], tf.int32, "item")}])
        def serve(self, inputs):  # type: ignore[no-untyped-def]
            return {"vector": tf.gather(self.table, inputs["item"])}

    with write_artifact(path, "model", 1, {"dataset": dataset.artifact.artifact_id}) as folder:
        for name, tower in (("query_tower", Query()), ("item_tower", Item())):
            tf.saved_model.save(tower, str(folder / name), signatures={"serving_default": tower.serve})
        np.save(folder / "vectors.npy", vectors)
        (folder / "schema.json").write_text(dataset.schema.model_dump_json())
        representation = {"epoch": "tiny", "dimension": vectors.shape[1], "normalised": True, "temperature": 0.1}
        (folder / "representation.json").write_text(json.dumps(representation))
        (folder / "training.json").write_text("{}")
    return path


def write_tiny_bundle(dataset: Path, folder: Path) -> Path:
    """Write the model and the bundle into `folder`; returns the bundle's path."""
    opened = DatasetFolder.open(dataset)
    model = write_tiny_model(opened, folder / "model")
    return build_bundle(opened, model, IndexConfig(type="flat"), folder / "bundle", quiet=True).path
