"""A loaded bundle: queries to vectors to items, with names. What evaluation, replay and serving share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from recsys.artifacts import Artifact, open_artifact
from recsys.dataset_folder import dense_column, read_parquet
from recsys.encoding.vocabulary import Vocabulary
from recsys.errors import UserError
from recsys.registry import BUNDLE_FORMAT, BUNDLE_KIND
from recsys.schema import FIRST_VALUE_ID, ITEM, MISSING_ID, RETRIEVAL_SCORE, USER, Kind, Schema, Side
from recsys.scoring.history import Histories, map_array
from recsys.scoring.query import Query, QueryEncoder
from recsys.scoring.ranker import Ranker, Scores, load_ranker
from recsys.scoring.retrieval_score import pair_scores
from recsys.scoring.towers import Tower, load_tower

if TYPE_CHECKING:
    from recsys.index.vectors import VectorIndex

Mark = Callable[[str], None]


@dataclass(frozen=True)
class Recommended:
    """One recommended item: its raw id, title (None where the data have none) and score, the cosine of the vectors."""

    item: str
    title: str | None
    score: float


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """An opened bundle. Towers, index and ranker are loaded at first use; `warm` does that ahead of traffic.

    Every method may be called from many threads once the bundle is warm.
    """

    artifact: Artifact
    schema: Schema
    vocabularies: Mapping[str, Vocabulary]
    items: pa.Table
    histories: Histories
    encoder: QueryEncoder

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> "LoadedBundle":
        """Open and check a bundle folder; raises UserError for a missing, truncated or inconsistent one."""
        artifact = open_artifact(Path(path), BUNDLE_KIND, BUNDLE_FORMAT, verify=verify)
        folder = artifact.path
        schema = Schema.model_validate_json((folder / "model" / "schema.json").read_text(encoding="utf-8"))
        vocabularies = {
            name: Vocabulary.read(folder / "vocabulary" / f"{name}.parquet") for name in schema.vocabularies
        }
        items, users = read_parquet(folder / "items.parquet"), read_parquet(folder / "users.parquet")
        for name, table in ((ITEM, items), (USER, users)):
            if len(table) + FIRST_VALUE_ID != vocabularies[name].size:
                raise UserError(
                    f"{folder}: {name}s.parquet has {len(table)} rows, but vocabulary/{name}.parquet has "
                    f"{vocabularies[name].size - FIRST_VALUE_ID} values; the vocabulary is another data set's. Make "
                    "the bundle again with 'recsys index'."
                )
        encoder = QueryEncoder(schema, vocabularies, users)
        return cls(artifact, schema, vocabularies, items, Histories.open(folder / "histories"), encoder)

    @property
    def bundle_id(self) -> str:
        """The bundle's identity, which every answer carries."""
        return self.artifact.artifact_id

    @cached_property
    def query_tower(self) -> Tower:
        """Query arrays to vectors."""
        return load_tower(self.artifact.path / "model" / "query_tower")

    @cached_property
    def item_tower(self) -> Tower:
        """Item arrays to vectors."""
        return load_tower(self.artifact.path / "model" / "item_tower")

    @cached_property
    def index(self) -> "VectorIndex":
        """The retrieval index of the item vectors."""
        from recsys.index.vectors import open_index

        return open_index(self.artifact.path / "index")

    @cached_property
    def ranker(self) -> Ranker | None:
        """Pairs of query and candidate to probabilities and activations; None where the bundle has no ranker."""
        folder = self.artifact.path / "ranker"
        return load_ranker(folder) if folder.is_dir() else None

    def warm(self) -> None:
        """Load all that an answer needs and answer once, so that the first request is as quick as the next."""
        self.recommend([Query()], 1)
        if self.ranker is not None:
            unknown = {name: np.full((1, 1), np.nan) for name in self.moving}
            self.score(self.encoder.encode([Query()]), np.array([[FIRST_VALUE_ID]]), moving=unknown)

    def embed_queries(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Vectors of encoded queries, `[n, dim] float32`, L2-normalised."""
        return self.query_tower(arrays)

    def embed_items(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Vectors of encoded items, `[m, dim] float32`, L2-normalised; for items that the index does not hold yet."""
        return self.item_tower(arrays)

    def retrieve(
        self, vectors: np.ndarray, k: int, exclude: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query vector: ids `[n, k] int32` and scores `[n, k] float32`, best first.

        `exclude` holds item ids `[any]` for each query that must not appear. Where fewer than k are found the row ends
        with id -1 and score -inf.
        """
        excluded = None
        if exclude is not None:
            offsets = np.cumsum([0, *(len(one) for one in exclude)], dtype=np.int64)
            excluded = offsets, np.concatenate([*exclude, np.empty(0, np.int64)]).astype(np.int64)
        ids, scores = self.index.search(vectors, k, exclude=excluded)
        return ids.astype(np.int32), scores

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """The catalogue's vectors, `[items, dim] float32`, row = id - 3, memory-mapped."""
        return map_array(self.artifact.path / "model" / "vectors.npy")

    def retrieval_scores(self, vectors: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What a ranker reads as `retrieval_score`: of each query vector with item ids `[n, k]`, `[n, k] float32`.

        Exact also where the index is not (see `pair_scores`); -inf where the id is -1.
        """
        owner, place = np.nonzero(ids >= 0)
        scores = np.full(ids.shape, -np.inf, np.float32)
        scores[owner, place] = pair_scores(vectors[owner], self.item_vectors[ids[owner, place] - FIRST_VALUE_ID])
        return scores

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """The item fields that the ranker reads as of now, which the bundle does not hold: `score` is given them."""
        reads = () if self.ranker is None else self.ranker.inputs
        return tuple(one.name for one in self.schema.of(Side.ITEM, Kind.POINT_IN_TIME) if one.name in reads)

    def score(
        self,
        arrays: Mapping[str, np.ndarray],
        ids: np.ndarray,
        *,
        vectors: np.ndarray | None = None,
        moving: Mapping[str, np.ndarray] | None = None,
    ) -> Scores:
        """The ranker's calibrated probabilities and named activations of all candidates, in one call.

        `arrays` are n encoded queries, `ids` `[n, k]` their candidates' item ids (each 3 or more; -1: none). A row of
        the result is a pair of query and candidate, query by query, those of id -1 left out. `vectors` `[n, dim]` are
        the queries', made here where they are not given and the ranker reads the retrieval score. `moving` holds the
        fields of that name, `[n, k]` each: NaN or the missing id where unknown. Raises UserError where the bundle has
        no ranker, or one of the moving fields is not given.
        """
        ranker = self.ranker
        if ranker is None:
            raise UserError(
                f"{self.artifact.path}: the bundle has no ranker to score with; give the configuration a 'ranking' "
                "section and make it again with 'recsys run'."
            )
        owner, place = np.nonzero(ids >= 0)
        asked = ids[owner, place]
        columns = {name: arrays[name][owner] for name in ranker.inputs if name in arrays}
        columns |= {name: values[asked] for name, values in self._item_columns.items()} | {ITEM: asked}
        for name in self.moving:
            if moving is None or name not in moving:
                raise UserError(
                    f"{self.artifact.path}: the ranker reads '{name}', a value of the item as of now, which the bundle "
                    f"does not hold; give it in 'moving', as all of {list(self.moving)}."
                )
            columns[name] = _as_read(moving[name][owner, place], ranker.inputs[name])
        if RETRIEVAL_SCORE in ranker.inputs:
            of_query = self.embed_queries(arrays) if vectors is None else vectors
            columns[RETRIEVAL_SCORE] = self.retrieval_scores(of_query, ids)[owner, place]
        return ranker.score(columns)

    @cached_property
    def _item_columns(self) -> dict[str, np.ndarray]:
        """The items' features that the ranker reads, by id, the special ids in front."""
        reads = () if self.ranker is None else self.ranker.inputs
        static = self.schema.of(Side.ITEM, Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)
        return {one.name: dense_column(self.items[one.name], one) for one in static if one.name in reads}

    def recommend(
        self, queries: Sequence[Query], k: int, *, exclude_seen: bool = True, mark: Mark = lambda step: None
    ) -> list[list[Recommended]]:
        """Encode, embed, retrieve and name: at most k items for each query, best first.

        `exclude_seen` leaves out what the user is known to have chosen and what the query gives as history. `mark` is
        called with the name of each step as it ends.
        """
        arrays = self.encoder.encode(queries)
        mark("encode")
        vectors = self.embed_queries(arrays)
        mark("embed")
        ids, scores = self.retrieve(vectors, k, self.seen(queries) if exclude_seen else None)
        mark("retrieve")
        found = [self.named(row[row >= 0], marks[row >= 0]) for row, marks in zip(ids, scores, strict=True)]
        mark("name")
        return found

    def seen(self, queries: Sequence[Query]) -> list[np.ndarray]:
        """Item ids that each query's user is known to have chosen, the query's own history included."""
        given = [self.encoder.item_ids(query.history or ()) for query in queries]
        users = self.encoder.user_ids(queries)
        return [np.concatenate([self.histories.of(int(user)), more]) for user, more in zip(users, given, strict=True)]

    def named(self, ids: np.ndarray, scores: np.ndarray) -> list[Recommended]:
        """Raw ids and titles of item ids (each 3 or more) beside their scores."""
        rows = pa.array(np.asarray(ids, np.int64) - FIRST_VALUE_ID)
        raw, titles = self.items["raw"].take(rows).to_pylist(), self.titles(ids)
        return [Recommended(*one) for one in zip(raw, titles, map(float, scores), strict=True)]

    def titles(self, ids: Iterable[int] | np.ndarray) -> list[Any]:
        """Titles of item ids (each 3 or more), None where the data have none."""
        rows = pa.array(np.asarray(ids, np.int64) - FIRST_VALUE_ID)
        return self.items["title"].take(rows).to_pylist() if "title" in self.items.column_names else [None] * len(rows)

    def knows(self, user: str) -> bool:
        """Whether a raw user id is among the bundle's users."""
        return bool(self.encoder.user_ids([Query(user=user)])[0] >= FIRST_VALUE_ID)

    def history(self, user: str) -> list[Recommended]:
        """What a known user chose, oldest first (score 0); raises UserError where the bundle does not hold the user."""
        known = int(self.encoder.user_ids([Query(user=user)])[0])
        if known < FIRST_VALUE_ID:
            raise UserError(
                f"user '{user}': not among the {len(self.encoder.users)} users of {self.artifact.path}; give a known "
                "one, or ask with --history ITEM,ITEM,… instead."
            )
        ids = self.histories.of(known)
        return self.named(ids, np.zeros(len(ids)))

    def unknown_items(self, items: Sequence[str]) -> list[str]:
        """Those of the raw item ids that the catalogue does not hold, in their order."""
        return [item for item, id_ in zip(items, self.encoder.item_ids(items), strict=True) if id_ < FIRST_VALUE_ID]

    def named_raw(self, items: Sequence[str]) -> list[Recommended]:
        """Titles of raw item ids (score 0); None for those that the catalogue does not hold."""
        ids = self.encoder.item_ids(items)
        titles = iter(self.titles(ids[ids >= FIRST_VALUE_ID]))
        return [
            Recommended(item, next(titles) if id_ >= FIRST_VALUE_ID else None, 0.0)
            for item, id_ in zip(items, ids, strict=True)
        ]

    def typical_user(self) -> str:
        """Raw id of a user whose history has the median length, to show as an example."""
        lengths = np.diff(self.histories.offsets)
        return str(self.encoder.users["raw"][int(np.argsort(lengths, kind="stable")[len(lengths) // 2])].as_py())


def _as_read(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values of an item field as the ranker reads them: of ids, NaN is the missing one."""
    if np.issubdtype(dtype, np.integer):
        values = np.where(np.isnan(values), MISSING_ID, values)
    return values.astype(dtype)
