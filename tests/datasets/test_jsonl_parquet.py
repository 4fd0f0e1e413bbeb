"""JSON Lines against Python's json, Parquet in shards of row groups."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.datasets.columns import Wanted
from recsys.datasets.jsonl_format import read_jsonl
from recsys.errors import UserError
from tests.datasets.reading import files_of, read_all

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


def _read(path, data: bytes, columns: str = "user item"):
    path.write_bytes(data)
    batches = list(read_jsonl(str(path), Wanted(tuple((name, name) for name in columns.split()))))
    values = [row for batch in batches for row in batch.table.to_pylist()]
    return values, [n for b in batches for n in b.rows.to_pylist()], [row for b in batches for row in b.rejected]


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(
        st.one_of(
            st.fixed_dictionaries({"user": st.one_of(TEXT, st.integers(-9, 9), st.none()), "item": TEXT}),
            st.sampled_from(["", "{", "[1]", "7", '{"user": {"id": 1}, "item": "x"}']),
        ),
        max_size=30,
    )
)
def test_against_plain_python(tmp_path_factory, lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    values, rows, rejected = _read(tmp_path_factory.mktemp("jsonl") / "x.jsonl", "\n".join(texts).encode())
    if texts and texts[-1] == "":
        lines = lines[:-1]  # the end of the line before, not a line
    good = [number for number, line in enumerate(lines, 1) if isinstance(line, dict)]
    assert rows == good
    assert sorted(rows + [row.row for row in rejected]) == list(range(1, len(lines) + 1))
    for value, number in zip(values, good, strict=True):
        user = lines[number - 1]["user"]
        assert value == {"user": user if user is None else str(user), "item": lines[number - 1]["item"]}


def test_values_stay_as_written(tmp_path):
    """Text that looks like a time is not read as one; lists stay lists; a key that is not there is null."""
    data = (
        b'{"user": 1, "item": "2024-01-01T00:00:00", "tags": ["a", "b"]}\n{"user": 2, "item": "2024-01-02T00:00:00"}\n'
    )
    values, _, _ = _read(tmp_path / "x.jsonl", data, "user item tags")
    assert values == [
        {"user": "1", "item": "2024-01-01T00:00:00", "tags": ["a", "b"]},
        {"user": "2", "item": "2024-01-02T00:00:00", "tags": None},
    ]


def test_blocks_and_gzip(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.datasets.jsonl_format._BLOCK_BYTES", 100)
    lines = ["broken" if n % 11 == 0 else json.dumps({"user": n, "item": "i", "time": n}) for n in range(1, 300)]
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    table, rows, rejected = read_all(files_of(path).events)
    assert [int(user) for user in table["user"].to_pylist()] == rows
    assert [row.row for row in rejected] == list(range(11, 300, 11))


def test_a_key_in_no_line_is_a_missing_column(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"user": 1, "item": 2}\n')
    with pytest.raises(UserError, match=r"column 'time' .* is missing; the file has 'user', 'item'"):
        read_all(files_of(path).events)


def test_parquet_shards_cover_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.datasets.parquet_format._SHARD_ROWS", 250)
    path = tmp_path / "x.parquet"
    users = pa.array([f"u{n % 7}" for n in range(1000)]).dictionary_encode()
    table = pa.table({"user": users, "item": pa.array(range(1000)), "time": pa.array(range(1000))})
    pq.write_table(table, path, row_group_size=100)
    reader = files_of(path).events
    assert [(shard.start, shard.stop) for shard in reader.shards()] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    read, rows, _ = read_all(reader)
    assert read["item"].to_pylist() == list(range(1000))
    assert rows == list(range(1, 1001))
    assert read.schema.field("user").type == pa.string()
    assert read.schema.field("item").type == pa.int64()


def test_truncated_parquet_names_the_file(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"user": [1], "item": [1], "time": [1]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"x\.parquet: not readable as Parquet"):
        files_of(path)


def test_parquet_missing_column(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"user": [1], "item": [1]}), path)
    with pytest.raises(UserError, match=r"column 'time' .* is missing; the file has 'user', 'item'"):
        read_all(files_of(path).events)
