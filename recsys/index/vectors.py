"""A FAISS index with external ids: search, add, remove, save and load, the same for every type.

Searches may run in parallel; a change (`add`, `remove`) needs the index for itself. Removing leaves a tombstone for
every type, since HNSW cannot delete and a mapped file must not change; building anew drops them.
"""

import json
from collections.abc import Iterator
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
        get. `allow` `[m]` limits all queries to these ids. Returns ids `[n, k] int64` and scores `[n, k] float32`,
        filled with NO_ID and -inf where fewer than `k` items are left. Equal scores are ordered by rising id, also
        where the cut at `k` runs through them, among what the search looked at: everything for `flat`.

        Queries that come back short are asked again with more effort, at last exhaustively; those with a tie at the
        cut are asked for more.
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
        if available == 0 or k == 0:
            return found, scores
        excluded = np.diff(exclude[0]) if exclude is not None else np.zeros(len(queries), np.int64)
        enough = np.minimum(k + excluded, available)
        first = min(available, k + int(excluded.max(initial=0)) + 1)
        short = np.arange(len(queries))
        for search in self._searches(allowed):
            rows, fetch, short = short, first, short[:0]
            while len(rows):
                fetched_scores, fetched = search.run(queries[rows], fetch)
                worst = fetched_scores[:, -1].copy()
                lacking = (fetched >= 0).sum(axis=1) < enough[rows]
                if exclude is not None:
                    drop = self._is_excluded(fetched, _of_rows(exclude, rows))
                    fetched[drop], fetched_scores[drop] = NO_ID, -np.inf
                order = np.lexsort((fetched, -fetched_scores), axis=1)[:, :k]
                found[rows, : order.shape[1]] = np.take_along_axis(fetched, order, axis=1)
                scores[rows, : order.shape[1]] = np.take_along_axis(fetched_scores, order, axis=1)
                tied = (fetch < available) & np.isfinite(worst) & (scores[rows, -1] == worst)
                short = np.concatenate([short, rows[lacking]])
                rows, fetch = rows[tied & ~lacking], min(available, 2 * fetch)
            if not len(short):
                break
        return found, scores

    def _searches(self, allowed: np.ndarray) -> Iterator["_Search"]:
        """Ways of searching the `allowed` positions, each more thorough than the one before; the last sees them all."""
        bits = np.packbits(allowed, bitorder="little")
        selector = None if allowed.all() else faiss.IDSelectorBitmap(bits)
        limit = self.settings.lists or len(self.ids)
        effort = self.effort
        while self.settings.type != "flat" and effort < limit and allowed.mean() >= SELECTIVE:
            yield _Search(self.faiss_index, self.settings, effort, selector, bits, self.ids)
            effort = max(1, 2 * effort)
        yield _Search(*exhaustive(self.faiss_index, self.settings), selector, bits, self.ids)

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


@dataclass(frozen=True, eq=False)
class _Search:
    """One way of searching: a FAISS index, its settings, the effort, and the positions that a `selector` allows.

    `bits` are what the selector points into.
    """

    index: Any
    settings: BuildSettings
    effort: int
    selector: Any
    bits: np.ndarray
    ids: np.ndarray

    def run(self, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the best `fetch`, `[n, fetch]`, -inf and NO_ID at the end where fewer were found."""
        asked = parameters(self.settings, self.effort, fetch, self.selector)
        scores, positions = self.index.search(queries, fetch, params=asked)
        found = np.where(positions >= 0, self.ids[positions], NO_ID)
        return np.where(positions >= 0, scores, -np.inf).astype(np.float32), found


def _of_rows(exclude: Exclusion, rows: np.ndarray) -> Exclusion:
    """The exclusions of some queries."""
    offsets, ids = exclude
    sizes = np.diff(offsets)[rows]
    ends = np.cumsum(sizes)
    places = np.repeat(np.asarray(offsets)[rows] - ends + sizes, sizes) + np.arange(int(sizes.sum()))
    return np.concatenate([[0], ends]), np.asarray(ids)[places]


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
