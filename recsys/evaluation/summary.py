"""What metrics.json says besides the figures of each model: the protocol, the data, and how the models compare."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.artifacts import Artifact
from recsys.config.evaluate import EvaluateConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.measure import Measured, difference
from recsys.evaluation.queries import MS_A_MINUTE, Queries, lag_of, protocol_of, refresh_ms
from recsys.evaluation.slices import OVERALL


def headline(ours: Measured) -> dict[str, float]:
    """Flat overall figures of our model, for the registry: `{"recall@50": 0.4, ...}`."""
    overall = ours.figures["slices"][OVERALL]
    return {name: figure["value"] for name, figure in overall.items() if "@" in name}


def comparison(measured: dict[str, Measured], ours: str, second: str, config: EvaluateConfig) -> dict[str, Any]:
    """The best baseline by recall at `main_k`, and by how much our model differs from each baseline.

    `second` names our second stage, which is no baseline but is compared too, where it was measured.
    """
    main = f"recall@{config.main_k}"
    values = {name: headline(one)[main] for name, one in measured.items() if name != ours}
    baselines = {name: value for name, value in values.items() if name != second}
    return {
        "ours": ours,
        "main_k": config.main_k,
        "best_baseline": max(baselines, key=baselines.__getitem__) if baselines else None,
        "differences": {
            name: {
                metric: difference(measured[ours], measured[name], metric, config.confidence)
                for metric in (main, f"ndcg@{config.main_k}")
            }
            for name in values
        },
    }


def context(
    dataset: DatasetFolder, config: EvaluateConfig, queries: Queries, fit_on: Sequence[str], bundle: Artifact
) -> dict[str, Any]:
    """The resolved protocol, counts of the data, and the configuration of evaluation, model and training.

    `fit_on` names the parts that the baselines were fitted on.
    """
    protocol, exclude, candidates = protocol_of(dataset, config)
    model = json.loads((bundle.path / "model" / "manifest.json").read_text(encoding="utf-8"))
    return {
        "protocol": {
            "split": config.split,
            "protocol": protocol,
            "exclude_seen": exclude,
            "candidates": candidates,
            "refresh_minutes": refresh_ms(dataset, config) / MS_A_MINUTE if protocol == "event" else None,
            "lag_ms": lag_of(dataset),
            "fit_on": list(fit_on),
        },
        "data": {
            "dataset": dataset.artifact.artifact_id,
            "bundle": bundle.artifact_id,
            "users": len(dataset.users),
            "items": len(dataset.items),
            "rows": dataset.manifest.get("rows", {}),
            "queries": len(queries),
            "users_asking": len(np.unique(queries.users)),
            "targets": int((queries.targets.stop - queries.targets.start).sum()),
            "left_out_already_seen": queries.left_out,
        },
        "configuration": {
            "evaluate": config.model_dump(mode="json"),
            "index": bundle.manifest.get("index", {}),
            "model": model.get("model", {}),
            "train": model.get("train", {}),
        },
    }
