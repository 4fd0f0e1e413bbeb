"""How fast the shop is simulated, logs and truth written: impressions a minute, beside the least that is asked for.

python benchmarks/simulate.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.write import write_simulation

FLOOR = 3_000_000


def measure(impressions: int) -> tuple[float, float]:
    """Impressions a minute, and bytes on disk an impression, truth included, of one run with default habits."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        manifest = write_simulation(
            SimulatorData(impressions=impressions), 1, Path(folder) / "raw", quiet=True
        ).manifest
        seconds = time.perf_counter() - begin
    written = manifest["counts"]["impressions"]
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return written / seconds * 60, size / written


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smaller sizes only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    table = Table(title=f"Simulation, {os.cpu_count()} cores")
    for name in (
        "impressions",
        "M impressions a minute",
        f"over the floor of {FLOOR / 1e6:.0f} M",
        "bytes an impression",
    ):
        table.add_column(name, justify="right")
    rate = 0.0
    for impressions in (1_000_000, 4_000_000) if options.quick else (1_000_000, 4_000_000, 16_000_000):
        rate, size = measure(impressions)
        table.add_row(f"{impressions:,}", f"{rate / 1e6:.1f}", f"{rate / FLOOR:.1f} ×", f"{size:.1f}")
    Console().print(table)
    if options.json:
        figures = {"impressions_per_minute": rate, "over_floor": rate / FLOOR}
        context = {"cores": os.cpu_count(), "quick": options.quick}
        options.json.write_text(json.dumps({"figures": figures, "context": context}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
