"""Where training runs: CPU or GPU, by one configuration value."""

import contextlib
from collections.abc import Iterator

from recsys._tensorflow import tf
from recsys.config.base import Device
from recsys.errors import UserError


@contextlib.contextmanager
def on_device(device: Device, path: str) -> Iterator[None]:
    """Run what is inside on `device`; `path` is the configuration value's, for the error.

    `auto` and `gpu` leave the place of each operation to TensorFlow, which takes a GPU wherever there is one and the
    operation can run there. Raises UserError for `gpu` where TensorFlow finds none.
    """
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise UserError(
            f"{path}: 'gpu', but TensorFlow finds no GPU here. On a machine with an NVIDIA GPU 'make venv EXTRA=gpu' "
            "makes the environment with CUDA, and 'recsys doctor' says what is found; 'auto' trains on what there is."
        )
    with tf.device("/CPU:0") if device == "cpu" else contextlib.nullcontext():
        yield
