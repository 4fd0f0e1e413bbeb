"""Vocabularies: order, limits, and ids that never change however often they are extended."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.encoding.vocabulary import Vocabulary
from recsys.schema import FIRST_VALUE_ID, MISSING_ID, UNSEEN_ID

COUNTS = st.dictionaries(st.text(max_size=4), st.integers(0, 5), max_size=12)


def build(counts: dict[str, int], **options: object) -> Vocabulary:
    """From a dictionary of counts."""
    values = pa.array(list(counts), pa.string())
    return Vocabulary.build("v", values, np.array(list(counts.values()), np.int64), **options)  # type: ignore[arg-type]


@given(st.lists(COUNTS, min_size=1, max_size=4), st.integers(0, 3))
def test_extending_never_changes_an_id(generations: list[dict[str, int]], min_count: int) -> None:
    vocabulary: Vocabulary | None = None
    known: dict[str, tuple[int, int]] = {}
    for counts in generations:
        vocabulary = build(counts, min_count=min_count, earlier=vocabulary)
        table = vocabulary.table.to_pydict()
        now = dict(zip(table["value"], zip(table["id"], table["generation"], strict=True), strict=True))
        assert known.items() <= now.items()
        assert table["id"] == list(range(FIRST_VALUE_ID, FIRST_VALUE_ID + len(now)))
        assert set(now) - set(known) == {v for v, c in counts.items() if c >= min_count and v not in known}
        assert dict(zip(table["value"], table["count"], strict=True)) == {v: counts.get(v, 0) for v in now}
        assert all(now[value][1] > max((g for _, g in known.values()), default=0) for value in set(now) - set(known))
        known = now


@given(COUNTS, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 5)))
def test_order_and_limits(counts: dict[str, int], min_count: int, max_size: int | None) -> None:
    expected = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v.encode()))
    assert build(counts, min_count=min_count, max_size=max_size).table["value"].to_pylist() == expected[:max_size]


@given(COUNTS, st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=10))
def test_encode_and_decode(counts: dict[str, int], values: list[str | None]) -> None:
    vocabulary = build(counts)
    ids = vocabulary.encode(pa.array(values, pa.string()))
    back = vocabulary.decode(ids).to_pylist()
    for value, id_, decoded in zip(values, ids.tolist(), back, strict=True):
        assert decoded == (value if value in counts else None)
        assert (id_ == MISSING_ID) == (value is None)
        assert (id_ == UNSEEN_ID) == (value is not None and value not in counts)
