"""Where the output is cut: split times and file borders, from mergeable exact histograms.

The order key is the time in ms, or the input order where there is no time. A histogram counts keys by their high bits;
an order statistic is found in the bin that holds it by counting that bin's keys exactly (radix selection), so the
result is exact and depends on neither the order of the rows nor how they were distributed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from recsys.config.ingest import SplitConfig, utc
from recsys.ingestion.elements import gather

BIN_BITS = 16


def histogram(keys: np.ndarray, bits: int = BIN_BITS) -> pa.Table:
    """Counts of `[n] int64` keys by their bits above `bits`."""
    bins, counts = np.unique(keys >> bits, return_counts=True)
    return pa.table({"bin": bins, "count": counts})


def merge(messages: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Bins and counts of packed histograms, summed, in rising order of bins."""
    table = gather(messages)
    if table is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    bins, places = np.unique(table["bin"].to_numpy(), return_inverse=True)
    counts = np.zeros(len(bins), np.int64)
    np.add.at(counts, places, table["count"].to_numpy())
    return bins, counts


@dataclass(frozen=True)
class Plan:
    """What the output stages must know: `edges` `[files - 1] int64` order keys where a new file begins; the first ms of
    the validation and of the test part (None where the split is not by time); `wanted`: ranks of the order statistics
    that are still to be found, with the bins that hold them."""

    rows: int
    edges: np.ndarray
    validation: int | None = None
    test: int | None = None
    wanted: tuple[tuple[int, int, int], ...] = ()
    """(rank, bin, rows before the bin) of the validation and the test cut."""

    @property
    def bins(self) -> np.ndarray:
        """The bins whose keys must be counted exactly."""
        return np.unique(np.array([found[1] for found in self.wanted], np.int64))


def plan_output(messages: Iterable[bytes], split: SplitConfig, file_rows: int) -> Plan:
    """File borders at about every `file_rows` events, and what is needed to find the split times."""
    bins, counts = merge(messages)
    before = np.cumsum(counts) - counts
    rows = int(counts.sum())
    edges = bins[1:][np.diff(before // file_rows) > 0] << BIN_BITS
    if split.kind != "time":
        return Plan(rows, edges)
    if isinstance(split.validation, datetime) and isinstance(split.test, datetime):
        validation, test = (int(utc(part).timestamp() * 1000) for part in (split.validation, split.test))
        return Plan(rows, edges, validation, test)
    assert isinstance(split.validation, float) and isinstance(split.test, float)
    ranks = [round((1 - split.validation - split.test) * rows), round((1 - split.test) * rows)]
    if not rows:
        return Plan(rows, edges, 0, 0)
    wanted = []
    for rank in ranks:
        place = int(np.searchsorted(before, min(rank, rows - 1), side="right")) - 1
        wanted.append((rank, int(bins[place]), int(before[place])))
    return Plan(rows, edges, wanted=tuple(wanted))


def settle(plan: Plan, messages: Iterable[bytes]) -> Plan:
    """The plan with its split times found in exact counts of the keys of its bins."""
    if not plan.wanted:
        return plan
    keys, counts = merge(messages)
    times = []
    for rank, bin_, before in plan.wanted:
        inside = keys >> BIN_BITS == bin_
        if rank >= plan.rows:
            times.append(int(keys[inside].max()) + 1)
            continue
        reached = before + np.cumsum(counts[inside])
        times.append(int(keys[inside][np.searchsorted(reached, rank, side="right")]))
    return Plan(plan.rows, plan.edges, times[0], times[1])
