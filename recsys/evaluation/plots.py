"""The report's plots, as SVG text to be put inline: no scripts, no external files."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recsys.evaluation.slices import ITEM_SLICES, OVERALL, USER_SLICES
from recsys.evaluation.table import label

OURS_COLOUR = "#0b5fff"
COLOURS = ("#e07b00", "#2a9d4a", "#b5179e", "#7a5cc9", "#a2682a", "#d62839", "#4d7c8a", "#6b705c")
CLASS_COLOURS = ("#1d3557", "#457b9d", "#a8c5da", "#f4a261")
INK = "#333333"
SLICE_LABELS = {
    OVERALL: "overall",
    "known_users": "known users",
    "new_users": "new users",
    "head": "head items",
    "torso": "torso items",
    "tail": "tail items",
    "new_items": "new items",
}

RC: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#bbbbbb",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "recsys",
}


def colours(metrics: dict[str, Any]) -> dict[str, str]:
    """A colour for each model, the same in all plots."""
    others = [name for name in metrics["models"] if name != metrics["ours"]]
    return {metrics["ours"]: OURS_COLOUR} | {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(others)}


def draw(width: float, height: float, paint: Callable[[Axes], None]) -> str:
    """An SVG of one pair of axes, in inches."""
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        paint(axes)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return text[text.index("<svg") :]


def recall_against_k(metrics: dict[str, Any]) -> str:
    """Recall at every rank, a line a model."""
    shades = colours(metrics)

    def paint(axes: Axes) -> None:
        for name, figures in reversed(metrics["models"].items()):
            ours = name == metrics["ours"]
            curve = figures["curve"]
            axes.plot(
                np.arange(1, len(curve) + 1), curve, color=shades[name], lw=2.6 if ours else 1.4, label=label(name)
            )
        axes.set_xlabel("k")
        axes.set_ylabel("recall@k")
        axes.set_xlim(1)
        axes.set_ylim(0)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=9)

    return draw(7.2, 4.4, paint)


def intervals(metrics: dict[str, Any], metric: str, slices: Sequence[str] = (OVERALL, *USER_SLICES)) -> str:
    """One metric with its confidence interval, a row a model and a mark a slice."""
    present = [name for name in slices if _figure(metrics, metrics["ours"], name, metric)]
    names = list(metrics["models"])
    marks = dict(zip(slices, ("o", "s", "^"), strict=False))
    offsets = np.linspace(-0.2, 0.2, len(present)) if len(present) > 1 else [0.0]
    shades = colours(metrics)

    def paint(axes: Axes) -> None:
        for offset, slice_name in zip(offsets, present, strict=True):
            for row, name in enumerate(names):
                figure = _figure(metrics, name, slice_name, metric)
                if figure is None:
                    continue
                low, high = figure.get("low", figure["value"]), figure.get("high", figure["value"])
                axes.plot([low, high], [row + offset] * 2, color=shades[name], lw=1.6, alpha=0.6)
                axes.plot(
                    figure["value"],
                    row + offset,
                    marks[slice_name],
                    color=shades[name],
                    ms=6,
                    mfc=shades[name] if slice_name == OVERALL else "white",
                )
        for slice_name in present:
            axes.plot(
                [],
                [],
                marks[slice_name],
                color=INK,
                mfc=INK if slice_name == OVERALL else "white",
                label=SLICE_LABELS[slice_name],
            )
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(metric.replace("ndcg", "NDCG"))
        if len(present) > 1:
            axes.legend(frameon=False, fontsize=9, loc="best")

    return draw(5.8, 1.1 + 0.45 * len(names), paint)


def by_slice(metrics: dict[str, Any], metric: str) -> str:
    """One metric in every slice, a group of bars a slice and a bar a model."""
    names = list(metrics["models"])
    slices = [name for name in (*USER_SLICES, *ITEM_SLICES) if _figure(metrics, metrics["ours"], name, metric)]
    shades = colours(metrics)
    width = 0.82 / max(len(names), 1)

    def paint(axes: Axes) -> None:
        for place, name in enumerate(names):
            values = [(_figure(metrics, name, one, metric) or {"value": 0.0})["value"] for one in slices]
            left = np.arange(len(slices)) - 0.41 + (place + 0.5) * width
            axes.bar(left, values, width * 0.92, color=shades[name], label=label(name))
        sizes = metrics["models"][metrics["ours"]]["slices"]
        axes.set_xticks(
            range(len(slices)), [f"{SLICE_LABELS[one]}\n{sizes[one]['queries']:,} queries" for one in slices]
        )
        axes.set_ylabel(metric)
        axes.grid(axis="x", visible=False)
        axes.legend(frameon=False, fontsize=9, ncols=2)

    return draw(1.6 + 1.5 * max(len(slices), 3), 4.0, paint)


def exposure(metrics: dict[str, Any]) -> str:
    """What share of the recommendations goes to head, torso, tail and new items, beside what people chose."""
    slices = metrics["models"][metrics["ours"]]["slices"]
    targets = np.array([slices[name].get("targets", 0) for name in ITEM_SLICES], float)
    rows = {"what people chose": targets / max(targets.sum(), 1)}
    rows |= {
        label(name): np.array([figures["exposure"][one] for one in ITEM_SLICES])
        for name, figures in metrics["models"].items()
    }

    def paint(axes: Axes) -> None:
        table = np.array(list(rows.values()))
        starts = np.cumsum(table, axis=1) - table
        for place, name in enumerate(ITEM_SLICES):
            axes.barh(
                range(len(rows)),
                table[:, place],
                left=starts[:, place],
                height=0.66,
                color=CLASS_COLOURS[place],
                label=SLICE_LABELS[name],
            )
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.1))

    return draw(7.2, 1.2 + 0.42 * len(rows), paint)


def training_curves(epochs: Sequence[dict[str, float]]) -> str:
    """Loss by epoch, and each validation metric beside it on an axis of its own."""
    numbers = np.arange(1, len(epochs) + 1)
    metrics = sorted({key for row in epochs for key in row if "@" in key})

    def paint(axes: Axes) -> None:
        loss = [row.get("loss", np.nan) for row in epochs]
        lines = axes.plot(numbers, loss, color=INK, marker=".", label="training loss")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if metrics:
            right = axes.twinx()
            right.spines["top"].set_visible(False)
            for colour, key in zip((OURS_COLOUR, *COLOURS), metrics, strict=False):
                values = [row.get(key, np.nan) for row in epochs]
                lines += right.plot(numbers, values, color=colour, marker=".", label=f"validation {key}")
            right.set_ylim(0)
            right.set_ylabel("validation")
        axes.legend(handles=lines, frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return draw(7.2, 3.8, paint)


def _figure(metrics: dict[str, Any], model: str, slice_name: str, metric: str) -> dict[str, float] | None:
    return metrics["models"][model]["slices"].get(slice_name, {}).get(metric)
