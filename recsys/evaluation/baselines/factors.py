"""ALS and BPR of the `implicit` library, asked with the history that every model gets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from recsys.evaluation.interactions import history_matrix
from recsys.evaluation.queries import Queries


@dataclass(eq=False)
class AlternatingLeastSquares:
    """Implicit-feedback ALS (Hu, Koren and Volinsky, 2008); a query's factors are solved from its history."""

    model: Any
    catalogue: int
    dynamic: bool = False

    @classmethod
    def fit(
        cls, matrix: sp.csr_matrix, *, factors: int, regularisation: float, alpha: float, iterations: int, seed: int
    ) -> "AlternatingLeastSquares":
        """Learn from a users x items matrix; `alpha` weighs what was seen against what was not."""
        from implicit.cpu.als import AlternatingLeastSquares as Model

        # The library runs its own threads; BLAS threads below them only get in each other's way.
        with threadpool_limits(1, "blas"):
            model = Model(
                factors=factors, regularization=regularisation, alpha=alpha, iterations=iterations, random_state=seed
            )
            model.fit(matrix, show_progress=False)
        return cls(model, matrix.shape[1])

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        history = history_matrix(queries, first, last, self.catalogue)
        return self.model.recalculate_user(np.arange(last - first), history) @ self.model.item_factors.T


@dataclass(eq=False)
class BayesianPersonalisedRanking:
    """BPR matrix factorisation (Rendle et al., 2009).

    A user that the model learned is asked by its own factors where `own_factors` is set; all others, and every user
    otherwise, by the mean of the item factors of the history. Both tables of
    factors carry the bias column last (1 for users). `learned` `[users] bool`.
    """

    user_factors: np.ndarray
    item_factors: np.ndarray
    learned: np.ndarray
    own_factors: bool = True
    dynamic: bool = False

    @classmethod
    def fit(
        cls,
        matrix: sp.csr_matrix,
        *,
        factors: int,
        learning_rate: float,
        regularisation: float,
        iterations: int,
        seed: int,
    ) -> "BayesianPersonalisedRanking":
        """Learn from a users x items matrix, on one thread: with more the result depends on their races."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking as Model

        model = Model(
            factors=factors,
            learning_rate=learning_rate,
            regularization=regularisation,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(matrix, show_progress=False)
        learned = np.diff(matrix.indptr) > 0
        return cls(np.asarray(model.user_factors), np.asarray(model.item_factors), learned)

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """See `Recommender.scores`."""
        history = history_matrix(queries, first, last, len(self.item_factors))
        sizes = np.maximum(np.diff(history.indptr), 1)[:, None]
        factors = (history @ self.item_factors) / sizes
        factors[:, -1] = 1.0
        if self.own_factors:
            users = queries.users[first:last]
            own = self.learned[users]
            factors[own] = self.user_factors[users[own]]
        return factors.astype(np.float32) @ self.item_factors.T
