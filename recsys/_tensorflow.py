"""The one place that imports TensorFlow: `from recsys._tensorflow import keras, tf`.

TensorFlow Recommenders needs Keras 2 (tf_keras), which TensorFlow must be told of before its first import. Import this
module only where TensorFlow is used (job modules, or inside a function): it takes seconds.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError("TensorFlow was imported before recsys._tensorflow, so Keras 2 cannot be chosen any more.")
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to file descriptor 2: TensorFlow's C++ side logs at start whatever it is told."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


with _silent_stderr():
    import tensorflow as tf
    import tf_keras as keras

    for _gpu in tf.config.list_physical_devices("GPU"):  # starts the C++ side, which logs once
        # Memory as it is needed, not the whole card; too late where someone has used the card before.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(_gpu, True)

tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
