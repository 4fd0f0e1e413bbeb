"""How near the simulated shop is to real traffic: popularity, sessions and item life beside the Globo news clicks.

    python tools/compare_simulator.py --globo ../shared/data/globo-news/clicks

simulates configs/simulated-news.yaml, compares it with the real clicks, draws docs/simulator-popularity.png,
docs/simulator-sessions.png and docs/simulator-life.png and puts the figures into docs/simulator.md. Only sums and
curves of the real set are kept, none of its rows.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.config import load_config
from recsys.config.data import SimulatorSource
from recsys.datasets.columns import Wanted
from recsys.datasets.readers import FileReader, local
from recsys.datasets.simulator.write import write_simulation
from recsys.errors import UserError

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BEGIN, END = "<!-- comparison: written by tools/compare_simulator.py -->", "<!-- end of comparison -->"


@dataclass(frozen=True)
class Clicks:
    """Clicks as int64 arrays; `user`, `session` and `item` are codes from 0, `time` is ms."""

    user: np.ndarray
    session: np.ndarray
    item: np.ndarray
    time: np.ndarray


@dataclass(frozen=True)
class Marginal:
    """One distribution to compare: its name, unit and how to draw it."""

    title: str
    unit: str
    plot: str
    log: bool = True


MARGINALS = {
    "clicks_per_item": Marginal("Clicks per item", "clicks", "popularity"),
    "session_size": Marginal("Clicks per session", "clicks", "sessions"),
    "session_gap": Marginal("Gap between clicks of a session", "s", "sessions"),
    "sessions_per_user": Marginal("Sessions per user", "sessions", "sessions"),
    "age_at_click": Marginal("Age of an item when clicked", "h", "life"),
    "active_life": Marginal("First to last click of an item", "h", "life"),
}


def real_clicks(folder: Path) -> Clicks:
    """The Globo clicks."""
    columns = {"user": "user_id", "session": "session_id", "item": "click_article_id", "time": "click_timestamp"}
    reader = FileReader("--globo", local(folder, "clicks_hour_*.csv.gz"), Wanted(tuple(columns.items())))
    batches = [batch.table for shard in reader.shards() for batch in reader.read(shard)]
    return _clicks(pa.Table.from_batches(batches))


def simulated_clicks(config: SimulatorSource, seed: int) -> Clicks:
    """The clicks of a simulated shop, those of sessions with two clicks or more, as the real set holds no others."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        write_simulation(config, seed, raw)
        table = pq.read_table(raw / "clicks", columns=["user", "session", "item", "time"])
    counts = np.bincount(table["session"].to_numpy())
    return _clicks(table.filter(pa.array(counts[table["session"].to_numpy()] > 1)))


def _clicks(table: pa.Table) -> Clicks:
    codes = {
        name: pc.dictionary_encode(table[name].combine_chunks()).indices.to_numpy().astype(np.int64)
        for name in ("user", "session", "item")
    }
    return Clicks(**codes, time=pc.cast(table["time"], pa.int64()).to_numpy())


