"""Arms of an experiment on the towers beside each other: data with its shipped configuration, table, evidence."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.parts.code_state import trained_by
from benchmarks.parts.evidence import command, surroundings_line
from benchmarks.parts.retrieval_cells import CUT_OFFS, SLICES, Cell, CellBench, spread, values
from recsys.artifacts import write_atomic
from recsys.config import Config, load_config
from recsys.dataset_folder import DatasetFolder
from recsys.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = {"ml-100k": "ml-100k", "simulator": "simulated-tail"}
OVERRIDES: dict[str, tuple[str, ...]] = {
    "ml-100k": (
        "model.item.features=[genres, title_words, year]",
        "train.refit_on_validation=false",
    ),
    "simulator": ("train.ssl=null",),
}


class Bench:
    """A data set, and cells trained on it by settings that differ from the shipped ones; files are under `folder`."""

    def __init__(self, folder: Path, data: str, quick: bool, console: Console) -> None:
        self.folder, self.data, self.quick, self.console = folder, data, quick, console
        pipeline = Pipeline(self.config(()), quiet=True)
        pipeline.ingest()
        self.dataset = DatasetFolder.open(pipeline.dataset_path)

    def config(self, overrides: tuple[str, ...]) -> Config:
        """The shipped configuration with the data's and an arm's overrides."""
        short = ("train.epochs=1",) if self.quick else ()
        every = (f"workdir={self.folder}", *OVERRIDES[self.data], *short, *overrides)
        return load_config(ROOT / "configs" / f"{CONFIGS[self.data]}.yaml", every)

    def cell(self, name: str, overrides: tuple[str, ...], seed: int) -> Cell:
        """Figures of the arm `name` with one seed on validation and test, from the file where it was run before."""
        config = self.config(overrides)
        return CellBench(self.dataset, self.folder, self.console).cell(name, config.model, config.train, seed)


def table(data: str, results: Mapping[str, Sequence[Cell]]) -> Table:
    """Test recall by slice, mean ± standard deviation over seeds."""
    first = next(iter(results.values()))[0]["test"]
    queries = ", ".join(f"{part} {first[part]['queries']:,}" for part in SLICES.values())
    shown = Table(title=f"{data}: test recall, mean ± standard deviation over seeds (queries: {queries})")
    shown.add_column("arm")
    for k in CUT_OFFS:
        for part in SLICES.values():
            shown.add_column(f"{part}@{k}", justify="right")
    for name, cells in results.items():
        shown.add_row(name, *(spread(values(cells, "test", part, k)) for k in CUT_OFFS for part in SLICES.values()))
    return shown


def write_evidence(
    folder: Path,
    title: str,
    about: str,
    config: Config,
    results: Mapping[str, Sequence[Cell]],
    document: str,
    console: Console,
) -> None:
    """Command, resolved configuration, a table by seed and the log, into `folder`; `about` says whose config it is."""
    keys = [(part, k) for k in CUT_OFFS for part in SLICES.values()]
    lines = [
        f"# {title}",
        "",
        f"    {command()}",
        "",
        f"{about}: config.yaml. Checksums of the raw files and all figures, those of validation too: figures.json. "
        "What the figures say: NOTES.md.",
        "",
        surroundings_line(),
        trained_by(cell for cells in results.values() for cell in cells),
        "",
        f"| arm | seed | {' | '.join(f'{part}@{k}' for part, k in keys)} |",
        "|---" * (len(keys) + 2) + "|",
    ]
    for name, cells in results.items():
        for seed, cell in enumerate(cells, start=1):
            row = " | ".join(f"{cell['test'][part][f'recall@{k}']:.4f}" for part, k in keys)
            lines.append(f"| {name} | {seed} | {row} |")
    lines += ["", "What was printed:", "", "```", console.export_text().rstrip(), "```", ""]
    # The folder of data as a variable: where it lies on one machine says nothing to another.
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    resolved = resolved.replace(os.environ["RECSYS_DATA"], "${RECSYS_DATA}")
    write_atomic(folder / "README.md", "\n".join(lines).encode())
    write_atomic(folder / "figures.json", document.encode())
    write_atomic(folder / "config.yaml", resolved.encode())
