"""What is shown: the items of each request's list, drawn from popularity, the session's cluster, or at random."""

import numpy as np

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import HOURS_PER_DAY, Catalogue
from recsys.datasets.simulator.schedule import field_offset
from recsys.datasets.simulator.traffic import Requests

NONE = -1
_HOUR_MS = 3_600_000
_REDRAWS = 3
_LIFE_HALF_LIVES = 10.0


class Shelf:
    """What is on sale in one hour, as cumulative weights over items ordered by cluster."""

    def __init__(self, config: SimulatorData, catalogue: Catalogue, order: np.ndarray, hour: int) -> None:
        age = hour - catalogue.born[order]
        lived = age / catalogue.half_life[order]
        on_sale = (age >= 0) & (lived < _LIFE_HALF_LIVES)
        log_weight = config.popularity_sigma * catalogue.quality[order] - np.log(2.0) * np.maximum(lived, 0.0)
        day_before = hour / HOURS_PER_DAY - 1.0
        log_weight += config.drift_response * field_offset(config, catalogue, day_before)[order]
        weight = np.exp(log_weight) * on_sale
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight)])
        bounds = np.searchsorted(catalogue.cluster[order], np.arange(config.clusters + 1))
        self.low, self.high = self.cumulative[bounds[:-1]], self.cumulative[bounds[1:]]
        self.on_sale = np.flatnonzero(on_sale)
        self.order = order

    def draw(self, config: SimulatorData, cluster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One item a slot, `[n] int64`, for slots of sessions about `cluster`."""
        kind = rng.random(len(cluster), np.float32)
        place = rng.random(len(cluster))
        low, high = self.low[cluster], self.high[cluster]
        own = (kind >= config.exploration) & (kind < config.exploration + config.personalisation) & (high > low)
        target = np.where(own, low + place * (high - low), place * self.cumulative[-1])
        index = np.searchsorted(self.cumulative, target, side="right") - 1
        any_item = kind < config.exploration
        index = np.where(any_item, self.on_sale[(place * len(self.on_sale)).astype(np.int64)], index)
        return self.order[np.minimum(index, len(self.order) - 1)]


def make_lists(config: SimulatorData, catalogue: Catalogue, requests: Requests, rng: np.random.Generator) -> np.ndarray:
    """The shown items, `[requests, list_length] int64`, no item twice in a list.

    A slot that still repeats another after some redraws is left out; the list is then shorter, with `NONE` at its end.
    """
    order = np.argsort(catalogue.cluster, kind="stable")
    hours = requests.time // _HOUR_MS
    lists = np.empty((len(requests), config.list_length), np.int64)
    cuts = np.flatnonzero(np.diff(hours)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(hours)], strict=True):
        if start == stop:
            continue
        shelf = Shelf(config, catalogue, order, int(hours[start]))
        cluster = np.repeat(requests.cluster[start:stop], config.list_length)
        block = shelf.draw(config, cluster, rng).reshape(stop - start, -1)
        again = repeats(block)
        for _ in range(_REDRAWS):
            rows, columns = np.nonzero(again)
            if not len(rows):
                break
            block[rows, columns] = shelf.draw(config, requests.cluster[start:stop][rows], rng)
            changed = np.unique(rows)
            again[:] = False
            again[changed] = repeats(block[changed])
        block[again] = NONE
        lists[start:stop] = block
    holes = lists == NONE
    return np.take_along_axis(lists, np.argsort(holes, axis=1, kind="stable"), axis=1) if holes.any() else lists


def repeats(lists: np.ndarray) -> np.ndarray:
    """Which slots hold an item that an earlier slot of the list holds, `[n, length] bool`."""
    length = lists.shape[1]
    # One sort of (item, slot) packed into an integer is several times faster than a stable argsort.
    packed = np.sort(lists * length + np.arange(length), axis=1)
    same = np.zeros(lists.shape, bool)
    rows, columns = np.nonzero(packed[:, 1:] // length == packed[:, :-1] // length)
    same[rows, packed[rows, columns + 1] % length] = True
    return same
