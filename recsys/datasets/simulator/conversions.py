"""Which clicks are followed by a conversion: true probabilities and outcomes, from random streams of their own."""

from dataclasses import replace

import numpy as np

from recsys.datasets.simulator.clicks import ClickModel, Impressions, sigmoid
from recsys.datasets.simulator.traffic import Requests

PRICE, THRIFT, AFFINITY = 0.8, 0.6, 0.6
"""What a standard deviation of the price takes from the log-odds, what the user's thrift adds to that, and what a
standard deviation of the affinity of user and item gives."""


def conversion_odds(model: ClickModel, requests: Requests, request: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Log-odds less a constant that a click converts, `[n] float32`, for rows `request` and shown items `item`."""
    user = requests.user[request]
    price = model.prices[item] * (PRICE + THRIFT * model.people.thrift[user]).astype(np.float32)
    return AFFINITY * model.affinity(user, item) - price


def with_conversions(
    model: ClickModel, constant: float, requests: Requests, shown: Impressions, rng: np.random.Generator
) -> Impressions:
    """The impressions with what became of the clicks."""
    chance = sigmoid(conversion_odds(model, requests, shown.request, shown.item) + np.float32(constant))
    drawn = rng.random(len(chance), np.float32) < chance
    return replace(shown, conversion_chance=chance, converted=drawn & (shown.label > 0))
