"""Who comes when: sessions of requests, by the users' activity and the hour of the day."""

from dataclasses import dataclass

import numpy as np

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.people import People
from recsys.datasets.simulator.streams import stream

DAY_MS = 86_400_000
_PEAK_HOUR = 20.0
DEVICES = ("mobile", "desktop", "tablet")
_DEVICE_SHARES = (0.6, 0.3, 0.1)


@dataclass(frozen=True)
class Requests:
    """Arrays by request, in time order.

    `time` ms since the start int64, `session` int64, `user` int64, `cluster` int64 (what the session is about),
    `device` int64 (index into DEVICES).
    """

    time: np.ndarray
    session: np.ndarray
    user: np.ndarray
    cluster: np.ndarray
    device: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray | slice) -> "Requests":
        """Some of the requests."""
        return Requests(self.time[rows], self.session[rows], self.user[rows], self.cluster[rows], self.device[rows])


def intensity(hour: np.ndarray, swing: float) -> np.ndarray:
    """Traffic by hour of day, any shape, 1 at the evening peak and 1 - swing twelve hours away."""
    return 1.0 - swing * (0.5 - 0.5 * np.cos(2 * np.pi * (hour - _PEAK_HOUR) / 24.0))


def make_requests(config: SimulatorData, people: People, seed: int) -> Requests:
    """As many requests as `impressions` need, whole sessions cut off at the end of the last day left out."""
    needed = -(-config.impressions // config.list_length)
    end = config.days * DAY_MS
    rng = stream(seed, "sessions")
    mean = config.session_median * np.exp(config.session_sigma**2 / 2) + 0.5
    count = int(needed / mean * 1.3) + 50
    sizes = np.ceil(config.session_median * np.exp(config.session_sigma * rng.standard_normal(count))).astype(np.int64)
    while sizes.sum() < 1.05 * needed:
        sizes = np.concatenate([sizes, sizes])
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), 1.05 * needed)) + 1]
    count = len(sizes)

    start = _session_starts(config, count, rng)
    user = np.minimum(np.searchsorted(np.cumsum(people.activity), rng.random(count)), len(people) - 1)
    device = np.searchsorted(np.cumsum(_DEVICE_SHARES[:-1]), rng.random(count), side="right")
    wanted = rng.random(count, np.float32)
    cluster = np.empty(count, np.int64)
    for low in range(0, count, 65_536):  # in parts, as a row of tastes a session would be large
        part = slice(low, low + 65_536)
        cumulative = np.cumsum(people.tastes[user[part]], axis=1)
        cluster[part] = np.minimum((cumulative < wanted[part, None]).sum(axis=1), config.clusters - 1)

    session = np.repeat(np.arange(count), sizes)
    gaps = config.gap_median_s * np.exp(config.gap_sigma * rng.standard_normal(len(session)))
    gaps = np.maximum(gaps, config.gap_floor_s) * 1000.0
    firsts = np.cumsum(sizes) - sizes
    gaps[firsts] = 0.0
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[firsts], sizes)
    time = start[session] + elapsed.astype(np.int64)

    inside = np.flatnonzero(time < end)
    kept = inside[np.argsort(time[inside], kind="stable")]
    if len(kept) > needed:  # thin evenly over time, not at the end
        kept = kept[np.linspace(0, len(kept) - 1, needed).astype(np.int64)]
    of = session[kept]
    return Requests(time[kept], of, user[of], cluster[of], device[of])


def _session_starts(config: SimulatorData, count: int, rng: np.random.Generator) -> np.ndarray:
    """Start times `[count] int64` ms, by inverting the cumulative intensity over minutes of a day."""
    minutes = np.arange(24 * 60 + 1)
    density = intensity((minutes[:-1] + 0.5) / 60.0, config.daily_swing)
    cumulative = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    minute = np.interp(rng.random(count), cumulative, minutes)
    day = rng.integers(0, config.days, count)
    return day * DAY_MS + (minute * 60_000).astype(np.int64)
