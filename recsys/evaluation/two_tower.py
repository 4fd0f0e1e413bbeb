"""Our model as a recommender: query vectors x item vectors, these made anew as point-in-time features change."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.point_in_time import PointInTime, point_in_time_of
from recsys.evaluation.inputs import item_inputs, query_columns, query_inputs
from recsys.evaluation.queries import Events, Queries
from recsys.schema import FIRST_VALUE_ID


class Embedder(Protocol):
    """A tower: exported (`recsys.scoring.towers.Tower`) or in training. `inputs` names the columns that it reads."""

    @property
    def inputs(self) -> Collection[str]:
        """Names of the columns that it reads."""
        ...

    def __call__(self, arrays: dict[str, np.ndarray], /) -> np.ndarray:
        """Columns by name, batch first, to vectors `[batch, dim] float32`."""
        ...


@dataclass(eq=False)
class ItemRefresh:
    """Item vectors as of a moment: the item tower on features that know the log up to then, less the lag.

    `static` are the tower's other inputs for the whole catalogue; `events` all events in time order, of which only
    those before the moment are ever taken in; items that are not `available_from` (ms) then keep their old vectors.
    """

    tower: Embedder
    static: dict[str, np.ndarray]
    state: PointInTime
    events: Events
    available_from: np.ndarray
    taken: int = 0

    def vectors(self, time: int, old: np.ndarray) -> np.ndarray:
        """`[catalogue, dim] float32` at `time` (ms); moments must not fall."""
        stop = int(np.searchsorted(self.events.times, time, side="left"))
        new = slice(self.taken, stop)
        ids = self.events.items[new] + FIRST_VALUE_ID
        users = self.events.users[new] + FIRST_VALUE_ID
        self.state.update(users, ids, self.events.times[new], self.events.positive[new])
        self.state.forget(time)
        self.taken = stop
        alive = np.flatnonzero(self.available_from <= time)
        changing = self.state.features(alive + FIRST_VALUE_ID, time)
        fresh = old.copy()
        fresh[alive] = self.tower({name: array[alive] for name, array in self.static.items()} | changing)
        return fresh


@dataclass(eq=False)
class TwoTower:
    """Scores are cosines of the query vectors `[n, dim]` of one set of queries with the item vectors `[m, dim]`."""

    query_vectors: np.ndarray
    item_vectors: np.ndarray
    refresh: ItemRefresh | None = None

    @property
    def dynamic(self) -> bool:
        """Whether item vectors change with time."""
        return self.refresh is not None

    def advance(self, time: int) -> None:
        """Make the item vectors anew."""
        if self.refresh is not None:
            self.item_vectors = self.refresh.vectors(time, self.item_vectors)

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`; `queries` must be those that the query vectors were made of."""
        return self.query_vectors[first:last] @ self.item_vectors.T


def embed_queries(dataset: DatasetFolder, tower: Embedder, queries: Queries) -> np.ndarray:
    """The query tower on the event rows of queries, `[n, dim] float32`."""
    events = dataset.events(queries.split, query_columns(dataset, tower.inputs)).take(pa.array(queries.rows))
    return tower(query_inputs(dataset, events, tower.inputs))


def two_tower(
    dataset: DatasetFolder,
    query_tower: Embedder,
    item_tower: Embedder,
    queries: Queries,
    vectors: np.ndarray | None = None,
) -> TwoTower:
    """The model as a recommender for these queries.

    `vectors` are its item vectors `[m, dim] float32`; left out, they are computed here. An item tower that reads
    point-in-time fields makes them anew at every moment.
    """
    query_vectors = embed_queries(dataset, query_tower, queries)
    static = item_inputs(dataset, item_tower.inputs)
    if set(item_tower.inputs) <= set(static):
        return TwoTower(query_vectors, item_tower(static) if vectors is None else vectors)
    events = Events.read(dataset).by_time()
    available = dataset.items["available_from"].to_numpy()
    refresh = ItemRefresh(item_tower, static, point_in_time_of(dataset), events, available)
    start = np.zeros((len(dataset.items), query_vectors.shape[1]), np.float32)
    return TwoTower(query_vectors, start, refresh)
