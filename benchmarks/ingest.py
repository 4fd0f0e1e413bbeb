"""Ingestion: rows a second beside a per-row Beam pipeline, pandas and Polars, and the memory that a row costs.

    python benchmarks/ingest.py [--quick] [--json FILE] [--evidence]

Logs are the simulator's impressions, of which all contenders read the same columns. Every run is a process of its own,
timed from inside (imports excluded) and watched from outside (peak memory of all its processes; shared pages counted
once). The per-row pipeline runs on a smaller log, large against its start, and its rate is compared.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts import ingest_peers as peers
from benchmarks.parts.evidence import surroundings, write_speed_evidence
from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.write import write_simulation

SEED = 7
USERS, ITEMS = 100_000, 20_000
SIZES = (1_000_000, 4_000_000, 16_000_000)
PER_ROW_ROWS = 400_000
SAMPLE_SECONDS = 0.1
MIB = 1 << 20
EVIDENCE = "speed-ingest"
FLINK = "ours, embedded Flink"
JARS = Path(__file__).resolve().parent.parent / "tools" / "flink" / "target" / "jars"


def write_log(folder: Path, rows: int) -> None:
    """A simulated shop's impressions over ten days in time order; about `rows` of them."""
    shop = SimulatorData(impressions=rows, users=USERS, items=ITEMS, days=10)
    write_simulation(shop, SEED, folder, quiet=True)


def with_ours(files: list[Path], output: Path, runner: str, workers: int) -> int:
    """This project's ingestion of the same log."""
    from recsys.config.data import FilesData
    from recsys.config.ingest import IngestConfig
    from recsys.datasets.files import files_source
    from recsys.ingestion.job import ingest

    history = {"name": "history", "side": "user", "kind": "sequence", "of": "item", "length": peers.HISTORY}
    clicks = [
        {"name": name, "side": "item", "kind": "point_in_time", "statistic": "clicks", "window_ms": window}
        for name, window in peers.WINDOWS.items()
    ]
    data = FilesData.model_validate(
        {
            "source": "files",
            "events": {
                "paths": [str(file) for file in files],
                "columns": {"time": "time", "label": "label"},
            },
            "time_unit": "ms",
            "fields": [
                *({"name": name, "side": "context", "kind": "categorical"} for name in peers.CONTEXT),
                history,
                *clicks,
            ],
        }
    )
    config = IngestConfig.model_validate({"runner": runner, "workers": workers, "lag_ms": peers.LAG_MS})
    return ingest(files_source(data), config, output / "dataset", quiet=True).manifest["rows"]["accepted"]


CONTENDERS = {
    "ours, Direct runner": ("ours", "direct", 1),
    "ours, Direct runner, 2 workers": ("ours", "direct", 2),
    FLINK: ("ours", "flink", 2),
    "Beam per row": ("beam", "", 1),
    "pandas": ("pandas", "", 1),
    "Polars": ("polars", "", 1),
}


def contend(name: str, log: Path, output: Path) -> None:
    """Run one contender in this process and print its seconds and rows."""
    kind, runner, workers = CONTENDERS[name]
    files = sorted((log / "impressions").glob("*.parquet"))
    output.mkdir(parents=True)
    import pandas  # noqa: F401  what is imported is not what is measured
    import polars  # noqa: F401

    from recsys.ingestion.runner import import_beam

    import_beam()

    started = time.perf_counter()
    if kind == "ours":
        rows = with_ours(files, output, runner, workers)
    else:
        run = {"beam": peers.with_rows_in_beam, "pandas": peers.with_pandas, "polars": peers.with_polars}[kind]
        rows = run(files, output)
    print(json.dumps({"seconds": time.perf_counter() - started, "rows": rows}))


def measure(name: str, log: Path) -> dict[str, Any]:
    """Run one contender as a process; seconds, rows, rows a second, and the peak MiB of its process tree."""
    with tempfile.TemporaryDirectory(prefix="ingest-benchmark-") as folder:
        command = [sys.executable, __file__, "--contender", name, str(log), f"{folder}/output"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _tree_mib(process.pid))
            time.sleep(SAMPLE_SECONDS)
        assert process.stdout is not None
        text = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"{name} failed with exit code {process.returncode}")
    result = json.loads(text.splitlines()[-1])
    return result | {"rate": result["rows"] / result["seconds"], "peak_mib": peak}


