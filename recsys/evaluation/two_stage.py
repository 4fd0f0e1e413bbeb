"""Retrieve, then rank: a ranker puts the retrieval model's candidates into its own order."""

from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np
import pyarrow as pa

from recsys.dataset_folder import DatasetFolder
from recsys.encoding.point_in_time import point_in_time_of
from recsys.errors import UserError
from recsys.evaluation.inputs import item_inputs, query_columns, query_inputs
from recsys.evaluation.queries import Events, Queries
from recsys.evaluation.search import NO_COLUMN
from recsys.schema import FIRST_VALUE_ID, RETRIEVAL_SCORE, Kind, Side

BLOCK_ROWS = 1 << 16


class Scorer(Protocol):
    """A ranker: exported or in training. `inputs` names the columns that it reads."""

    @property
    def inputs(self) -> Collection[str]:
        """Names of the columns that it reads."""
        ...

    def __call__(self, arrays: dict[str, np.ndarray], /) -> np.ndarray:
        """Columns by name, a row a pair of query and candidate, to scores `[rows]`: higher is better."""
        ...


def rerank(
    dataset: DatasetFolder,
    scorer: Scorer,
    queries: Queries,
    found: np.ndarray,
    retrieval_scores: np.ndarray,
    *,
    advanced: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """The candidates `found` `[n, c] int64` of each query in the ranker's order, `[n, c] int64`, filled with -1.

    Equal scores keep the order of retrieval. A pair's inputs are those of the query's event row and of the item, with
    point-in-time fields as of the query's `known_at`, and `retrieval_scores` `[n, c]`. Raises UserError where the
    ranker reads a column that neither has. `advanced` is told the number of queries done.
    """
    _check(dataset, scorer)
    columns = query_columns(dataset, scorer.inputs)
    items = item_inputs(dataset, scorer.inputs)
    changing = {field.name for field in dataset.schema.of(Side.ITEM, Kind.POINT_IN_TIME)} & set(scorer.inputs)
    state = None
    if changing:
        state = point_in_time_of(dataset)
        log = Events.read(dataset).by_time()
        state.update(log.users + FIRST_VALUE_ID, log.items + FIRST_VALUE_ID, log.times, log.positive)
    events = dataset.events(queries.split, columns)
    ordered = np.full_like(found, NO_COLUMN)
    size = max(1, BLOCK_ROWS // max(1, found.shape[1]))
    for first in range(0, len(queries), size):
        block = slice(first, first + size)
        owner, place = np.nonzero(found[block] != NO_COLUMN)
        candidates = found[block][owner, place]
        asked = query_inputs(dataset, events.take(pa.array(queries.rows[block])), scorer.inputs)
        arrays = {name: array[owner] for name, array in asked.items()}
        arrays |= {name: array[candidates] for name, array in items.items()}
        arrays[RETRIEVAL_SCORE] = retrieval_scores[block][owner, place].astype(np.float32)
        if state is not None:
            arrays |= state.features(candidates + FIRST_VALUE_ID, queries.known_at[block][owner])
        scores = np.full(found[block].shape, -np.inf)
        scores[owner, place] = scorer(arrays)
        order = np.argsort(-scores, axis=1, kind="stable")
        ordered[block] = np.take_along_axis(found[block], order, axis=1)
        advanced(len(ordered[block]))
    return ordered


def _check(dataset: DatasetFolder, scorer: Scorer) -> None:
    known = {"user", "item", RETRIEVAL_SCORE, *(field.name for field in dataset.schema.fields)}
    unknown = sorted(set(scorer.inputs) - known)
    if unknown:
        raise UserError(
            f"the ranker reads '{unknown[0]}', which {dataset.path} does not have; expected a ranker trained on this "
            f"data set, with inputs among {', '.join(sorted(known))}."
        )
