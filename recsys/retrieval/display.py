"""Training as seen on a terminal: examples a second, loss, validation recall and the time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """Shows steps on a progress bar, or nothing where there is no terminal or it is not wanted."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self._first = 0

    def begin(self, phase: str, total: int, done: int) -> None:
        """Start a phase of `total` steps, `done` of which are done already."""
        self._started, self._first = time.monotonic(), done
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(phase, total=total, completed=done, rate="", loss="", recall="", epoch="")

    def rate(self, done: int, batch_size: int) -> float:
        """Examples a second since the phase began in this process."""
        return (done - self._first) * batch_size / max(time.monotonic() - self._started, 1e-9)

    def step(self, done: int, batch_size: int, loss: float, epoch: str) -> None:
        """Show the state after `done` steps."""
        if self._bar is not None and self._task is not None:
            rate = f"{self.rate(done, batch_size):,.0f} examples/s"
            self._bar.update(self._task, completed=done, rate=rate, loss=f"loss {loss:.4f}", epoch=epoch)

    def measured(self, metrics: dict[str, float]) -> None:
        """Show the last validation."""
        if self._bar is not None and self._task is not None:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._bar.update(self._task, recall=shown)


@contextmanager
def training_display(quiet: bool) -> Iterator[Display]:
    """A display for the length of a training run."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Display(None)
        return
    columns = (
        TextColumn("{task.description} {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}  {task.fields[loss]}  {task.fields[recall]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield Display(bar)
