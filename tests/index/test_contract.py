"""One behaviour suite that every index type passes; what a type may do worse is written down as a bound, not a skip."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config.index import IndexConfig
from recsys.errors import UserError
from recsys.evaluation.search import row_numbers
from recsys.index._faiss import faiss
from recsys.index.kinds import candidates
from recsys.index.vectors import IDS_FILE, INDEX_FILE, INFO_FILE, NO_ID, VectorIndex, open_index

TYPES = ("flat", "ivf", "hnsw", "ivf_pq")
EXACT = ("flat", "ivf", "hnsw")
"""Types that store vectors whole: with exhaustive effort they answer as exact search does."""
COUNT, DIMENSION = 300, 16


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(kind: str, seed: int = 0) -> tuple[VectorIndex, np.ndarray, np.ndarray]:
    """A copy of an index at its largest effort, its ids (neither dense nor sorted) and its vectors."""
    index, ids, vectors = built(kind, seed)
    return replace(index, faiss_index=faiss.clone_index(index.faiss_index)), ids, vectors


@functools.lru_cache
def built(kind: str, seed: int) -> tuple[VectorIndex, np.ndarray, np.ndarray]:
    """As `build`, made once a type."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng, COUNT)
    ids = rng.permutation(10 * COUNT)[:COUNT].astype(np.int64) + 3
    settings = candidates(IndexConfig(type=kind, code_bytes=DIMENSION // 2), COUNT, DIMENSION)[0]
    index = VectorIndex.build(ids, vectors, settings)
    index.effort = {"flat": 0, "hnsw": COUNT}.get(kind, settings.lists or 0)
    return index, ids, vectors


def exact(ids: np.ndarray, vectors: np.ndarray, query: np.ndarray, k: int, banned: set[int] = frozenset()) -> list[int]:
    """Plain float64 oracle: sort everything."""
    scored = [(-float(np.dot(v.astype(float), query.astype(float))), int(i)) for i, v in zip(ids, vectors, strict=True)]
    return [i for _, i in sorted(scored) if i not in banned][:k]


@pytest.mark.parametrize("kind", TYPES)
class TestEveryType:
    def test_an_items_own_vector_finds_it_first(self, kind: str) -> None:
        index, ids, vectors = build(kind)
        found, scores = index.search(vectors[:50], 1)
        np.testing.assert_array_equal(found[:, 0], ids[:50])
        assert (scores[:, 0] > 0.8).all()

    def test_a_withheld_item_comes_first_once_added(self, kind: str) -> None:
        index, ids, _ = build(kind)
        query = unit(np.random.default_rng(9), 1)
        assert 999_999 not in index.search(query, 20)[0]
        index.add(np.array([999_999]), query)
        assert index.search(query, 1)[0][0, 0] == 999_999
        assert len(index) == len(ids) + 1

    def test_results_are_external_ids_by_falling_score(self, kind: str) -> None:
        index, ids, _ = build(kind)
        found, scores = index.search(unit(np.random.default_rng(1), 20), 15)
        assert np.isin(found, ids).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        assert all(len(set(row)) == 15 for row in found)

    def test_a_batch_answers_as_single_queries_do(self, kind: str) -> None:
        index, _, _ = build(kind)
        queries = unit(np.random.default_rng(2), 40)
        together = index.search(queries, 10)
        alone = [index.search(query[None], 10) for query in queries]
        np.testing.assert_array_equal(together[0], np.concatenate([one[0] for one in alone]))
        np.testing.assert_allclose(together[1], np.concatenate([one[1] for one in alone]), atol=1e-5)

    def test_asking_for_more_than_there_are_gives_all_and_then_nothing(self, kind: str) -> None:
        index, ids, _ = build(kind)
        index.effort = 1
        found, scores = index.search(unit(np.random.default_rng(3), 3), COUNT + 7)
        for row, marks in zip(found, scores, strict=True):
            assert set(row[:COUNT]) == set(ids)
            assert (row[COUNT:] == NO_ID).all() and np.isneginf(marks[COUNT:]).all()

    def test_exclusion_is_by_query_and_the_rest_keeps_its_order(self, kind: str) -> None:
        index, _, _ = build(kind)
        queries = unit(np.random.default_rng(4), 6)
        plain, _ = index.search(queries, 40)
        sizes = np.array([0, 1, 5, 20, 30, 3])
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        banned = np.concatenate([plain[row, : sizes[row]] for row in range(6)])
        found, _ = index.search(queries, 10, exclude=(offsets, banned))
        for row in range(6):
            np.testing.assert_array_equal(found[row], plain[row, sizes[row] : sizes[row] + 10])

    @pytest.mark.parametrize("share", [0.02, 0.5])
    def test_only_allowed_ids_come_back_and_all_of_them_can(self, kind: str, share: float) -> None:
        index, ids, _ = build(kind)
        index.effort = min(index.effort, 4)
        allowed = np.random.default_rng(5).permutation(ids)[: int(share * COUNT)]
        found, _ = index.search(unit(np.random.default_rng(6), 4), len(allowed), allow=allowed)
        for row in found:
            assert set(row) == set(allowed)

    def test_removed_items_never_come_back(self, kind: str) -> None:
        index, ids, vectors = build(kind)
        assert index.remove(np.append(ids[:30], 123_456_789)) == 30
        found, _ = index.search(vectors[:30], 50)
        assert np.isin(found, ids[30:]).all(), "50 others are there, and no gap where a removed one stood"
        assert len(index) == COUNT - 30
        assert index.remove(ids[:30]) == 0

    def test_adding_a_known_id_replaces_its_vector(self, kind: str) -> None:
        index, ids, vectors = build(kind)
        index.add(ids[:1], -vectors[:1])
        assert index.search(-vectors[:1], 1)[0][0, 0] == ids[0]
        assert index.search(vectors[:1], 1)[0][0, 0] != ids[0]
        assert len(index) == COUNT

    @pytest.mark.parametrize("mapped", [True, False])
    def test_saved_and_loaded_it_answers_the_same_and_can_still_change(
        self, kind: str, mapped: bool, tmp_path: Path
    ) -> None:
        index, ids, vectors = build(kind)
        index.remove(ids[:5])
        index.save(tmp_path, {})
        loaded = open_index(tmp_path, mapped=mapped)
        queries = unit(np.random.default_rng(7), 10)
        for ours, theirs in zip(index.search(queries, 20), loaded.search(queries, 20), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        before = (tmp_path / INDEX_FILE).read_bytes()
        loaded.add(np.array([7_000_000]), vectors[:1])
        assert 7_000_000 in loaded.search(vectors[:1], 2)[0]
        assert (tmp_path / INDEX_FILE).read_bytes() == before

    def test_equal_builds_have_equal_bytes(self, kind: str, tmp_path: Path) -> None:
        for name in ("one", "two"):
            built.__wrapped__(kind, 0)[0].save(tmp_path / name, {})
        for file in (INDEX_FILE, IDS_FILE, INFO_FILE):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()

    def test_truncated_foreign_and_missing_files_are_named(self, kind: str, tmp_path: Path) -> None:
        index, ids, vectors = build(kind)
        for place, file in enumerate((INDEX_FILE, IDS_FILE, INFO_FILE)):
            folder = tmp_path / str(place)
            index.save(folder, {})
            whole = (folder / file).read_bytes()
            (folder / file).write_bytes(whole[: len(whole) // 2])
            with pytest.raises(UserError, match=file):
                open_index(folder)
            (folder / file).unlink()
            with pytest.raises(UserError, match=f"{file}: missing"):
                open_index(folder)
        other = tmp_path / "other"
        index.save(other, {})
        VectorIndex.build(ids[:50], vectors[:50], candidates(IndexConfig(), 50, DIMENSION)[0]).save(tmp_path / "s", {})
        (other / INDEX_FILE).write_bytes((tmp_path / "s" / INDEX_FILE).read_bytes())
        with pytest.raises(UserError, match="belong to different indexes"):
            open_index(other)


@pytest.mark.parametrize("kind", EXACT)
def test_at_full_effort_it_is_exact(kind: str) -> None:
    index, ids, vectors = build(kind)
    queries = unit(np.random.default_rng(8), 30)
    found, _ = index.search(queries, 12)
    for query, row in zip(queries, found, strict=True):
        assert list(row) == exact(ids, vectors, query, 12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equal_scores_are_ordered_by_id(k: int) -> None:
    """Where the cut runs through them, too."""
    vectors = np.tile(unit(np.random.default_rng(0), 1), (5, 1))
    index = VectorIndex.build(np.array([9, 4, 7, 3, 8]), vectors, candidates(IndexConfig(), 5, DIMENSION)[0])
    np.testing.assert_array_equal(index.search(vectors[:1], k)[0][0], [3, 4, 7, 8, 9][:k])
    excluded = (np.array([0, 2]), np.array([3, 7]))
    np.testing.assert_array_equal(index.search(vectors[:1], min(k, 3), exclude=excluded)[0][0], [4, 8, 9][:k])


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "flat"])
@settings(max_examples=25, deadline=None)
@given(
    effort=st.integers(1, 4),
    k=st.integers(1, COUNT + 5),
    excluded=st.lists(st.integers(0, COUNT), min_size=3, max_size=3),
)
def test_no_result_is_short_while_items_are_left(kind: str, effort: int, k: int, excluded: list[int]) -> None:
    """However little a search spends: at its tuned effort, an index gives as many as a flat one would."""
    index, ids, _ = build(kind)
    index.effort = effort
    rng = np.random.default_rng(k)
    banned = [rng.choice(ids, min(size, COUNT), replace=False) for size in excluded]
    offsets = np.cumsum([0, *map(len, banned)])
    found, scores = index.search(unit(rng, 3), k, exclude=(offsets, np.concatenate(banned)))
    for row, gone in zip(found, banned, strict=True):
        assert (row >= 0).sum() == min(k, COUNT - len(gone))
        assert not np.isin(row[row >= 0], gone).any() and len(set(row[row >= 0])) == (row >= 0).sum()
    assert (np.diff(np.where(np.isfinite(scores), scores, -9.0), axis=1) <= 0).all()


def test_queries_that_come_back_short_do_not_change_the_others() -> None:
    """The second of these must look further, as most items are excluded; the first gets what it gets alone."""
    index, ids, _ = build("ivf")
    index.effort = 1
    queries = unit(np.random.default_rng(11), 2)
    alone = index.search(queries[:1], 5)
    together = index.search(queries, 5, exclude=(np.array([0, 0, COUNT - 5]), ids[5:]))
    np.testing.assert_array_equal(together[0][0], alone[0][0])
    assert set(together[0][1]) == set(ids[:5])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 40), data=st.data())
def test_flat_with_exclusions_is_the_oracle(seed: int, k: int, data: st.DataObject) -> None:
    index, ids, vectors = build("flat", seed % 5)
    queries = unit(np.random.default_rng(seed), 3)
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=3, max_size=3))
    rng = np.random.default_rng(seed + 1)
    banned = np.concatenate([rng.choice(ids, size, replace=False) for size in sizes]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    found, _ = index.search(queries, k, exclude=(offsets, banned))
    owners = row_numbers(offsets)
    for row, query in enumerate(queries):
        assert list(found[row]) == exact(ids, vectors, query, k, set(banned[owners == row].tolist()))


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        (np.array([3, 3]), np.zeros((2, DIMENSION), np.float32)),
        (np.array([-1, 3]), np.zeros((2, DIMENSION), np.float32)),
        (np.array([3]), np.zeros((2, DIMENSION), np.float32)),
        (np.array([3]), np.full((1, DIMENSION), np.nan, np.float32)),
    ],
)
def test_impossible_additions_are_refused(ids: np.ndarray, vectors: np.ndarray) -> None:
    index, _, _ = build("flat")
    with pytest.raises(ValueError):
        index.add(ids, vectors)
