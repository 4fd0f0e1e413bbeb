"""The retrieval model's score of a query and an item, as a ranker reads it."""

import numpy as np


def pair_scores(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Inner products of query and item vectors, row by row: `[n, dim]` twice to `[n] float32`.

    The one formula of training, evaluation and serving. It is exact: an index that stores compressed vectors gives
    other numbers, good enough to find candidates by but not those that the ranker learned from.
    """
    return np.einsum("nd,nd->n", queries, items, dtype=np.float32)