def marginals(clicks: Clicks) -> dict[str, np.ndarray]:
    """The values of each marginal, unsorted.

    Ages count from an item's first click; items clicked on the first day may be older and are left out, as are items
    with fewer than 10 clicks from the active life.
    """
    first = np.full(clicks.item.max() + 1, np.iinfo(np.int64).max)
    last = np.zeros(len(first), np.int64)
    np.minimum.at(first, clicks.item, clicks.time)
    np.maximum.at(last, clicks.item, clicks.time)
    counts = np.bincount(clicks.item)
    born_inside = first > clicks.time.min() + DAY_MS
    by_session = np.lexsort((clicks.time, clicks.session))
    same = np.diff(clicks.session[by_session]) == 0
    sessions = np.unique(np.stack([clicks.user, clicks.session]), axis=1)
    seen = born_inside[clicks.item]
    return {
        "clicks_per_item": counts,
        "session_size": np.bincount(clicks.session),
        "session_gap": np.diff(clicks.time[by_session])[same] / 1000.0,
        "sessions_per_user": np.bincount(sessions[0]),
        "age_at_click": (clicks.time[seen] - first[clicks.item[seen]]) / HOUR_MS,
        "active_life": (last - first)[born_inside & (counts >= 10)] / HOUR_MS,
    }


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of the two distribution functions, in [0, 1]."""
    left, right = np.sort(left), np.sort(right)
    points = np.union1d(left, right)
    below = [np.searchsorted(values, points, side="right") / len(values) for values in (left, right)]
    return float(np.abs(below[0] - below[1]).max())


def draw(real: dict[str, np.ndarray], simulated: dict[str, np.ndarray], folder: Path) -> None:
    """One PNG a group: distribution functions, and for popularity the curve of clicks by rank."""
    for plot in dict.fromkeys(marginal.plot for marginal in MARGINALS.values()):
        names = [name for name, marginal in MARGINALS.items() if marginal.plot == plot]
        extra = plot == "popularity"
        figure, axes = plt.subplots(1, len(names) + extra, figsize=(4 * (len(names) + extra), 3), squeeze=False)
        for axis, name in zip(axes[0], names, strict=False):
            for label, values in (("Globo", real[name]), ("simulator", simulated[name])):
                ordered = np.sort(values)
                kept = np.unique(np.linspace(0, len(ordered) - 1, 2000).astype(int))
                axis.step(np.maximum(ordered[kept], 1e-2), (kept + 1) / len(ordered), label=label, where="post")
            axis.set(title=MARGINALS[name].title, xlabel=MARGINALS[name].unit, ylabel="share at or below", xscale="log")
            axis.legend()
        if extra:
            for label, values in (("Globo", real[names[0]]), ("simulator", simulated[names[0]])):
                ordered = np.sort(values)[::-1]
                axes[0][-1].plot(np.arange(1, len(ordered) + 1), ordered / ordered.sum(), label=label)
            axes[0][-1].set(title="Popularity", xlabel="rank", ylabel="share of clicks", xscale="log", yscale="log")
            axes[0][-1].legend()
        figure.tight_layout()
        figure.savefig(folder / f"simulator-{plot}.png", dpi=80, metadata={"Software": None})
        plt.close(figure)


def summary(real: dict[str, np.ndarray], simulated: dict[str, np.ndarray]) -> str:
    """The comparison as a Markdown table."""
    lines = ["| marginal | unit | Globo: 10 / 50 / 90 / 99 % | simulator: 10 / 50 / 90 / 99 % | KS distance |"]
    lines.append("|---|---|---|---|---|")
    for name, marginal in MARGINALS.items():
        quantiles = [
            " / ".join(f"{value:.3g}" for value in np.quantile(values[name], [0.1, 0.5, 0.9, 0.99]))
            for values in (real, simulated)
        ]
        gap = distance(real[name], simulated[name])
        lines.append(f"| {marginal.title} | {marginal.unit} | {quantiles[0]} | {quantiles[1]} | {gap:.3f} |")
    tops = []
    for values in (real, simulated):
        counts = np.sort(values["clicks_per_item"])[::-1]
        shares = [counts[: max(1, round(len(counts) * part))].sum() / counts.sum() for part in (0.001, 0.01, 0.1)]
        tops.append(" / ".join(f"{share:.2f}" for share in shares))
    lines.append(f"| Clicks on the top 0.1 / 1 / 10 % of items | share | {tops[0]} | {tops[1]} | |")
    sizes = [
        f"{values['clicks_per_item'].sum():,} on {len(values['clicks_per_item']):,}" for values in (real, simulated)
    ]
    lines.append(f"| Clicks on items | | {sizes[0]} | {sizes[1]} | |")
    return "\n".join(lines)


def main() -> None:
    """Compare, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--globo", type=Path, required=True, help="folder with clicks_hour_000.csv.gz and so on")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "simulated-news.yaml")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of simulator.md and the plots")
    options = parser.parse_args()
    try:
        config = load_config(options.config)
        if not isinstance(config.data, SimulatorSource):
            raise UserError(f"{options.config}: data.source is '{config.data.source}', expected 'simulator'.")
        real = marginals(real_clicks(options.globo))
        simulated = marginals(simulated_clicks(config.data, config.seed))
    except UserError as error:
        raise SystemExit(str(error)) from None
    table = summary(real, simulated)
    print(table)
    draw(real, simulated, options.docs)
    page = options.docs / "simulator.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
