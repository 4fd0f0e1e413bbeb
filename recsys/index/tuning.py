"""Choosing an index's parameters by its measured recall on the model's own vectors and queries.

The choice depends on recall alone, never on a clock, so it is the same on every machine, and a bundle's
bytes are too; latency is published beside the bundle.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from recsys.config.index import IndexConfig
from recsys.evaluation.search import top_k
from recsys.index._faiss import faiss
from recsys.index.kinds import candidates, efforts
from recsys.index.vectors import VectorIndex

TIED = 1e-5
"""A score this close to the last exact one counts as equal: towers give equal vectors to items they cannot tell."""

TIMED_QUERIES = 200


@dataclass(frozen=True)
class Measured:
    """What one setting achieved: its effort, and recall against exact search."""

    build: dict
    effort: int
    recall: float


def measure_recall(index: VectorIndex, ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, at: int) -> float:
    """Mean share of the exact first `at` items that the index finds, items that tie with the last one counted alike.

    `ids` `[n]` and `vectors` `[n, dim]` are what the index should hold, `queries` `[q, dim]` float32.
    """
    at = min(at, len(ids))
    _, exact = top_k(queries, vectors, at)
    found, _ = index.search(queries, at)
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids, np.where(found >= 0, found, ids[0]), sorter=order)]
    scores = np.einsum("qd,qkd->qk", queries, vectors[rows])
    good = (found >= 0) & (scores >= exact[:, -1:] - TIED)
    return float(good.mean())


def measure_latency(index: VectorIndex, queries: np.ndarray, k: int) -> dict[str, float]:
    """Median and 99th percentile of one query's search on one thread, in milliseconds."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        spent = []
        for row in range(min(len(queries), TIMED_QUERIES)):
            start = time.perf_counter()
            index.search(queries[row : row + 1], k)
            spent.append(1e3 * (time.perf_counter() - start))
    finally:
        faiss.omp_set_num_threads(threads)
    return {"p50_ms": float(np.percentile(spent, 50)), "p99_ms": float(np.percentile(spent, 99))}


def _measure_efforts(
    index: VectorIndex, ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, config: IndexConfig
) -> Iterator[Measured]:
    """Measure rising efforts until the target is met or the effort is exhaustive."""
    for effort in efforts(index.settings, len(ids)):
        recall = measure_recall(replace(index, effort=effort), ids, vectors, queries, config.recall_at)
        yield Measured(asdict(index.settings), effort, recall)
        if recall >= config.target_recall:
            return


def build_tuned(
    ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, config: IndexConfig
) -> tuple[VectorIndex, dict]:
    """Build the configured type with the least effort that reaches the target recall (else the best there is).

    `ids` `[n]`, `vectors` `[n, dim]` and `queries` `[q, dim]` float32. Returns the index and what `index.json`
    publishes: the target, the measured recall of the chosen setting, and every setting tried on the way.
    """
    tried: list[Measured] = []
    for settings in candidates(config, len(ids), vectors.shape[1]):
        index = VectorIndex.build(ids, vectors, settings)
        tried.extend(_measure_efforts(index, ids, vectors, queries, config))
        index.effort = tried[-1].effort
        if tried[-1].recall >= config.target_recall:
            break
    return index, {
        "target_recall": config.target_recall,
        "target_reached": tried[-1].recall >= config.target_recall,
        "recall": {"at": min(config.recall_at, len(ids)), "value": tried[-1].recall, "queries": len(queries)},
        "tried": [asdict(one) for one in tried],
    }
