"""The mutual information between the fields of items and of users: which fields tell about each other."""

from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from recsys.dataset_folder import dense_column
from recsys.schema import FIRST_VALUE_ID, Field, Kind, Schema, Side

NUMERIC_BINS = 10
"""A numeric field enters the mutual information by its deciles."""

HASHED_VALUES = 100_000
"""Ids of a vocabulary are taken modulo this for the mutual information."""


def mutual_information(entities: pa.Table, schema: Schema, side: Side, seed: int) -> dict[str, Any]:
    """Mutual information in nats between the fields of a side over its table, each item (or user) weighing the same.

    A multi-valued field spreads an item evenly over its values; a numeric field counts by decile; vocabularies beyond
    `HASHED_VALUES` are folded. `matrix`: between fields, less what the same columns give when one is shuffled (the bias
    of finite samples, which grows with the vocabularies), at least 0; on the diagonal a field's information with
    itself, uncorrected: its entropy, where it is single-valued. `id`: between each field and the id, which is what the
    id tells about it: all.
    """
    fields = schema.of(side, Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)
    members = [_membership(entities, field) for field in fields]
    shuffled = np.random.default_rng([seed, 0x3417]).permutation(len(entities))
    matrix = np.zeros((len(fields), len(fields)))
    for place, one in enumerate(members):
        matrix[place, place] = information(one, one)
        for other in range(place):
            bias = information(one, members[other][shuffled])
            matrix[place, other] = matrix[other, place] = max(information(one, members[other]) - bias, 0.0)
    identity = sparse.identity(len(entities), format="csr")
    return {
        "fields": [field.name for field in fields],
        "matrix": [[round(value, 12) for value in row] for row in matrix.tolist()],
        "id": [round(information(one, identity), 12) for one in members],
    }


def _membership(entities: pa.Table, field: Field) -> sparse.csr_matrix:
    """`[entities, values]`, rows that sum to 1."""
    values = dense_column(entities[field.name], field)[FIRST_VALUE_ID:]
    if field.kind is Kind.NUMERIC:
        known = values[~np.isnan(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, NUMERIC_BINS + 1)[1:-1])) if len(known) else known
        values = np.where(np.isnan(values), 0, np.searchsorted(edges, np.nan_to_num(values), side="right") + 1)
    values = values.reshape(len(entities), -1)
    rows, places = np.nonzero(values) if field.kind is Kind.MULTI_VALUED else np.nonzero(np.ones_like(values))
    counts = np.bincount(rows, minlength=len(entities))
    # Ids follow falling counts, so folding them puts no two of the most frequent values together.
    chosen = values[rows, places].astype(np.int64) % HASHED_VALUES
    return sparse.csr_matrix(
        (1.0 / counts[rows], (rows, chosen)), shape=(len(entities), int(chosen.max(initial=0)) + 1)
    )


def information(one: sparse.csr_matrix, other: sparse.csr_matrix) -> float:
    """Mutual information in nats of two memberships `[entities, values]` with rows that sum to 1.

    sum over value pairs of P(v, w) log(P(v, w) / (P(v) P(w))); P averages over the rows, in which v and w are
    independent.
    """
    if not one.shape[0]:
        return 0.0
    joint = (one.T @ other / one.shape[0]).tocoo()
    left = np.asarray(joint.sum(axis=1)).ravel()[joint.row]
    right = np.asarray(joint.sum(axis=0)).ravel()[joint.col]
    return float((joint.data * np.log(joint.data / (left * right))).sum())
