"""Times and numbers as users write them."""

import pyarrow as pa
import pytest

from recsys.encoding.parsing import parse_numbers, parse_times, text_or_null

NOON = 1_700_000_000_123


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (
            ["1700000000", " 1700000000.123 ", "-5", "1e20", "soon", None],
            "s",
            [NOON - 123, NOON, None, None, None, None],
        ),
        ([NOON, -1, 1 << 42], "ms", [NOON, None, None]),
        ([NOON * 1000 + 7], "us", [NOON]),
        ([NOON * 1_000_000 + 7], "ns", [NOON]),
        ([NOON * 1_000_000], "ms", [None]),
        ([1_700_000_000.123], "s", [NOON]),
        (
            ["2023-11-14T22:13:20.123", "2023-11-14 22:13:20.123Z", "2023-11-15T00:13:20.123+02:00", "2023-11-14"],
            "iso",
            [NOON, NOON, NOON, 1_699_920_000_000],
        ),
        (["2023-13-01T00:00:00", "2023-11-14T22:13:20.123", "14.11.2023", ""], "iso", [None, NOON, None, None]),
    ],
)
def test_times(values: list, unit: str, expected: list) -> None:
    assert parse_times(pa.array(values), unit).to_pylist() == expected


def test_timestamp_columns_need_no_unit() -> None:
    times = pa.array([NOON * 1000], pa.timestamp("us", "Europe/Berlin"))
    assert parse_times(times, "s").to_pylist() == [NOON]


def test_numbers() -> None:
    values = pa.array(["1", " 2.5 ", "-1e3", ".5", "1,5", "nan", "", None])
    assert parse_numbers(values).to_pylist() == [1, 2.5, -1000, 0.5, None, None, None, None]
    assert parse_numbers(pa.array([True, False])).to_pylist() == [1, 0]
    assert parse_numbers(pa.array([1.5, float("nan"), float("inf")])).to_pylist() == [1.5, None, None]


def test_ids_are_the_same_text_from_every_format() -> None:
    assert text_or_null(pa.array([1.0, 2.0])).to_pylist() == text_or_null(pa.array(["1", " 2 "])).to_pylist()
    assert text_or_null(pa.array([1, 2])).to_pylist() == ["1", "2"]
