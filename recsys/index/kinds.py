"""The four FAISS index types: how each is made, which effort a search can spend, and how a search is told of it.

Positions inside FAISS are 0, 1, 2, … in the order of adding; recsys/index/vectors.py maps them to item ids.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.config.index import IndexConfig
from recsys.errors import UserError
from recsys.index._faiss import faiss

SEED = 1234
"""Seeds k-means; a build is a function of vectors and settings alone."""

CODE_BITS = 8


@dataclass(frozen=True)
class BuildSettings:
    """What an index was built with; `lists`, `neighbours` and `code_bytes` are None where the type has none."""

    type: str
    lists: int | None = None
    neighbours: int | None = None
    build_effort: int | None = None
    code_bytes: int | None = None


def candidates(config: IndexConfig, count: int, dimension: int) -> list[BuildSettings]:
    """Settings to try for `count` vectors, cheapest first; more than one only for `ivf_pq` with free `code_bytes`.

    Raises UserError where `code_bytes` does not divide `dimension`.
    """
    lists = min(config.lists or max(1, round(2 * math.sqrt(count))), max(1, count))
    if config.type == "flat":
        return [BuildSettings("flat")]
    if config.type == "ivf":
        return [BuildSettings("ivf", lists=lists)]
    if config.type == "hnsw":
        return [BuildSettings("hnsw", neighbours=config.neighbours, build_effort=config.build_effort)]
    if config.code_bytes and dimension % config.code_bytes:
        fitting = ", ".join(map(str, _divisors(dimension)))
        raise UserError(
            f"index.code_bytes: {config.code_bytes} does not divide the vectors' dimension {dimension}; expected "
            f"one of {fitting}, or none, to have the fewest that reach index.target_recall."
        )
    sizes = [config.code_bytes] if config.code_bytes else [d for d in _divisors(dimension) if d * 8 >= dimension]
    return [BuildSettings("ivf_pq", lists=lists, code_bytes=size) for size in sizes]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def create(settings: BuildSettings, vectors: np.ndarray) -> Any:
    """A trained FAISS inner-product index that holds `vectors` `[n, dim] float32`."""
    dimension = vectors.shape[1]
    if settings.type == "flat":
        index: Any = faiss.IndexFlatIP(dimension)
    elif settings.type == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, settings.neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.build_effort
    else:
        index = _inverted(settings, dimension)
        _train(index, vectors)
    if settings.type == "hnsw":
        add_in_order(index, vectors)
    else:
        index.add(vectors)
    return index


def add_in_order(index: Any, vectors: np.ndarray) -> None:
    """Add with one thread: the links of an HNSW graph depend on the order in which threads get there."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)


def _inverted(settings: BuildSettings, dimension: int) -> Any:
    quantiser = faiss.IndexFlatIP(dimension)
    if settings.type == "ivf":
        index = faiss.IndexIVFFlat(quantiser, dimension, settings.lists, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(
            quantiser, dimension, settings.lists, settings.code_bytes, CODE_BITS, faiss.METRIC_INNER_PRODUCT
        )
    # The quantiser would be freed with its Python name.
    index.own_fields = True
    quantiser.this.disown()
    return index


def _train(index: Any, vectors: np.ndarray) -> None:
    """Run k-means, repeating vectors where there are fewer than a code book needs."""
    index.cp.seed = SEED
    needed = index.nlist
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.seed = SEED
        needed = max(needed, 1 << CODE_BITS)
    # FAISS warns below 39 points a centroid; small catalogues are legitimate here.
    index.cp.min_points_per_centroid = 1
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.min_points_per_centroid = 1
    repeats = -(-needed // max(1, len(vectors)))
    index.train(np.tile(vectors, (repeats, 1)) if repeats > 1 else vectors)


def efforts(settings: BuildSettings, count: int) -> Iterator[int]:
    """Search efforts worth trying, rising: lists to probe, or candidates of an HNSW search. The last is exhaustive."""
    if settings.type == "flat":
        yield 0
        return
    limit = settings.lists or max(count, 1)
    effort = 1 if settings.lists else 16
    while effort < limit:
        yield effort
        effort *= 2
    yield limit


def parameters(settings: BuildSettings, effort: int, fetch: int, selector: Any) -> Any:
    """FAISS search parameters for one call that fetches `fetch` results among those that `selector` allows."""
    if settings.type == "flat":
        return faiss.SearchParameters(sel=selector)
    if settings.type == "hnsw":
        return faiss.SearchParametersHNSW(sel=selector, efSearch=max(effort, fetch))
    return faiss.SearchParametersIVF(sel=selector, nprobe=effort)


def exhaustive(index: Any, settings: BuildSettings) -> tuple[Any, BuildSettings, int]:
    """What to search, and how, so that no stored vector is passed over: for filters that leave few of them."""
    if settings.type == "hnsw":
        return faiss.downcast_index(index.storage), BuildSettings("flat"), 0
    return index, settings, settings.lists or 0
