"""EASE: a linear item-item model with a closed form (Steck, WWW 2019, equation 8)."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from recsys.evaluation.interactions import history_matrix
from recsys.evaluation.queries import Queries


@dataclass(eq=False)
class Ease:
    """Scores are history x weights; `weights` is `[catalogue, catalogue] float32` with a zero diagonal."""

    weights: np.ndarray
    dynamic: bool = False

    @classmethod
    def fit(cls, matrix: sp.csr_matrix, *, regularisation: float) -> "Ease":
        """Invert the regularised Gram matrix of a users x items matrix in float64."""
        gram = (matrix.T @ matrix).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += regularisation
        precision = np.linalg.inv(gram)
        weights = precision / -np.diag(precision)
        np.fill_diagonal(weights, 0.0)
        return cls(weights.astype(np.float32))

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        return history_matrix(queries, first, last, len(self.weights)) @ self.weights