def _tree_mib(pid: int) -> float:
    """Proportional set size of a process and all its descendants."""
    import psutil

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for member in family:
        try:
            with open(f"/proc/{member.pid}/smaps_rollup", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
        except (OSError, psutil.Error):
            continue
    return total


def main() -> None:
    """Measure everything, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small logs: shows that it runs; under 50 s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--evidence", action="store_true", help=f"write docs/evidence/{EVIDENCE}/")
    parser.add_argument("--contender", nargs=3, metavar=("NAME", "LOG", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, log, output = arguments.contender
        contend(name, Path(log), Path(output))
        return
    with tempfile.TemporaryDirectory(prefix="ingest-logs-") as folder:
        results = run_all(Path(folder), arguments.quick)
    figures = figures_of(results)
    printed = show(results, figures)
    if arguments.quick:
        print(
            "Logs this small say that it runs; what a row costs in memory shows from a million rows on.",
            file=sys.stderr,
        )
    document = {"figures": figures, "context": surroundings() | {"quick": arguments.quick, "results": results}}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if arguments.evidence:
        notes = "Logs of the simulator, ten days; seconds without imports; peak memory of all processes of a contender."
        write_speed_evidence(EVIDENCE, "Speed and memory of ingestion", notes, printed, document)


def run_all(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Every contender on every size it is asked for."""
    sizes = (100_000, 400_000) if quick else SIZES
    flink = (JARS.is_dir() or not quick) and shutil.which("java") is not None
    if not flink:
        print("Flink is not run: it needs Java and 'make flink'.", file=sys.stderr)
    plan = [(PER_ROW_ROWS // 20 if quick else PER_ROW_ROWS, ["Beam per row"])]
    direct = list(CONTENDERS)[:2]
    for size in sizes:
        names = direct[:1] if quick else list(direct)
        if flink and size in sizes[-2:]:
            names.append(FLINK)
        plan.append((size, [*names, "pandas", "Polars"]))
    results = []
    for size, names in plan:
        log = folder / str(size)
        write_log(log, size)
        for name in names:
            result = {"name": name, "size": size, **measure(name, log)}
            print(
                f"{name}: {size:,} rows, {result['rate']:,.0f} rows/s, {result['peak_mib']:,.0f} MiB", file=sys.stderr
            )
            results.append(result)
    return results


def figures_of(results: list[dict[str, Any]]) -> dict[str, float]:
    """Ratios at the largest size, ours on the Direct runner with one worker; growth from the second largest to it."""

    def find(name: str, size: int) -> dict[str, Any]:
        return next(r for r in results if r["name"] == name and r["size"] == size)

    sizes = sorted({r["size"] for r in results if r["name"] == "Polars"})
    small, large = sizes[-2], sizes[-1]
    one, other = (find("ours, Direct runner", size) for size in (small, large))
    ours = other["rate"]
    per_row = next(r for r in results if r["name"] == "Beam per row")
    figures = {
        "ours_over_per_row_beam": ours / per_row["rate"],
        "ours_over_pandas": ours / find("pandas", large)["rate"],
        "polars_over_ours": find("Polars", large)["rate"] / ours,
        "direct_seconds_growth": other["seconds"] / one["seconds"],
        "direct_bytes_per_row": (other["peak_mib"] - one["peak_mib"]) * MIB / (large - small),
    }
    if any(r["name"] == FLINK for r in results):
        growth = [find(FLINK, size)["peak_mib"] for size in (small, large)]
        figures["flink_peak_memory_growth"] = growth[1] / growth[0]
    return figures


def show(results: list[dict[str, Any]], figures: dict[str, float]) -> str:
    """The tables on the terminal, and as text."""
    from rich.console import Console
    from rich.table import Table

    table = Table("contender", "rows", "seconds", "rows/s", "peak MiB")
    for r in results:
        table.add_row(r["name"], f"{r['size']:,}", f"{r['seconds']:.1f}", f"{r['rate']:,.0f}", f"{r['peak_mib']:,.0f}")
    summary = Table("figure", "value")
    for name, value in figures.items():
        summary.add_row(name, f"{value:.2f}")
    console = Console(width=120, record=True)
    console.print(table)
    console.print(summary)
    return console.export_text()


if __name__ == "__main__":
    main()
