"""Plots of a ranker's evaluation, as SVG text to be put inline."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from recsys.evaluation.plots import COLOURS, INK, OURS_COLOUR, draw
from recsys.ranking.selection import SET_LABELS


def reliability_curve(points: Sequence[Mapping[str, float]], truth: Sequence[Mapping[str, float]] = ()) -> str:
    """Observed against predicted probability with intervals; `truth` adds the simulator's true mean in each bin."""

    def paint(axes: Axes) -> None:
        predicted = [point["predicted"] for point in points]
        top = 1.05 * max([*predicted, *(point["high"] for point in points)], default=1.0)
        axes.plot([0, top], [0, top], color="#bbbbbb", lw=1.2, label="perfect")
        for point in points:
            axes.plot([point["predicted"]] * 2, [point["low"], point["high"]], color=OURS_COLOUR, lw=1.4, alpha=0.5)
        axes.plot(
            predicted, [point["observed"] for point in points], color=OURS_COLOUR, marker="o", ms=5, label="observed"
        )
        if truth:
            axes.plot(
                [point["predicted"] for point in truth],
                [point["true"] for point in truth],
                color=COLOURS[0],
                marker="x",
                ls="",
                label="true",
            )
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share of positives")
        axes.legend(frameon=False, fontsize=9)

    return draw(4.8, 4.4, paint)


def ratio_against_auc(sets: Sequence[Mapping[str, Any]]) -> str:
    """AUC over the share of values kept, a line a way of choosing them; what was chosen is ringed.

    Each of `sets` has `name`, `kept_ratio`, `auc`, and may have `chosen`.
    """
    names = list(dict.fromkeys(one["name"] for one in sets))

    def paint(axes: Axes) -> None:
        for place, name in enumerate(names):
            found = sorted((one["kept_ratio"], one["auc"]) for one in sets if one["name"] == name)
            colour = OURS_COLOUR if name == "search" else INK if name == "backbone" else COLOURS[place % len(COLOURS)]
            ratios, values = zip(*found, strict=True)
            axes.plot(ratios, values, color=colour, marker="o", ms=5, lw=1.6, label=SET_LABELS.get(name, name))
            if name == "backbone":
                axes.axhline(max(values), color=colour, lw=1, ls=":")
        for one in sets:
            if one.get("chosen"):
                axes.plot(one["kept_ratio"], one["auc"], "o", ms=12, mfc="none", mec=OURS_COLOUR, mew=1.6)
        axes.set_xlim(0, 1.03)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("values kept")
        axes.set_ylabel("AUC")
        axes.legend(frameon=False, fontsize=9, loc="lower right")

    return draw(6.2, 4.0, paint)


def by_decile(groups: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> str:
    """One figure in each decile of the rows by how often a value was seen in training, a line a value."""

    def paint(axes: Axes) -> None:
        for colour, (name, deciles) in zip((OURS_COLOUR, *COLOURS), groups.items(), strict=False):
            there = [(place + 1, one[figure]["value"]) for place, one in enumerate(deciles) if figure in one]
            if there:
                places, values = zip(*there, strict=True)
                axes.plot(places, values, color=colour, marker="o", ms=4, lw=1.6, label=name)
        axes.set_xlabel("tenth of the impressions, rarest values first")
        axes.set_ylabel(figure.replace("_", " ").replace("auc", "AUC"))
        axes.set_xticks(range(1, 11))
        axes.legend(frameon=False, fontsize=9)

    return draw(6.2, 3.6, paint)


def by_time(slices: Sequence[Mapping[str, Any]], figure: str) -> str:
    """One figure in each slice of time with its interval."""

    def paint(axes: Axes) -> None:
        there = [(place, one[figure]) for place, one in enumerate(slices) if figure in one]
        for place, found in there:
            if "low" in found:
                axes.plot([place, place], [found["low"], found["high"]], color=OURS_COLOUR, lw=1.4, alpha=0.5)
        axes.plot(
            [place for place, _ in there], [one["value"] for _, one in there], color=OURS_COLOUR, marker="o", ms=5
        )
        axes.set_xlabel("slice of time")
        axes.set_ylabel(figure.replace("_", " ").replace("auc", "AUC"))

    return draw(6.2, 3.2, paint)
