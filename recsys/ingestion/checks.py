"""What is checked of the files that a run has written: that no row was lost, and that something sensible is left."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys.dataset_folder import DatasetFolder
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.ingestion.validation import AFTER_END
from recsys.schema import SPLITS, TIME

_EARLIEST = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""Logs of recommendations are not older than this, nor ten years ahead of the clock."""
_UNITS_PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}


@dataclass(frozen=True)
class Written:
    """Events by split, and the time in ms of the first and the last one (None where there is none)."""

    by_split: dict[str, int]
    first: int | None
    last: int | None

    @classmethod
    def read(cls, folder: Path) -> "Written":
        """From the footers of `events/*.parquet`."""
        by_split = dict.fromkeys(SPLITS, 0)
        lows, highs = [], []
        for split in SPLITS:
            for file in (folder / "events").glob(f"{split}-*.parquet"):
                footer = pq.read_metadata(file)
                by_split[split] += footer.num_rows
                place = footer.schema.names.index(TIME)
                for group in range(footer.num_row_groups):
                    times = footer.row_group(group).column(place).statistics
                    lows.append(times.min)
                    highs.append(times.max)
        return cls(by_split, min(lows, default=None), max(highs, default=None))

    @property
    def is_plausible(self) -> bool:
        """Whether some event can have been when its time says."""
        return self.first is None or self.last is None or (self.last >= _EARLIEST and self.first <= _latest())


def account(table: str, rows: dict[str, Any], accepted: int) -> None:
    """Add what was accepted (counted in what was written) and rejected to a table's rows.

    Raises RuntimeError where a row that was read is neither.
    """
    rows["rejected"] = sum(rows["by_reason"].values())
    rows["accepted"] = accepted
    if rows["in"] != accepted + rows["rejected"]:
        raise RuntimeError(
            f"{table}: {rows['in']} rows in, but {accepted} accepted and {rows['rejected']} rejected; rows were lost"
        )


def refuse_rejected(source: RawSource, table: str, rows: dict[str, Any], folder: Path) -> None:
    """Raise UserError where every row of the items or users table is rejected."""
    if rows["in"] and not rows["accepted"]:
        raise UserError(
            f"{source.name}: all {rows['in']} rows of {table} are rejected{most_rejected(table, rows, folder)}; "
            f"expected at least one that can be used. Check data.{table} and data.fields."
        )


def most_rejected(table: str, rows: dict[str, Any], folder: Path) -> str:
    """The most frequent reason in brackets, with an example; empty where nothing is rejected."""
    from recsys.ingestion.rejected import examples  # needs Beam, which is imported with its warnings held back

    if not rows["by_reason"]:
        return ""
    reason, count = max(rows["by_reason"].items(), key=lambda item: item[1])
    place = examples(folder / "rejected", table, {reason}).get(reason)
    return f" (most: {count} rows, '{reason}'{'' if place is None else ', for example {}, row {}'.format(*place)})"


def refuse_unit(source: RawSource, written: Written) -> None:
    """Raise UserError where no event's time is plausible, and every one would be in another unit."""
    if written.is_plausible or source.time_unit not in _UNITS_PER_MS:
        return
    assert written.first is not None and written.last is not None
    for unit, per_ms in _UNITS_PER_MS.items():
        factor = _UNITS_PER_MS[source.time_unit] / per_ms
        first, last = int(written.first * factor), int(written.last * factor)
        if first >= _EARLIEST and last <= _latest():
            raise UserError(
                f"data.time_unit: read in '{source.time_unit}', all events lie from {iso(written.first)} to "
                f"{iso(written.last)}; in '{unit}' they would lie from {iso(first)[:4]} to {iso(last)[:4]}. Expected "
                "the unit that the times are in."
            )


def refuse_no_training(
    source: RawSource,
    rows: dict[str, Any],
    written: Written,
    positives: int,
    times: dict[str, Any] | None,
    folder: Path,
) -> None:
    """Raise UserError where no positive event is left for training."""
    if positives:
        return
    if times and rows["accepted"] and not written.by_split[SPLITS[0]]:
        raise UserError(
            f"ingest.split.validation: the training part is empty; validation begins at {iso(times['validation'])}, "
            f"but the events lie from {_span(written)}. Expected a time behind the first of them."
        )
    raise UserError(
        f"{source.name}: no positive training event is left of {rows['in']} rows, {rows['rejected']} of them "
        f"rejected{most_rejected('events', rows, folder)}; expected at least one. Check data.positive and ingest.split."
    )


def notes(dataset: DatasetFolder) -> list[str]:
    """What the user should know of a data set that could be made: rejected rows, odd times, empty parts."""
    found = []
    rows = dataset.manifest["rows"]
    for name in ("events", "items", "users"):
        table = rows if name == "events" else rows.get(name)
        # Those behind the end were left out on purpose.
        if table and 2 * (table["rejected"] - table["by_reason"].get(AFTER_END, 0)) > table["in"]:
            found.append(f"More than half of the rows of {name} are rejected; check data.{name} and data.fields.")
    written = Written.read(dataset.path)
    if dataset.schema.has_time and not written.is_plausible:
        found.append(f"All events lie from {_span(written)}; is data.time_unit right?")
    split = dataset.manifest["settings"]["split"]
    times = dataset.manifest["split"]["times"]
    for part in SPLITS[1:]:
        wanted = split["kind"] == "leave_last_out" or split[part]
        if wanted and not written.by_split[part]:
            where = f" begins at {iso(times[part])} and" if times else ""
            behind = f"; the events lie from {_span(written)}" if times else ""
            found.append(f"The {part} part{where} has no events{behind}. Check ingest.split.{part}.")
    return found


def iso(time: int) -> str:
    """A time in ms as text, UTC."""
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(written: Written) -> str:
    assert written.first is not None and written.last is not None
    return f"{iso(written.first)} to {iso(written.last)}"


def _latest() -> int:
    return int((datetime.now(UTC) + timedelta(days=3653)).timestamp() * 1000)
