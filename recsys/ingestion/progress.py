"""Progress of a job whose work is done in other threads or processes: counters in small files, shown by the driver."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_EVERY_SECONDS = 0.2


class Progress:
    """Counts rows by stage. Picklable: every process that gets a copy writes its own file in `folder` (None: no one
    looks, nothing is written)."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}
        self._written = 0.0
        self._token = ""

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "_counts": {}, "_written": 0.0, "_token": ""}

    def add(self, stage: str, rows: int) -> None:
        """Count rows that went through a stage."""
        if self.folder is None:
            return
        self._counts[stage] = self._counts.get(stage, 0) + rows
        now = time.monotonic()
        if now - self._written > _EVERY_SECONDS and self.folder.is_dir():
            self._token = self._token or f"{os.getpid()}-{id(self)}"
            aside = self.folder / f".{self._token}"
            aside.write_text(json.dumps(self._counts), encoding="utf-8")
            aside.replace(self.folder / f"{self._token}.json")
            self._written = now

    def total(self) -> dict[str, int]:
        """Rows by stage, over all processes, as last written."""
        total: dict[str, int] = {}
        for file in self.folder.glob("*.json") if self.folder else ():
            for stage, rows in json.loads(file.read_text(encoding="utf-8")).items():
                total[stage] = total.get(stage, 0) + rows
        return total


@contextmanager
def shown(stages: tuple[str, ...], quiet: bool) -> Iterator[Progress]:
    """A `Progress` whose stages are bars with rows/s and time left on a terminal; silent elsewhere or when `quiet`."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Progress(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with tempfile.TemporaryDirectory(prefix="recsys-progress-") as name:
        progress = Progress(Path(name))
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>12,.0f} rows/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            tasks = {stage: bars.add_task(stage, total=None, rate=0.0, start=False) for stage in stages}
            finished = threading.Event()
            watcher = threading.Thread(target=_watch, args=(progress, bars, tasks, finished), daemon=True)
            watcher.start()
            try:
                yield progress
            finally:
                finished.set()
                watcher.join()


def _watch(progress: Progress, bars: Any, tasks: dict, finished: threading.Event) -> None:
    names = list(tasks)
    while not finished.wait(_EVERY_SECONDS):
        total = progress.total()
        for place, name in enumerate(names):
            rows = total.get(name, 0)
            if not rows:
                continue
            task = tasks[name]
            if not bars.tasks[task].started:
                bars.start_task(task)
                if place:  # the stage before is complete, so its rows are this one's total
                    before = total.get(names[place - 1], 0)
                    bars.update(task, total=before)
                    bars.update(tasks[names[place - 1]], total=before)
            elapsed = bars.tasks[task].elapsed or 0.0
            bars.update(task, completed=rows, rate=rows / elapsed if elapsed else 0.0)
