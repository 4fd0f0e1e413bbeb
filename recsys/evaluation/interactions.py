"""Histories and training positives as binary sparse matrices, users or queries x catalogue."""

import numpy as np
import scipy.sparse as sp

from recsys.evaluation.queries import Events, Queries


def user_matrix(events: Events, users: int, catalogue: int) -> sp.csr_matrix:
    """Which user had which item among the positives of `events`: `[users, catalogue] float32` of 0 and 1."""
    rows, columns = events.users[events.positive], events.items[events.positive]
    return _binary(sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, catalogue)))


def history_matrix(queries: Queries, first: int, last: int, catalogue: int) -> sp.csr_matrix:
    """The histories of queries `first:last`: `[last - first, catalogue] float32` of 0 and 1."""
    offsets, columns = queries.history.block(first, last)
    ones = np.ones(len(columns), np.float32)
    return _binary(sp.csr_matrix((ones, columns, offsets), shape=(last - first, catalogue)))


def _binary(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
