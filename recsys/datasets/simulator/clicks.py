"""Which shown items are clicked: true probabilities, labels and the delay of the report."""

from dataclasses import dataclass

import numpy as np

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import Catalogue
from recsys.datasets.simulator.exposure import NONE
from recsys.datasets.simulator.people import People
from recsys.datasets.simulator.schedule import offsets
from recsys.datasets.simulator.traffic import DAY_MS, Requests

_BLOCK = 65_536
_DEVICE_ODDS = np.array([-0.5, 0.5, 0.0])
_LEISURE_HOUR = 21.0


@dataclass(frozen=True)
class Impressions:
    """Arrays by impression, in order of request and position.

    `request` int64 (row among the requests given), `position` int16 from 1, `item` int64; `relevance` float32
    P(click | examined), `examination` float32; `label` int8, `delay` ms int64 (0 without a click). Of a shop with
    conversions `conversion_chance` float32 P(conversion | click) and `converted` bool (False without a click).
    """

    request: np.ndarray
    position: np.ndarray
    item: np.ndarray
    relevance: np.ndarray
    examination: np.ndarray
    label: np.ndarray
    delay: np.ndarray
    conversion_chance: np.ndarray | None = None
    converted: np.ndarray | None = None


class ClickModel:
    """The click probabilities of one shop; `constant` is the log-odds around which they lie.

    `prices` are the items' log prices, standardised, `[items] float32`.
    """

    def __init__(self, config: SimulatorData, catalogue: Catalogue, people: People, constant: float = 0.0) -> None:
        self.config, self.catalogue, self.people, self.constant = config, catalogue, people, constant
        # Affinities are scaled to unit variance over all pairs, which follows from second moments.
        mean = people.vector.mean(axis=0, dtype=np.float64) @ catalogue.vector.mean(axis=0, dtype=np.float64)
        moments = [array.T.astype(np.float64) @ array / len(array) for array in (people.vector, catalogue.vector)]
        self._scale = float(1.0 / np.sqrt((moments[0] * moments[1]).sum() - mean**2))
        self._mean = float(mean)
        log_price = np.log(catalogue.price)
        price = (log_price - log_price.mean()) / max(float(log_price.std()), 1e-9)
        self._item_odds = (config.quality_effect * catalogue.quality).astype(np.float32)
        self.prices = price.astype(np.float32)
        self._price = (config.price_effect * price).astype(np.float32)
        self._thrift = people.thrift.astype(np.float32)

    def log_odds(self, requests: Requests, request: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Log-odds of a click on an examined item, `[n] float32`, for rows `request` and shown items `item`."""
        config, catalogue, people = self.config, self.catalogue, self.people
        by_request = self._context_odds(requests) + np.float32(self.constant)
        odds = np.empty(len(item), np.float32)
        for low in range(0, len(item), _BLOCK):
            part = slice(low, low + _BLOCK)
            shown, at = item[part], request[part]
            user = requests.user[at]
            affinity = np.einsum("nd,nd->n", people.vector[user], catalogue.vector[shown])
            odds[part] = config.taste * self._scale * (affinity - self._mean)
            odds[part] += config.intent * (catalogue.cluster[shown] == requests.cluster[at])
            odds[part] += self._item_odds[shown] - self._price[shown] * self._thrift[user]
            odds[part] += by_request[at]
            odds[part] += offsets(config, catalogue, shown, requests.time[at] / DAY_MS, people.hidden[user])
        return odds

    def affinity(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """The affinities of pairs of unit variance over all pairs, `[n] float32`."""
        found = np.empty(len(item), np.float32)
        for low in range(0, len(item), _BLOCK):
            part = slice(low, low + _BLOCK)
            products = np.einsum("nd,nd->n", self.people.vector[user[part]], self.catalogue.vector[item[part]])
            found[part] = self._scale * (products - self._mean)
        return found

    def _context_odds(self, requests: Requests) -> np.ndarray:
        hour = requests.time % DAY_MS / 3_600_000.0
        leisure = np.cos(2 * np.pi * (hour - _LEISURE_HOUR) / 24.0)
        return (self.config.context_effect * (_DEVICE_ODDS[requests.device] + leisure)).astype(np.float32)


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-odds)), of the same shape and type."""
    return 1.0 / (1.0 + np.exp(-odds))


def calibrate(odds: np.ndarray, rate: float, weights: np.ndarray | None = None) -> float:
    """The constant c with mean(sigmoid(odds + c)) = rate, a mean weighted by `weights` where given; by bisection."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float(np.average(sigmoid(odds.astype(np.float64) + middle), weights=weights))
        low, high = (middle, high) if mean < rate else (low, middle)
    return (low + high) / 2


def _one_after_another(delay: np.ndarray, request: np.ndarray) -> np.ndarray:
    """Delays `[clicks] int64` that add up within a request: who comes back for a second item does so later."""
    total = np.cumsum(delay)
    first = np.searchsorted(request, request, side="left")
    return total - (total - delay)[first]


def examination(config: SimulatorData) -> np.ndarray:
    """The chance that an item is looked at by its place in the list, `[list_length] float32`."""
    return (np.arange(1, config.list_length + 1, dtype=np.float64) ** -config.position_bias).astype(np.float32)


def make_impressions(model: ClickModel, requests: Requests, lists: np.ndarray, rng: np.random.Generator) -> Impressions:
    """What was shown in `lists` (`[requests, list_length]`) and what became of it."""
    config = model.config
    request, place = np.nonzero(lists != NONE)
    item = lists[request, place]
    examined = examination(config)[place]
    relevance = sigmoid(model.log_odds(requests, request, item))
    label = rng.random(len(item), np.float32) < examined * relevance
    delay = np.zeros(len(item), np.int64)
    seconds = config.delay_median_s * np.exp(config.delay_sigma * rng.standard_normal(int(label.sum())))
    clicked = request[label]
    seconds[1:] = np.where(np.diff(clicked) == 0, np.maximum(seconds[1:], config.gap_floor_s), seconds[1:])
    delay[label] = _one_after_another(np.ceil(seconds * 1000.0).astype(np.int64), clicked)
    return Impressions(request, (place + 1).astype(np.int16), item, relevance, examined, label.astype(np.int8), delay)
