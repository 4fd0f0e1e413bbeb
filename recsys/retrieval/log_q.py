"""The sampling correction of a step: logQ of every candidate, from whichever estimate is configured."""

from collections.abc import Mapping

import numpy as np

from recsys._tensorflow import tf
from recsys.config.train import LossConfig
from recsys.retrieval.frequencies import (
    SMALLEST,
    StreamingFrequencies,
    expected_counts,
    occurrences,
    recent_occurrences,
)


class LogQ(tf.Module):
    """The correction of each candidate: log of its expected count among the candidates of a step, times a strength.

    In-batch items come from the training distribution, uniform negatives add `uniform / catalogue` to every item's
    expected count (Yang et al. 2020, as worked out in T. Yao et al., section 2.2).
    """

    def __init__(
        self, config: LossConfig, counts: np.ndarray, catalogue_items: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(name="log_q")
        self.strength = config.log_q_strength if config.frequencies != "none" else 0.0
        self.extra = config.uniform_negatives / max(1, catalogue_items)
        self.counted = config.frequencies == "batch"
        self.recent = config.recent
        self.streaming = (
            StreamingFrequencies(config.streaming, first_gap=max(1.0, catalogue_items / batch_size), seed=seed)
            if config.frequencies == "streaming"
            else None
        )
        self.exact = tf.constant(expected_counts(counts, batch_size)) if config.frequencies == "exact" else None

    def update(self, items: tf.Tensor) -> None:
        """Show a batch's positives to the streaming estimator."""
        if self.streaming is not None:
            self.streaming.update(items)

    def __call__(
        self, candidates: tf.Tensor, positives: tf.Tensor, columns: Mapping[str, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """logQ of candidate item ids, `[candidates] float32`; `positives` are the ids of the batch's own items.

        `columns` are the candidates' inputs of the item tower, which `frequencies: recent` reads.
        """
        if self.recent is not None and columns is not None:
            expected = recent_occurrences(candidates, columns[self.recent.field] + self.recent.floor)
        elif self.streaming is not None:
            expected = self.streaming.probabilities(candidates)
        elif self.exact is not None:
            expected = tf.gather(self.exact, candidates)
        elif self.counted:
            expected = occurrences(candidates, positives)
        else:
            return tf.zeros(tf.shape(candidates))
        return self.strength * tf.math.log(tf.maximum(expected + self.extra, SMALLEST))
