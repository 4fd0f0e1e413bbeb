"""Exported towers as functions: values, batching, and errors that name the place."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.scoring.towers import Tower, load_tower

ROWS, WIDTH = 11, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel with the contract's signature: vector = normalise([user, sum of history, numeric] @ weights)."""
    from recsys._tensorflow import tf

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.random.stateless_normal((3, 5), seed=(1, 2)))

        @tf.function(
            input_signature=[
                {
                    "user": tf.TensorSpec([None], tf.int32, "user"),
                    "history": tf.TensorSpec([None, WIDTH], tf.int32, "history"),
                    "age": tf.TensorSpec([None], tf.float32, "age"),
                }
            ]
        )
        def serve(self, inputs):  # type: ignore[no-untyped-def]
            columns = [
                tf.cast(inputs["user"], tf.float32),
                tf.cast(tf.reduce_sum(inputs["history"], 1), tf.float32),
                inputs["age"],
            ]
            return {"vector": tf.math.l2_normalize(tf.stack(columns, 1) @ self.weights, axis=1)}

    path = tmp_path_factory.mktemp("tower") / "query_tower"
    module = Module()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    np.save(path.parent / "weights.npy", module.weights.numpy())
    return path


@pytest.fixture(scope="module")
def tower(folder: Path) -> Tower:
    return load_tower(folder)


def rows(count: int = ROWS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "user": random.integers(3, 9, count).astype(np.int64),  # not the tower's dtype: it is cast
        "history": random.integers(0, 9, (count, WIDTH)),
        "age": random.random(count),
        "not an input": np.zeros(1),
    }


def test_vectors_equal_plain_numpy(folder: Path, tower: Tower) -> None:
    arrays = rows()
    weights = np.load(folder.parent / "weights.npy").astype(np.float64)
    plain = np.stack([arrays["user"], arrays["history"].sum(1), arrays["age"]], 1) @ weights
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(tower(arrays), plain, rtol=1e-5)
    assert tower.dimension == 5 and tower.widths == {"user": None, "history": WIDTH, "age": None}


@pytest.mark.parametrize("batch_size", [1, 3, ROWS, 1000])
def test_batches_do_not_change_vectors_or_their_order(tower: Tower, batch_size: int) -> None:
    np.testing.assert_allclose(tower(rows(), batch_size=batch_size), tower(rows()), rtol=1e-6)


def test_no_rows_give_no_vectors(tower: Tower) -> None:
    assert tower(rows(0)).shape == (0, 5)


def test_wrong_inputs_are_named(tower: Tower) -> None:
    arrays = rows()
    with pytest.raises(UserError, match="reads the column 'age'"):
        tower({"user": arrays["user"], "history": arrays["history"]})
    with pytest.raises(UserError, match=r"'history' has shape \[11, 3\], expected \[rows, 4\]"):
        tower({**arrays, "history": arrays["history"][:, :3]})
    with pytest.raises(UserError, match=r"different numbers of rows.*'age': 10"):
        tower({**arrays, "age": arrays["age"][:10]})


@pytest.mark.parametrize(
    "victim", ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"]
)
def test_truncated_saved_model_is_a_user_error(folder: Path, tmp_path: Path, victim: str) -> None:
    import shutil

    broken = tmp_path / "query_tower"
    shutil.copytree(folder, broken)
    file = broken / victim
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"query_tower: not a readable SavedModel.*train the model again"):
        load_tower(broken)


def test_missing_saved_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no saved_model\.pb"):
        load_tower(tmp_path)
