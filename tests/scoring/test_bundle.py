"""A loaded bundle's answers: the right block, nothing seen, as an exhaustive search in plain NumPy finds them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.registry import BUNDLE_FORMAT, BUNDLE_KIND
from recsys.schema import FIRST_VALUE_ID
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query
from tests.tiny_bundle import item_vectors


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DatasetFolder:
    return DatasetFolder.open(tiny_dataset)


def liked(dataset: DatasetFolder) -> dict[str, list[tuple[int, str]]]:
    """Every user's positives as (time, raw item), in plain Python."""
    found: dict[str, list[tuple[int, str]]] = {}
    for split in ("train", "validation", "test"):
        events = dataset.events(split).to_pylist()
        for event in events:
            user, item = (dataset.vocabulary(name).decode([event[name]])[0].as_py() for name in ("user", "item"))
            found.setdefault(user, []).append((event["time"], item))
    return {user: sorted(items, key=lambda pair: pair[0]) for user, items in found.items()}


def test_histories_hold_every_positive_oldest_first(bundle: LoadedBundle, dataset: DatasetFolder) -> None:
    for user, items in liked(dataset).items():
        assert [one.item for one in bundle.history(user)] == [item for _, item in items]
    assert bundle.history("u0")[0].title == "Item " + bundle.history("u0")[0].item[1:]


def test_answers_equal_an_exhaustive_search_without_what_was_seen(bundle: LoadedBundle, dataset: DatasetFolder) -> None:
    vectors = item_vectors(dataset).astype(np.float64)
    raw = dataset.items["raw"].to_pylist()
    users = dataset.users["raw"].to_pylist()
    past = liked(dataset)
    answers = bundle.recommend([Query(user=user) for user in users], 5)
    for user, answer in zip(users, answers, strict=True):
        recent = [vectors[raw.index(item)] for _, item in past[user][-8:]]
        query = np.sum(recent, 0) / np.linalg.norm(np.sum(recent, 0))
        scores = {item: float(vectors[row] @ query) for row, item in enumerate(raw)}
        seen = {item for _, item in past[user]}
        expected = sorted((item for item in raw if item not in seen), key=lambda item: -scores[item])[:5]
        assert [one.item for one in answer] == expected
        np.testing.assert_allclose([one.score for one in answer], [scores[item] for item in expected], rtol=1e-4)


def test_a_stranger_gets_the_block_of_the_club_or_of_the_history(bundle: LoadedBundle) -> None:
    even, odd, both = bundle.recommend(
        [Query(features={"club": "a"}), Query(features={"club": "b"}), Query(history=["i1"], features={"club": "a"})], 6
    )
    assert all(int(one.item[1:]) % 2 == 0 for one in even)
    assert all(int(one.item[1:]) % 2 == 1 for one in odd)
    assert all(int(one.item[1:]) % 2 == 1 for one in both) and "i1" not in [one.item for one in both]


def test_seen_items_appear_when_asked_for(bundle: LoadedBundle) -> None:
    past = {one.item for one in bundle.history("u0")}
    shown = bundle.recommend([Query(user="u0")], 24, exclude_seen=False)[0]
    left = bundle.recommend([Query(user="u0")], 24)[0]
    assert {one.item for one in shown} >= past
    assert not {one.item for one in left} & past
    assert len(left) == 24 - len(past)  # the catalogue ends before k is reached


def test_retrieve_pads_where_everything_is_excluded(bundle: LoadedBundle) -> None:
    vectors = bundle.embed_queries(bundle.encoder.encode([Query(user="u0"), Query(user="u1")]))
    everything = np.arange(24, dtype=np.int32) + FIRST_VALUE_ID
    ids, scores = bundle.retrieve(vectors, 3, [everything, np.empty(0, np.int32)])
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    assert (ids[0] == -1).all() and np.isneginf(scores[0]).all()
    assert (ids[1] >= FIRST_VALUE_ID).all()


def test_item_tower_gives_the_indexed_vectors(bundle: LoadedBundle, dataset: DatasetFolder) -> None:
    np.testing.assert_allclose(
        bundle.embed_items({"item": dataset.items["item"].to_numpy()}), item_vectors(dataset), rtol=1e-6
    )


def test_steps_are_marked_in_order(bundle: LoadedBundle) -> None:
    steps: list[str] = []
    bundle.recommend([Query(user="u0")], 3, mark=steps.append)
    assert steps == ["encode", "embed", "retrieve", "name"]


def test_an_unknown_user_is_refused_and_unknown_items_are_named(bundle: LoadedBundle) -> None:
    with pytest.raises(UserError, match="user 'nobody': not among the 40 users"):
        bundle.history("nobody")
    given = ["nothing", "i1", "never", "i3"]
    assert bundle.unknown_items(given) == ["nothing", "never"] and bundle.unknown_items([]) == []
    assert [one.title for one in bundle.named_raw(given)] == [None, "Item 1", None, "Item 3"]
    assert [one.item for one in bundle.named_raw(given)] == given and bundle.named_raw([]) == []


def test_another_data_sets_vocabulary_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    """Even where the checksums were made anew, the vocabulary's size gives it away."""
    broken = tmp_path / "bundle"
    with write_artifact(broken, BUNDLE_KIND, BUNDLE_FORMAT, {}) as folder:
        shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        shutil.copyfile(tiny_bundle / "vocabulary" / "item.parquet", folder / "vocabulary" / "user.parquet")
    with pytest.raises(UserError, match=r"users\.parquet has 40 rows.*24 values; the vocabulary is another data set's"):
        LoadedBundle.open(broken)


@pytest.mark.parametrize(
    "victim", ["items.parquet", "histories/items.npy", "vocabulary/user.parquet", "model/query_tower/saved_model.pb"]
)
def test_truncated_files_are_named(tiny_bundle: Path, tmp_path: Path, victim: str) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, broken)
    data = (broken / victim).read_bytes()
    (broken / victim).unlink()
    (broken / victim).write_bytes(data[:-9])
    with pytest.raises(UserError, match=f"{victim}: .*it was truncated or altered"):
        LoadedBundle.open(broken)
