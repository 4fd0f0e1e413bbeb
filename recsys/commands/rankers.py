"""What a ranking job ended with, as it is said on the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.commands.common import notes


def print_ranker(folder: Path) -> None:
    """Validation AUC of the ranker and of the sets tried beside it, what pruning left, and the latency."""
    from recsys.artifacts import latency_file

    report = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    latency = latency_file(folder)
    timed = json.loads(latency.read_text(encoding="utf-8")) if latency.is_file() else {}
    for line in described(report, timed):
        notes.print(line, soft_wrap=True, markup=False)


def described(report: Mapping[str, Any], latency: Mapping[str, Any]) -> list[str]:
    """The lines for a `ranking.json` and a latency file (empty: not measured)."""
    chosen = next(one for one in report["sets"] if one["chosen"])
    lines = [f"Ranker {report['backbone']}, {_named(chosen)}"]
    lines += [f"  beside it {_named(one)}" for one in report["sets"] if not one["chosen"]]
    if chosen["name"] == "search":
        values, rows, size, live = (report[name] for name in ("values", "rows", "bytes", "live"))
        lines.append(
            f"  pruned: {values['seen']:,} → {values['kept']:,} values, {rows['before']:,} → {rows['after']:,} rows, "
            f"{size['before']:,} → {size['after']:,} bytes, {live['before']['interactions']:.1f} → "
            f"{live['after']['interactions']:.1f} live interactions a sample"
        )
        lines.append(f"  closed fields: {', '.join(report['closed_fields']) or 'none'}")
    if latency:
        times = [f"{latency[name]['p99_ms']:.1f}" for name in ("before", "after") if name in latency]
        lines.append(f"  {latency['candidates']} candidates: p99 {' → '.join(times)} ms")
    return lines


def _named(one: Mapping[str, Any]) -> str:
    from recsys.ranking.selection import SET_LABELS

    kappa = f" at kappa {one['kappa']:g}" if one["kappa"] is not None else ""
    judged = "not judged" if one["validation_auc"] is None else f"validation AUC {one['validation_auc']:.4f}"
    tasks = "".join(f", {task} {value:.4f}" for task, value in one.get("task_auc", {}).items())
    kept = "" if one["name"] == "backbone" else f", {100 * one['kept_ratio']:.3g} % of the values"
    return f"{SET_LABELS.get(one['name'], one['name'])}{kappa}: {judged}{tasks}{kept}"
