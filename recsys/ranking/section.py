"""The ranker's section of the report, as HTML to be put into a page."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from recsys.ranking import plots
from recsys.ranking.evaluation import RAREST
from recsys.ranking.selection import SET_LABELS

TEMPLATE = "section.html.j2"

FIGURE_NAMES = {
    "auc": "AUC",
    "gauc": "AUC within users",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "ndcg": "NDCG of the shown lists",
    "predicted_over_observed": "predicted over observed",
}
"""Figures of `measure_shown` for people, in the order of the table."""


def ranking_section(ranking: Mapping[str, Any]) -> Markup:
    """The section for what `evaluate_shown` measured.

    `ranking` also names its `split`, and may hold `sets` (see `plots.ratio_against_auc`; their AUC is of
    `sets_split`), `fields` (`values` and `kept` by field), `values`, `rows`, `bytes` and `live` as `ranking.json` has
    them, and `truth` (`recsys.ranking.truth.against_truth`).
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=ChainableUndefined,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": lambda value: f"{value:,}", "moment": _moment}
    truth = (ranking.get("truth") or {}).get("calibration", ())
    deciles = ranking.get("by_frequency") or {}
    page = environment.get_template(TEMPLATE).render(
        ranking=ranking,
        figure_names=FIGURE_NAMES,
        set_labels=SET_LABELS,
        rarest=deciles.get(RAREST),
        ratio_part=str(ranking.get("sets_split", "validation")).capitalize(),
        ranking_plots={
            "reliability": Markup(plots.reliability_curve(ranking["reliability"], truth)),
            "ratio": Markup(plots.ratio_against_auc(ranking["sets"])) if ranking.get("sets") else None,
            "deciles": Markup(plots.by_decile(deciles, "auc")) if deciles else None,
            "time": Markup(plots.by_time(ranking["by_time"], "auc")) if ranking["by_time"] else None,
        },
    )
    return Markup(page)


def _moment(time: int) -> str:
    """Milliseconds since 1970 as a date and time in UTC."""
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%d %H:%M")
