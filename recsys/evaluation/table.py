"""The table of an evaluation, as it is printed after `recsys evaluate` and `recsys run`."""

from typing import Any

from rich.table import Table

from recsys.evaluation.slices import OVERALL

SECOND = "two_stage"
"""The name of our second stage, the ranker behind retrieval, among the models."""

LABELS = {
    "two_tower": "two-tower (ours)",
    SECOND: "two-tower, then ranker",
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "item_transitions": "item transitions",
    "item_knn": "item-kNN",
    "als": "ALS",
    "bpr": "BPR",
    "ease": "EASE",
    "tutorial": "TFRS tutorial",
}
"""Names of models for people, by their names in metrics.json."""


def label(name: str) -> str:
    """A model's name for people."""
    return LABELS.get(name, name)


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Models as rows, the best value of each column in bold; `metrics` is what metrics.json holds."""
    k = metrics["main_k"]
    columns = [
        (f"recall@{k}", OVERALL, f"recall@{k}"),
        (f"NDCG@{k}", OVERALL, f"ndcg@{k}"),
        (f"MRR@{k}", OVERALL, f"mrr@{k}"),
        (f"recall@{k}\nnew users", "new_users", f"recall@{k}"),
        (f"recall@{k}\ntail items", "tail", f"recall@{k}"),
    ]
    columns = [one for one in columns if any(_value(figures, *one[1:]) is not None for figures in _models(metrics))]
    data, protocol = metrics["data"], metrics["protocol"]
    table = Table(
        title=f"{protocol['split']}: {data['queries']:,} queries over {data['items']:,} items",
        caption="\n".join(f"{label(name)} left out: {reason}" for name, reason in metrics["left_out"].items()) or None,
    )
    table.add_column("model")
    for heading, *_ in columns:
        table.add_column(heading, justify="right")
    table.add_column(f"coverage@{k}", justify="right")
    best = {
        heading: max(v for figures in _models(metrics) if (v := _value(figures, *place)) is not None)
        for heading, *place in columns
    }
    for name, figures in metrics["models"].items():
        cells = []
        for heading, *place in columns:
            value = _value(figures, *place)
            text = "–" if value is None else f"{value:.4f}"
            cells.append(f"[bold]{text}[/bold]" if value == best[heading] else text)
        covered = f"{figures['catalogue'][str(k)]['coverage']:.1%}"
        table.add_row(label(name), *cells, covered, style="cyan" if name == metrics["ours"] else None)
    return table


def _models(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return list(metrics["models"].values())


def _value(figures: dict[str, Any], slice_name: str, metric: str) -> float | None:
    found = figures["slices"].get(slice_name, {}).get(metric)
    return None if found is None else found["value"]
