"""Choosing an index's parameters by its measured recall on the model's own vectors and queries.

The choice depends on recall alone, never on a clock, so it is the same on every machine; latency is published beside.
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
    """What one setting achieved: `effort`, recall against exact search, and milliseconds of a single query."""

    effort: int
    recall: float
    p50_ms: float
    p99_ms: float


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


def measure_latency(index: VectorIndex, queries: np.ndarray, k: int) -> tuple[float, float]:
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
    return float(np.percentile(spent, 50)), float(np.percentile(spent, 99))


def _measure_efforts(
    index: VectorIndex, ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, config: IndexConfig
) -> Iterator[Measured]:
    """Measure rising efforts until the target is met or the effort is exhaustive."""
    k = min(config.recall_at, len(ids))
    for effort in efforts(index.settings, len(ids)):
        tried = replace(index, effort=effort)
        recall = measure_recall(tried, ids, vectors, queries, config.recall_at)
        yield Measured(effort, recall, *measure_latency(tried, queries, k))
        if recall >= config.target_recall:
            return


def build_tuned(
    ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, config: IndexConfig
) -> tuple[VectorIndex, dict]:
    """Build the configured type with the least effort that reaches the target recall (else the best there is).

    Returns the index and what `index.json` publishes: the target, the measured recall and latency of the chosen
    setting, and every setting tried on the way.
    """
    tried: list[dict] = []
    for settings in candidates(config, len(ids), vectors.shape[1]):
        index = VectorIndex.build(ids, vectors, settings)
        for measured in _measure_efforts(index, ids, vectors, queries, config):
            tried.append({"build": asdict(settings)} | asdict(measured))
        index.effort, recall = measured.effort, measured.recall
        if recall >= config.target_recall:
            break
    return index, {
        "target_recall": config.target_recall,
        "target_reached": recall >= config.target_recall,
        "recall": {"at": min(config.recall_at, len(ids)), "value": recall, "queries": len(queries)},
        "latency_ms": {"p50": measured.p50_ms, "p99": measured.p99_ms, "threads": 1},
        "tried": tried,
    }
