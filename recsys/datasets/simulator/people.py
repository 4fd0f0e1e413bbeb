"""The users of the shop: tastes over clusters, activity, and the fields that show some of it."""

from dataclasses import dataclass

import numpy as np

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import cluster_centres, follow
from recsys.datasets.simulator.streams import stream

_USER_SPREAD = 0.3
_BUDGET_BLUR = 0.5


@dataclass(frozen=True)
class People:
    """Arrays by user; `[users]` where nothing else is said.

    `tastes` `[users, clusters] float32` rows that sum to 1 (which cluster a session is about), `vector`
    `[users, dim] float32`, `activity` weights that sum to 1, `hidden` +1 or -1 (the halves of latent drift), `thrift`
    float64 how much a high price repels, `segment` int64 shows the main cluster, `budget` float64 shows the thrift
    blurred, `noise` one int64 array a noise field.
    """

    tastes: np.ndarray
    vector: np.ndarray
    activity: np.ndarray
    hidden: np.ndarray
    thrift: np.ndarray
    segment: np.ndarray
    budget: np.ndarray
    noise: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.activity)


def make_people(config: SimulatorData, seed: int) -> People:
    """All users. Tastes are Dirichlet with total concentration `tastes_per_user`."""
    count = config.users
    rng = stream(seed, "user tastes")
    tastes = rng.standard_gamma(config.tastes_per_user / config.clusters, (count, config.clusters)) + 1e-12
    tastes /= tastes.sum(axis=1, keepdims=True)
    spread = rng.standard_normal((count, config.latent_dim)) * (_USER_SPREAD / np.sqrt(config.latent_dim))
    vector = tastes @ cluster_centres(config, seed) + spread

    activity = np.exp(config.activity_sigma * stream(seed, "activity").standard_normal(count))
    rng = stream(seed, "user fields")
    thrift = rng.standard_normal(count)
    budget = np.exp(3.0 - 0.5 * thrift + _BUDGET_BLUR * rng.standard_normal(count))
    return People(
        tastes=tastes.astype(np.float32),
        vector=vector.astype(np.float32),
        activity=activity / activity.sum(),
        hidden=np.where(stream(seed, "hidden users").random(count) < 0.5, 1.0, -1.0),
        thrift=thrift,
        segment=follow(tastes.argmax(axis=1), config.segments, config.field_noise, rng),
        budget=np.round(budget, 2),
        noise=tuple(
            stream(seed, "user noise", field).integers(0, config.noise_values, count)
            for field in range(config.noise_user_fields)
        ),
    )
