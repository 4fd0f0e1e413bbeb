"""The ranker as a SavedModel: probabilities and named activations of all candidates of a request in one call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys._tensorflow import tf
from recsys.ranking.calibration import Calibration
from recsys.ranking.calibration_layer import apply_calibration
from recsys.ranking.model import Ranker, signature
from recsys.ranking.tasks import CalibratedTask
from recsys.retrieval.reproducible import settle_saved_model


def export_ranker(
    model: Ranker,
    calibration: Calibration,
    neutral: Mapping[str, int],
    folder: Path,
    tasks: Mapping[str, CalibratedTask] | None = None,
) -> None:
    """Write the SavedModel with the signature `serving_default`: inputs by column name, a row a candidate.

    Outputs, all float32 and batch first: `probability` (calibrated) and `logit` (as it was before) `[batch]`,
    `encoded`, `first_hidden` and `last_hidden` `[batch, any]`. `neutral` columns (the position) are no inputs: their
    ids are fixed. Equal rankers give equal bytes.

    Each of `tasks` adds `probability_<task>` and `logit_<task>` `[batch]`. Of a task of clicks the logit is given the
    click and the probability is that of both: P(click) x P(outcome | click), as in ESMM (Ma et al., SIGIR 2018).
    """
    module = tf.Module()
    module.weights = list(model.variables)
    function = scoring_function(model, calibration, neutral, tasks)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={"serving_default": function},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    settle_saved_model(folder)


def scoring_function(
    model: Ranker,
    calibration: Calibration,
    neutral: Mapping[str, int],
    tasks: Mapping[str, CalibratedTask] | None = None,
) -> Any:
    """What `export_ranker` writes, as a concrete function of columns by name."""
    inputs = {name: spec for name, spec in signature(model.spec).items() if name not in neutral}

    def score(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(next(iter(features.values())))[0]
        fixed = {name: tf.fill([rows], tf.constant(value, tf.int32)) for name, value in neutral.items()}
        scored = model({**features, **fixed})
        found = {
            "probability": apply_calibration(calibration, scored.logits),
            "logit": scored.logits,
            "encoded": scored.encoded,
            "first_hidden": scored.first_hidden,
            "last_hidden": scored.last_hidden,
        }
        for name, task in (tasks or {}).items():
            chance = apply_calibration(task.calibration, scored.tasks[name])
            found[f"probability_{name}"] = found["probability"] * chance if task.of_clicks else chance
            found[f"logit_{name}"] = scored.tasks[name]
        return found

    return tf.function(score).get_concrete_function(**inputs)
