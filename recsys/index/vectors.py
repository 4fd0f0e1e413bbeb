"""A FAISS index with external ids: search, add, remove, save and load, the same for every type.

Searches may run in parallel; a change (`add`, `remove`) needs the index for itself. Removing leaves a tombstone for
every type, since HNSW cannot delete and a mapped file must not change; building anew drops them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import UserError
from recsys.evaluation.search import Exclusion, row_numbers
from recsys.index._faiss import faiss
from recsys.index.kinds import BuildSettings, add_in_order, create, exhaustive, parameters

NO_ID = -1
"""Fills the end of a result row that has fewer than `k` items, and marks a tombstone in `ids`."""

INDEX_FILE = "index.faiss"
IDS_FILE = "ids.npy"
INFO_FILE = "index.json"

SELECTIVE = 0.1
"""Below this share of allowed vectors every stored one is looked at: an approximate search would return too few."""

MOST = 0.5
"""Who asks for more than this share of the allowed vectors gets them from an exhaustive search too."""


@dataclass(eq=False)
class VectorIndex:
    """Vectors under item ids. `ids` `[positions] int64` gives each FAISS position its id, NO_ID where removed.

    `effort` is what a search spends (lists probed, or HNSW candidates; 0 for flat).
    """

    faiss_index: Any
    ids: np.ndarray
    settings: BuildSettings
    effort: int
    mapped_from: Path | None = None

    @classmethod
    def build(cls, ids: np.ndarray, vectors: np.ndarray, settings: BuildSettings, effort: int = 0) -> "VectorIndex":
        """Index `vectors` `[n, dim] float32` under distinct, non-negative `ids` `[n]`."""
        ids, vectors = _checked(ids, vectors, vectors.shape[1])
        return cls(create(settings, vectors), ids, settings, effort)

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self.faiss_index.d)

    def __len__(self) -> int:
        """Number of items, without tombstones."""
        return int((self.ids >= 0).sum())

    def search(
        self, queries: np.ndarray, k: int, *, exclude: Exclusion | None = None, allow: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` items with the largest dot product for each query, best first.

        `queries` is `[n, dim] float32`. `exclude` (offsets int64 `[n + 1]`, ids) names items that each query must not
        get: so many more are fetched. `allow` `[m]` limits all queries to these ids. Returns ids `[n, k] int64` and
        scores `[n, k] float32`, equal scores by rising id, filled with NO_ID and -inf.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries have shape {queries.shape}; expected [n, {self.dimension}]")
        found = np.full((len(queries), k), NO_ID, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        allowed = self.ids >= 0
        if allow is not None:
            allowed &= np.isin(self.ids, allow)
        available = int(allowed.sum())
        most = int(np.diff(exclude[0]).max(initial=0)) if exclude is not None else 0
        fetch = min(available, k + most)
        if fetch == 0 or len(queries) == 0:
            return found, scores
        fetched_scores, fetched = self._fetch(queries, fetch, allowed)
        if exclude is not None:
            drop = self._is_excluded(fetched, exclude)
            fetched[drop], fetched_scores[drop] = NO_ID, -np.inf
        order = np.lexsort((fetched, -fetched_scores), axis=1)[:, :k]
        found[:, : order.shape[1]] = np.take_along_axis(fetched, order, axis=1)
        scores[:, : order.shape[1]] = np.take_along_axis(fetched_scores, order, axis=1)
        return found, scores

    def _fetch(self, queries: np.ndarray, fetch: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the best `fetch` allowed vectors, NO_ID and -inf at the end where fewer were found."""
        index, settings, effort = self.faiss_index, self.settings, self.effort
        selector = None
        bits = np.packbits(allowed, bitorder="little")
        if not allowed.all():
            selector = faiss.IDSelectorBitmap(bits)
        if allowed.mean() < SELECTIVE or fetch > MOST * int(allowed.sum()):
            index, settings, effort = exhaustive(index, settings)
        scores, positions = index.search(queries, fetch, params=parameters(settings, effort, fetch, selector))
        found = np.where(positions >= 0, self.ids[positions], NO_ID)
        return np.where(positions >= 0, scores, -np.inf).astype(np.float32), found

    @staticmethod
    def _is_excluded(fetched: np.ndarray, exclude: Exclusion) -> np.ndarray:
        offsets, ids = exclude
        width = 2 + max(int(fetched.max(initial=0)), int(np.max(ids, initial=0)))
        given = np.arange(len(fetched), dtype=np.int64)[:, None] * width + fetched
        return np.isin(given, row_numbers(offsets) * width + np.asarray(ids, np.int64)) & (fetched >= 0)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors; an id that is already there gets the new vector in place of its old one."""
        ids, vectors = _checked(ids, vectors, self.dimension)
        self._own()
        self.remove(ids)
        if self.settings.type == "hnsw":
            add_in_order(self.faiss_index, vectors)
        else:
            self.faiss_index.add(vectors)
        self.ids = np.concatenate([self.ids, ids])

    def remove(self, ids: np.ndarray) -> int:
        """Take items out of all later results; returns how many of `ids` were there."""
        gone = np.isin(self.ids, ids) & (self.ids >= 0)
        self.ids = np.where(gone, NO_ID, self.ids)
        return int(gone.sum())

    def _own(self) -> None:
        """Replace a memory-mapped index by one in memory, which can grow."""
        if self.mapped_from is not None:
            self.faiss_index = faiss.read_index(str(self.mapped_from))
            self.mapped_from = None

    def save(self, folder: Path, info: dict[str, Any]) -> None:
        """Write `index.faiss`, `ids.npy` and `index.json` (`info` beside what loading needs) into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.faiss_index, str(folder / INDEX_FILE))
        np.save(folder / IDS_FILE, self.ids)
        head = {"dimension": self.dimension, "items": len(self), "effort": self.effort, "build": asdict(self.settings)}
        (folder / INFO_FILE).write_text(json.dumps(head | info, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def open_index(folder: Path, *, mapped: bool = True) -> VectorIndex:
    """Load a saved index, memory-mapped unless told otherwise.

    Raises UserError naming the file where one is missing, truncated or does not belong to the others.
    """
    folder = Path(folder)
    info_file, ids_file, index_file = folder / INFO_FILE, folder / IDS_FILE, folder / INDEX_FILE
    for file in (info_file, ids_file, index_file):
        if not file.is_file():
            raise UserError(f"{file}: missing; an index folder holds {INDEX_FILE}, {IDS_FILE} and {INFO_FILE}.")
    try:
        info = json.loads(info_file.read_text(encoding="utf-8"))
        settings, effort = BuildSettings(**info["build"]), int(info["effort"])
        dimension, items = int(info["dimension"]), int(info["items"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{info_file}: not the description of an index ({error!r}); build the index again.") from None
    try:
        ids = np.load(ids_file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{ids_file}: not a readable array ({error}); build the index again.") from None
    try:
        index = faiss.read_index(str(index_file), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        reason = str(error).split("Error: ")[-1][:160]
        raise UserError(
            f"{index_file}: not a readable FAISS index ({reason}); it was truncated or is another file. Build the "
            "index again."
        ) from None
    if index.d != dimension or index.ntotal != len(ids) or int((ids >= 0).sum()) != items:
        raise UserError(
            f"{index_file}: holds {index.ntotal} vectors of {index.d} numbers, but {IDS_FILE} has {len(ids)} ids and "
            f"{INFO_FILE} says {items} items of {dimension} numbers; the files belong to different indexes. Build the "
            "index again."
        )
    return VectorIndex(index, ids.astype(np.int64), settings, effort, index_file if mapped else None)


def _checked(ids: np.ndarray, vectors: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.asarray(ids, np.int64)
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.shape != (len(ids), dimension):
        raise ValueError(f"{len(ids)} ids with vectors of shape {vectors.shape}; expected [{len(ids)}, {dimension}]")
    if len(np.unique(ids)) != len(ids) or ids.min(initial=0) < 0:
        raise ValueError("ids must be distinct and not negative")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite")
    return ids, vectors
