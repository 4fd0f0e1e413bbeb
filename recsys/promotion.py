"""What a bundle must prove before it becomes current: that its ranker is calibrated behind its retrieval model.

A ranker learns from what one retrieval model let through. Behind another one it meets other candidates (and, where it
reads the retrieval score, other scores), so its probabilities are measured again before they are trusted. The evidence
is measured at evaluation and published with the bundle; here are only numbers, no models.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.config.promote import CalibrationConfig

SAW = "ranker_retrieval_model"
"""The bundle manifest's entry for the retrieval model that its ranker was trained beside."""


def calibration_evidence(ranking: Mapping[str, Any] | None, bounds: "CalibrationConfig | None") -> dict[str, Any]:
    """What `registry.publish` keeps of an evaluation, JSON-able.

    `ranking` is the evaluation's entry of that name: None where the impressions had one label only.
    """
    evidence: dict[str, Any] = {"bounds": None if bounds is None else bounds.model_dump(mode="json")}
    if ranking is None:
        return evidence
    overall = ranking["overall"]
    rows = (ranking.get("position") or overall)["rows"]
    error = overall.get("calibration_error") or {}
    return evidence | {
        "split": ranking["split"],
        "rows": rows,
        "predicted_over_observed": (overall.get("predicted_over_observed") or {}).get("value"),
        "calibration_error": error.get("value"),
        "calibration_error_by_chance": error.get("by_chance"),
    }


def calibration_problem(manifest: Mapping[str, Any], evidence: Mapping[str, Any] | None) -> str | None:
    """Why a bundle with this manifest may not become current, with the figures; None where nothing speaks against it.

    Only bundles whose ranker was trained beside another retrieval model (or an unknown one) have to prove anything.
    """
    if "ranker" not in manifest or SAW not in manifest or manifest[SAW] == manifest.get("model"):
        return None
    what = (
        f"its ranker {manifest['ranker']} was trained beside retrieval model {manifest[SAW] or '(unknown)'}, and now "
        f"stands behind {manifest.get('model')}"
    )
    if evidence is None:
        return f"{what}, where its calibration was never measured (evaluate the bundle with 'recsys evaluate')"
    bounds = evidence["bounds"]
    if bounds is None:
        return None
    ratio, error = evidence.get("predicted_over_observed"), evidence.get("calibration_error")
    if ratio is None or error is None:
        return f"{what}, where there are no impressions with and without clicks to measure its calibration on"
    low, high = bounds["predicted_over_observed"]
    chance, most = evidence["calibration_error_by_chance"], bounds["calibration_error"]
    if low <= ratio <= high and error - chance <= most:
        return None
    return (
        f"{what}, where it is not calibrated: on {evidence['rows']:,} {evidence['split']} impressions predicted over "
        f"observed clicks is {ratio:.3f} (expected {low:g} to {high:g}), the calibration error {error:.4f}, by chance "
        f"alone {chance:.4f} (expected at most {most:g} above that)"
    )
