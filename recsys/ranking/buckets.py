"""Numbers to buckets, in NumPy; recsys/ranking/numbers.py has the same in TensorFlow, for training and serving."""

import numpy as np

LARGEST_BUCKET = 500
"""Of the squared logarithm: no number of 9 digits reaches it; beyond, all share the last bucket."""


def squared_log_bucket(values: np.ndarray) -> np.ndarray:
    """int(x) for x <= 2, floor(ln(x)^2) above, `[n] int64`, as OptFS' authors read Criteo's counts (section 6)."""
    values = np.asarray(values, np.float64)
    large = np.floor(np.square(np.log(np.maximum(values, 1.0))))
    return np.where(values <= 2, np.trunc(values), large).astype(np.int64)


def quantile_edges(values: np.ndarray, buckets: int) -> np.ndarray:
    """Rising inner edges of at most `buckets` buckets with about as many of `values` each, `[buckets - 1] float32`.

    NaN is left out. x belongs to the bucket whose number is how many edges are <= x.
    """
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return np.empty(0, np.float32)
    edges = np.quantile(present, np.arange(1, buckets) / buckets, method="higher")
    return np.unique(edges.astype(np.float32))
