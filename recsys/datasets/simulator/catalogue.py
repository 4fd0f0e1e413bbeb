"""The items of the shop: when they appear, their cluster and taste vector, the fields that show it or do not."""

from dataclasses import dataclass

import numpy as np

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.streams import stream

HOURS_PER_DAY = 24.0
_TAGS_PER_ITEM = (1, 4)
_ITEM_SPREAD = 0.6
_PRICE_SPREAD = 0.6
_CENTURY_HOURS = 876_600.0


@dataclass(frozen=True)
class Catalogue:
    """Arrays by item, in order of appearance; `[items]` where nothing else is said.

    `born` hours since the start (negative: on sale already), `half_life` hours (inf: lives on), `cluster` int64,
    `vector` `[items, dim] float32`, `quality` standardised log-popularity, `hidden` bool (the group of latent drift),
    `category`, `brand` int64, `tags` `[items, 4] int64` with -1 for none, `price` float64, `noise` one int64 array a
    noise field.
    """

    born: np.ndarray
    half_life: np.ndarray
    cluster: np.ndarray
    vector: np.ndarray
    quality: np.ndarray
    hidden: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    tags: np.ndarray
    price: np.ndarray
    noise: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.born)


def cluster_centres(config: SimulatorData, seed: int) -> np.ndarray:
    """Unit taste vectors of the clusters, `[clusters, dim] float64`."""
    centres = stream(seed, "centres").standard_normal((config.clusters, config.latent_dim))
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def follow(cluster: np.ndarray, values: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A field that shows the cluster, `[n] int64` in [0, values).

    Where values are fewer than clusters, several clusters share one; where they are more, each cluster has its own few.
    A share `noise` of the rows gets any value.
    """
    clusters = int(cluster.max(initial=0)) + 1
    per_cluster = max(1, values // clusters)
    own = (cluster * per_cluster + rng.integers(0, per_cluster, len(cluster))) % values
    return np.where(rng.random(len(cluster)) < noise, rng.integers(0, values, len(cluster)), own)


def make_catalogue(config: SimulatorData, seed: int) -> Catalogue:
    """All items of all days; the first ones appeared before, at the same daily rate, or long ago where it is 0."""
    rng = stream(seed, "births")
    daily = config.new_items_per_day
    before = np.sort(rng.random(config.items)) - 1.0
    before *= config.items / daily * HOURS_PER_DAY if daily else _CENTURY_HOURS
    later = np.sort(rng.random((config.days, daily)), axis=1) + np.arange(config.days)[:, None]
    born = np.concatenate([before, later.ravel() * HOURS_PER_DAY])
    count = len(born)

    rng = stream(seed, "item tastes")
    cluster = rng.integers(0, config.clusters, count)
    spread = rng.standard_normal((count, config.latent_dim)) * (_ITEM_SPREAD / np.sqrt(config.latent_dim))
    vector = cluster_centres(config, seed)[cluster] + spread

    rng = stream(seed, "item fields")
    category = follow(cluster, config.categories, config.field_noise, rng)
    brand = follow(cluster, config.brands, config.field_noise, rng)
    tags = np.stack([follow(cluster, config.tags, config.field_noise, rng) for _ in range(_TAGS_PER_ITEM[1])], axis=1)
    for place in range(1, tags.shape[1]):  # a tag once an item
        tags[(tags[:, :place] == tags[:, place, None]).any(axis=1), place] = -1
    tags[np.arange(_TAGS_PER_ITEM[1]) >= rng.integers(*_TAGS_PER_ITEM, count, endpoint=True)[:, None]] = -1
    price = np.exp(3.0 + 0.5 * np.sin(category) + _PRICE_SPREAD * rng.standard_normal(count))

    lives = stream(seed, "item lives").standard_normal(count)
    return Catalogue(
        born=born,
        half_life=config.life_half_life_hours * np.exp(config.life_sigma * lives) if daily else np.full(count, np.inf),
        cluster=cluster,
        vector=vector.astype(np.float32),
        quality=stream(seed, "quality").standard_normal(count),
        hidden=stream(seed, "hidden items").random(count) < config.hidden_items,
        category=category,
        brand=brand,
        tags=tags,
        price=np.round(price, 2),
        noise=tuple(
            stream(seed, "item noise", field).integers(0, config.noise_values, count)
            for field in range(config.noise_item_fields)
        ),
    )
