"""The ranker as a SavedModel: probabilities and named activations of all candidates of a request in one call."""

from collections.abc import Mapping
from pathlib import Path

from recsys._tensorflow import tf
from recsys.ranking.calibration import Calibration
from recsys.ranking.calibration_layer import apply_calibration
from recsys.ranking.model import Ranker, signature
from recsys.retrieval.reproducible import settle_saved_model


def export_ranker(model: Ranker, calibration: Calibration, neutral: Mapping[str, int], folder: Path) -> None:
    """Write the SavedModel with the signature `serving_default`: inputs by column name, a row a candidate.

    Outputs, all float32 and batch first: `probability` (calibrated) and `logit` (as it was before) `[batch]`,
    `encoded`, `first_hidden` and `last_hidden` `[batch, any]`. `neutral` columns (the position) are no inputs: their
    ids are fixed. Equal rankers give equal bytes.
    """
    inputs = {name: spec for name, spec in signature(model.spec).items() if name not in neutral}

    def score(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(next(iter(features.values())))[0]
        fixed = {name: tf.fill([rows], tf.constant(value, tf.int32)) for name, value in neutral.items()}
        scored = model({**features, **fixed})
        return {
            "probability": apply_calibration(calibration, scored.logits),
            "logit": scored.logits,
            "encoded": scored.encoded,
            "first_hidden": scored.first_hidden,
            "last_hidden": scored.last_hidden,
        }

    module = tf.Module()
    module.weights = list(model.variables)
    function = tf.function(score).get_concrete_function(**inputs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    settle_saved_model(folder)
