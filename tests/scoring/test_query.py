"""Encoding raw queries: a known user's arrays are what ingestion wrote; raw features get the vocabularies' ids."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataset_folder import DatasetFolder, pad_lists
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, MISSING_ID, UNSEEN_ID, Field, Kind, Schema, Side
from recsys.scoring.bundle import LoadedBundle
from recsys.scoring.query import Query, QueryEncoder


@pytest.fixture(scope="module")
def encoder(bundle: LoadedBundle) -> QueryEncoder:
    return bundle.encoder


def test_known_users_equal_the_users_table_of_ingestion(encoder: QueryEncoder, tiny_dataset: Path) -> None:
    users = DatasetFolder.open(tiny_dataset).users
    arrays = encoder.encode([Query(user=raw) for raw in users["raw"].to_pylist()])
    np.testing.assert_array_equal(arrays["user"], users["user"].to_numpy())
    np.testing.assert_array_equal(arrays["club"], users["club"].to_numpy())
    np.testing.assert_array_equal(arrays["history"], pad_lists(users["history"], 8))
    assert all(arrays[name].dtype == np.int32 for name in ("user", "club", "history", "device"))


def test_a_history_given_raw_equals_the_stored_one(encoder: QueryEncoder, tiny_dataset: Path) -> None:
    dataset = DatasetFolder.open(tiny_dataset)
    for user, ids in zip(dataset.users["raw"].to_pylist(), dataset.users["history"].to_pylist(), strict=True):
        raw = dataset.vocabulary("item").decode(np.array(ids)).to_pylist()
        stored, given_raw = encoder.encode([Query(user=user)]), encoder.encode([Query(history=raw)])
        np.testing.assert_array_equal(given_raw["history"], stored["history"])
        assert given_raw["user"][0] == MISSING_ID


def test_long_histories_keep_their_last_items_oldest_first_and_pad_at_the_end(encoder: QueryEncoder) -> None:
    items = [f"i{n}" for n in range(20)]
    ids = encoder.item_ids(items)
    arrays = encoder.encode([Query(history=items), Query(history=items[:3]), Query(history=[]), Query(history=["no"])])
    np.testing.assert_array_equal(arrays["history"][0], ids[-8:])
    np.testing.assert_array_equal(arrays["history"][1], [*ids[:3], 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(arrays["history"][2], np.zeros(8))
    assert arrays["history"][3, 0] == UNSEEN_ID
    shorter = encoder.encode([Query(user="u0", history=items[:1])])["history"][0]
    np.testing.assert_array_equal(shorter, [ids[0], 0, 0, 0, 0, 0, 0, 0])  # nothing of the stored one is left


def test_given_features_replace_the_stored_ones(encoder: QueryEncoder) -> None:
    stored = encoder.encode([Query(user="u0")])["club"][0]
    assert stored == FIRST_VALUE_ID  # club a
    given_ids = encoder.encode(
        [
            Query(user="u0", features={"club": "b"}),
            Query(user="u0", features={"club": None}),
            Query(user="u0", features={"club": "golf"}),
            Query(user="stranger"),
            Query(features={"club": "b"}, context={"device": "desk"}),
        ]
    )
    assert given_ids["club"].tolist() == [FIRST_VALUE_ID + 1, MISSING_ID, UNSEEN_ID, MISSING_ID, FIRST_VALUE_ID + 1]
    assert given_ids["user"].tolist() == [*encoder.user_ids([Query(user="u0")] * 3), UNSEEN_ID, MISSING_ID]
    assert given_ids["device"].tolist() == [MISSING_ID] * 4 + [FIRST_VALUE_ID + 1]


def test_stored_arrays_are_not_altered_by_a_query(encoder: QueryEncoder) -> None:
    before = encoder.encode([Query(user="u0")])
    encoder.encode([Query(user="u0", features={"club": "b"}, history=["i1"])])
    after = encoder.encode([Query(user="u0")])
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_wrong_fields_are_named(encoder: QueryEncoder) -> None:
    with pytest.raises(UserError, match=r"features\.colour: the data set has no such field; it has \['club'\]"):
        encoder.encode([Query(features={"colour": "red"})])
    with pytest.raises(UserError, match=r"context\.club: .* it has \['device'\]"):
        encoder.encode([Query(context={"club": "a"})])
    with pytest.raises(UserError, match=r"features\.club: expected"):
        encoder.encode([Query(features={"club": ["a", "b"]})])


@pytest.fixture(scope="module")
def wide(encoder: QueryEncoder) -> QueryEncoder:
    """The same encoder with a numeric and a multi-valued field on the user side."""
    fields = (
        *encoder.schema.fields,
        Field(name="age", side=Side.USER, kind=Kind.NUMERIC),
        Field(name="likes", side=Side.USER, kind=Kind.MULTI_VALUED, vocabulary="tags", separator="|"),
    )
    rows = len(encoder.users)
    users = encoder.users.append_column("age", pa.array(np.arange(rows, dtype=np.float32)))
    likes = pa.array([[FIRST_VALUE_ID] if row % 2 else [] for row in range(rows)], pa.list_(pa.int32()))
    return dataclasses.replace(encoder, schema=Schema(fields=fields), users=users.append_column("likes", likes))


def test_numbers_and_lists(wide: QueryEncoder) -> None:
    first = wide.users["raw"][0].as_py()
    arrays = wide.encode(
        [
            Query(user=first),
            Query(user=first, features={"age": 33, "likes": ["odd", "any", "odd"]}),
            Query(features={"age": "4.5", "likes": "any|even|nothing"}),
            Query(features={"age": None, "likes": []}),
            Query(),
        ]
    )
    np.testing.assert_array_equal(arrays["age"], np.array([0, 33, 4.5, np.nan, np.nan], np.float32))
    odd, any_, even = FIRST_VALUE_ID + 1, FIRST_VALUE_ID + 2, FIRST_VALUE_ID
    assert [row[row > 0].tolist() for row in arrays["likes"][1:]] == [
        [odd, any_],
        [UNSEEN_ID, even, any_],  # rising, as ingestion stores them
        [MISSING_ID],
        [MISSING_ID],
    ]
    with pytest.raises(UserError, match=r"features\.age: expected a number or null, found 'old'"):
        wide.encode([Query(features={"age": "old"})])
    with pytest.raises(UserError, match=r"features\.likes: expected a list"):
        wide.encode([Query(features={"likes": 3})])


def test_sequences_of_other_columns_are_missing_where_a_history_is_given(encoder: QueryEncoder) -> None:
    clusters = Field(name="clusters", side=Side.USER, kind=Kind.SEQUENCE, of="cluster", length=4)
    users = encoder.users.append_column("clusters", pa.array([[7, 8]] * len(encoder.users), pa.list_(pa.int32())))
    wider = dataclasses.replace(encoder, schema=Schema(fields=(*encoder.schema.fields, clusters)), users=users)
    arrays = wider.encode([Query(user="u0"), Query(user="u0", history=["i1", "i2", "i3"])])
    assert arrays["clusters"].tolist() == [[7, 8, 0, 0], [MISSING_ID] * 3 + [0]]


@settings(max_examples=40, deadline=None)
@given(
    queries=st.lists(
        st.builds(
            Query,
            user=st.sampled_from([None, "u0", "u1", "stranger"]),
            features=st.sampled_from([{}, {"club": "a"}, {"club": None}]),
            context=st.sampled_from([{}, {"device": "phone"}]),
            history=st.none() | st.lists(st.sampled_from(["i0", "i1", "i2", "gone"]), max_size=12),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_batch_equals_its_queries_one_by_one(encoder: QueryEncoder, queries: list[Query]) -> None:
    together = encoder.encode(queries)
    for row, query in enumerate(queries):
        for name, array in encoder.encode([query]).items():
            np.testing.assert_array_equal(together[name][row], array[0])
