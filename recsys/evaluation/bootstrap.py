"""Confidence intervals by resampling users: queries of one user are not independent, so they stand or fall together."""

from dataclasses import dataclass

import numpy as np

BLOCK_USERS = 1 << 14


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each resample draws each user: Poisson(1) counts `[resamples, users] uint8` (the Poisson bootstrap,
    Chamandy et al., 2012). The same resamples serve every model, so differences between models are paired.

    `owner` `[n] int64` is the row of `draws` that a query belongs to.
    """

    draws: np.ndarray
    owner: np.ndarray

    @classmethod
    def make(cls, users: np.ndarray, resamples: int, seed: int) -> "Resamples":
        """For queries of `users` `[n]`."""
        distinct, owner = np.unique(users, return_inverse=True)
        draws = np.random.default_rng(seed).poisson(1.0, (resamples, len(distinct))).astype(np.uint8)
        return cls(draws, owner)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of each column of `values` `[n, columns]` in each resample, NaN values left out: `[resamples, columns]`.

        A resample that draws no query with a value gives NaN.
        """
        users, columns = self.draws.shape[1], values.shape[1]
        there = ~np.isnan(values)
        totals = np.empty((users, 2 * columns))
        for column in range(columns):
            weights = np.where(there[:, column], values[:, column], 0.0)
            totals[:, column] = np.bincount(self.owner, weights, minlength=users)
            totals[:, columns + column] = np.bincount(self.owner, there[:, column], minlength=users)
        drawn = np.zeros((len(self.draws), 2 * columns))
        for first in range(0, users, BLOCK_USERS):
            part = slice(first, first + BLOCK_USERS)
            drawn += self.draws[:, part].astype(np.float64) @ totals[part]
        sums, counts = drawn[:, :columns], drawn[:, columns:]
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def interval(means: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile bounds of each column of `means` `[resamples, columns]`."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    return low, high
