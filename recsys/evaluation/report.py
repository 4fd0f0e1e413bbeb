"""report.html: one self-contained file that a person likes to read."""

import json
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recsys.artifacts import Artifact
from recsys.evaluation import plots
from recsys.evaluation.slices import ITEM_SLICES, OVERALL, USER_SLICES
from recsys.evaluation.table import SECOND, label
from recsys.ranking.section import ranking_section

TEMPLATE = "report.html.j2"


def write_report(path: Path, metrics: dict[str, Any], bundle: Artifact) -> None:
    """Render metrics.json's content and the bundle's training and index records into one HTML file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": label, "number": lambda value: f"{value:,}", "yaml": _yaml}
    k = metrics["main_k"]
    training = _read(bundle.path / "model" / "training.json")
    epochs = training.get("epochs") or []
    page = environment.get_template(TEMPLATE).render(
        metrics=metrics,
        k=k,
        ks=[int(value) for value in metrics["models"][metrics["ours"]]["catalogue"]],
        slices=[OVERALL, *USER_SLICES, *ITEM_SLICES],
        # With one target a query, recall and hit rate are the same number.
        shown=["recall", "ndcg", "mrr", *(["hit_rate"] if metrics["protocol"]["protocol"] == "user" else [])],
        slice_labels=plots.SLICE_LABELS,
        second=SECOND if SECOND in metrics["models"] else None,
        ranking=ranking_section(metrics["ranking"]) if metrics.get("ranking") else None,
        index=_read(bundle.path / "index" / "index.json"),
        plots={
            "curve": Markup(plots.recall_against_k(metrics)),
            "recall": Markup(plots.intervals(metrics, f"recall@{k}")),
            "ndcg": Markup(plots.intervals(metrics, f"ndcg@{k}")),
            "slices": Markup(plots.by_slice(metrics, f"recall@{k}")),
            "exposure": Markup(plots.exposure(metrics)),
            "training": Markup(plots.training_curves(epochs)) if epochs else None,
        },
    )
    path.write_text(page, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip()
