"""The ranker under training as a function from arrays to logits, in batches."""

from collections.abc import Mapping

import numpy as np

from recsys._tensorflow import tf
from recsys.ranking.model import Ranker, signature
from recsys.ranking.tasks import CLICK


class LiveRanker:
    """A ranker as it is now. `inputs` are the columns that it reads."""

    def __init__(self, model: Ranker, batch_size: int = 8192) -> None:
        self.model, self.batch_size = model, batch_size
        form = signature(model.spec)
        self.inputs = tuple(form)
        self._dtypes = {name: one.dtype for name, one in form.items()}
        self._function = tf.function(self._logits, input_signature=[form])

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The click's logits `[rows] float32` of columns by name; those that the ranker does not read are ignored."""
        return self.every(arrays)[CLICK]

    def every(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The logits `[rows] float32` of each task, `click` first."""
        rows = len(arrays[self.inputs[0]])
        logits = {name: np.empty(rows, np.float32) for name in (CLICK, *self.model.spec.tasks)}
        for start in range(0, rows, self.batch_size):
            stop = start + self.batch_size
            part = {name: tf.constant(arrays[name][start:stop], dtype) for name, dtype in self._dtypes.items()}
            for name, values in self._function(part).items():
                logits[name][start:stop] = values.numpy()
        return logits

    def _logits(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        scored = self.model(features)
        return {CLICK: scored.logits, **scored.tasks}
