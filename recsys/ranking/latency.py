"""How long it takes to score one request's candidates, before and after pruning."""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys._tensorflow import tf

CANDIDATES = 200
CALLS = 200


def scoring_latency(function: Any, arrays: Mapping[str, np.ndarray], calls: int = CALLS) -> dict[str, float]:
    """Median and 99th percentile of one call of a scoring function (export.py) with 200 rows, in milliseconds.

    Each call has rows of its own out of `arrays`, by column name, from NumPy to NumPy; they are repeated where there
    are few.
    """
    form = function.structured_input_signature[1]
    spent = []
    for call in range(-10, calls):  # the first ten warm up
        started = time.perf_counter()
        part = {}
        for name, spec in form.items():
            places = np.arange(call * CANDIDATES, (call + 1) * CANDIDATES) % len(arrays[name])
            part[name] = tf.constant(arrays[name][places], spec.dtype)
        for values in function(**part).values():
            values.numpy()
        spent.append(1e3 * (time.perf_counter() - started))
    return {"p50_ms": float(np.median(spent[10:])), "p99_ms": float(np.quantile(spent[10:], 0.99))}


def latency_report(before: Any, after: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of two scoring functions, as the file beside a ranker's folder holds it; `before` None: nothing was pruned."""
    found = {"candidates": CANDIDATES, "calls": CALLS, "cores": os.cpu_count()}
    both = {"before": before, "after": after} if before is not None else {"after": after}
    return found | {name: scoring_latency(function, arrays) for name, function in both.items()}
