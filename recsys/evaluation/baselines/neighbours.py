"""Item-kNN of the `implicit` library: the history's neighbours, summed."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys.evaluation.interactions import history_matrix
from recsys.evaluation.queries import Queries


@dataclass(eq=False)
class ItemNeighbours:
    """Scores are history x similarity; `similarity` is `[catalogue, catalogue]`, sparse, the K nearest a row."""

    similarity: sp.csr_matrix
    dynamic: bool = False

    @classmethod
    def fit(cls, matrix: sp.csr_matrix, *, weighting: str, neighbours: int) -> "ItemNeighbours":
        """Learn from a users x items matrix; `weighting` is `cosine` or `bm25`, `neighbours` the K of kNN."""
        from implicit.nearest_neighbours import BM25Recommender, CosineRecommender

        # An item is its own nearest neighbour in the library, hence one more; its own column only shifts seen items.
        kinds: dict[str, Any] = {"cosine": CosineRecommender, "bm25": BM25Recommender}
        model = kinds[weighting](K=neighbours + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns of its own conversion to CSR
            model.fit(matrix.astype(np.float64), show_progress=False)
        similarity = sp.csr_matrix(model.similarity)
        similarity.setdiag(0)
        similarity.eliminate_zeros()
        return cls(similarity.astype(np.float32))

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        return (history_matrix(queries, first, last, self.similarity.shape[0]) @ self.similarity).toarray()
