"""CSV against Python's own reader, and what malformed lines become."""

import csv
import gzip
import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.datasets.columns import Wanted
from recsys.datasets.csv_format import CsvFormat
from recsys.errors import UserError
from tests.datasets.reading import files_of, read_all, source_of

COMMA = CsvFormat()
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=("Cs",)), max_size=8)


def _read(folder: Path, data: bytes, form: CsvFormat = COMMA, columns: str = "a b c"):
    path = folder / "x.csv"
    path.write_bytes(data)
    batches = list(form.read(str(path), Wanted(tuple((name, name) for name in columns.split()))))
    values = [tuple(row.values()) for batch in batches for row in batch.table.to_pylist()]
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    return values, rows, [row for batch in batches for row in batch.rejected]


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=20), delimiter=st.sampled_from(",;\t|"))
def test_round_trip(tmp_path_factory, rows, delimiter):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("a", "b", "c"), *rows])
    values, numbers, rejected = _read(
        tmp_path_factory.mktemp("csv"), text.getvalue().encode(), CsvFormat(delimiter, missing=())
    )
    assert values == rows
    assert numbers == list(range(2, len(rows) + 2))
    assert not rejected


@settings(max_examples=150, deadline=None)
@given(widths=st.lists(st.integers(1, 5), max_size=60), header=st.booleans())
def test_lines_of_another_width_are_rejected_and_every_line_keeps_its_number(tmp_path_factory, widths, header):
    lines = [",".join(f"{line}.{column}" for column in range(width)) for line, width in enumerate(widths)]
    data = "\n".join(([] if header else ["a,b,c"]) + lines) + "\n"
    form = CsvFormat(header=("a", "b", "c")) if header else CsvFormat()
    if header and not lines:
        return  # an empty file: the test below
    values, numbers, rejected = _read(tmp_path_factory.mktemp("csv"), data.encode(), form)
    first = 1 if header else 2
    good = [line for line, width in enumerate(widths) if width == 3]
    bad = [line for line, width in enumerate(widths) if width != 3]
    assert [value[0] for value in values] == [f"{line}.0" for line in good]
    assert numbers == [line + first for line in good]
    assert [(row.row, row.raw) for row in rejected] == [(line + first, lines[line]) for line in bad]
    assert all(row.reason == f"{widths[line]} values, expected 3" for row, line in zip(rejected, bad, strict=True))


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(st.text('ab",', max_size=7), min_size=1, max_size=12), end=st.booleans())
def test_a_quote_that_is_not_closed_rejects_its_line_alone(tmp_path_factory, lines, end):
    """Each line is what Arrow makes of it alone; one that swallows a line put behind it is rejected."""
    folder = tmp_path_factory.mktemp("csv")
    text = "\n".join(["a,b,c", *lines]) + ("\n" if end or not lines[-1] else "")
    values, numbers, rejected = _read(folder, text.encode())
    expected, open_lines = {}, []
    for number, line in enumerate(lines, 2):
        alone = pa_csv.read_csv(
            io.BytesIO(f"{line}\n,,\n".encode()),
            pa_csv.ReadOptions(use_threads=False, column_names=["a", "b", "c"]),
            pa_csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=lambda row: "skip"),
            pa_csv.ConvertOptions(column_types=dict.fromkeys("abc", pa.string()), strings_can_be_null=True),
        ).to_pylist()
        swallows = not alone or tuple(alone[-1].values()) != (None, None, None)
        if swallows:
            open_lines.append((number, line))
        elif len(alone) == 2:
            expected[number] = tuple(alone[0].values())
    assert dict(zip(numbers, values, strict=True)) == expected
    assert sorted(numbers + [row.row for row in rejected]) == list(range(2, len(lines) + 2))
    assert [(row.row, row.raw) for row in rejected if "quote" in row.reason] == open_lines


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_one_stray_quote_in_a_long_file_costs_one_line(tmp_path, monkeypatch, block, line_end):
    monkeypatch.setattr("recsys.datasets.csv_format._BLOCK_BYTES", block)
    lines = [f'{number},"b ""{number}""",c' for number in range(2, 2001)]
    lines[500] = '502,"b,c'
    lines[700] = 'short "line'
    values, numbers, rejected = _read(tmp_path, line_end.join(["a,b,c", *lines]).encode())
    assert numbers == [number for number in range(2, 2001) if number not in (502, 702)]
    assert [value[:2] for value in values] == [(f"{number}", f'b "{number}"') for number in numbers]
    assert sorted((row.row, row.raw) for row in rejected) == [(502, '502,"b,c'), (702, 'short "line')]
    assert "a quote opens a value and is not closed on the line" in rejected[0].reason + rejected[-1].reason


def test_with_multiline_an_open_quote_is_said(tmp_path):
    values, _, rejected = _read(tmp_path, b'a,b,c\n1,x,y\n2,"x,y\n3,x,y\n', CsvFormat(multiline=True))
    assert values == [("1", "x", "y")]
    assert rejected[0].reason == "2 values over 2 lines (is a quote not closed?), expected 3"


def test_line_numbers_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.datasets.csv_format._BLOCK_BYTES", 64)
    lines = ["x,y" if number % 7 == 0 or number in (50, 51, 52) else f"{number},b,c" for number in range(2, 400)]
    values, numbers, rejected = _read(tmp_path, "\n".join(["a,b,c", *lines]).encode())
    assert [int(value[0]) for value in values] == numbers
    assert sorted(numbers + [row.row for row in rejected]) == list(range(2, 400))


def test_a_malformed_last_line_is_not_lost(tmp_path):
    values, numbers, rejected = _read(tmp_path, b"a,b,c\n1,2\n")
    assert (values, numbers, [row.row for row in rejected]) == ([], [], [2])


def test_bytes_that_are_not_text_reject_their_row_only(tmp_path):
    data = b"a,b,c\n1,x,y\n2,\xff\xfe,y\n3,x,y\n4,x,\xe9\n"
    values, numbers, rejected = _read(tmp_path, data)
    assert [value[0] for value in values] == ["1", "3"]
    assert numbers == [2, 4]
    assert [(row.row, row.reason) for row in rejected] == [
        (3, "column 'b' is not UTF-8 text"),
        (5, "column 'c' is not UTF-8 text"),
    ]
    latin, _, none = _read(tmp_path, data, CsvFormat(encoding="latin-1"))
    assert len(latin) == 4
    assert latin[3][2] == "é"
    assert not none


def test_missing_texts_and_multiline_values(tmp_path):
    data = b'a,b,c\n1,,NA\n2,"x\ny",z\n'
    values, _, rejected = _read(tmp_path, data, CsvFormat(multiline=True, missing=("", "NA")))
    assert values == [("1", None, None), ("2", "x\ny", "z")]
    assert not rejected


def test_gzip_and_globs_in_order_each_file_once(tmp_path):
    for name in ("b", "a"):
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt") as file:
            file.write(f"user,item,time\n{name},1,5\n")
    paths = [str(tmp_path / "*.csv.gz"), str(tmp_path / "a.csv.gz")]
    source = source_of({"source": "files", "events": {"paths": paths, "columns": {"time": "time"}}})
    reader = pickle.loads(pickle.dumps(source.events))
    table, rows, _ = read_all(reader)
    assert table["user"].to_pylist() == ["a", "b"]
    assert rows == [2, 2]


def test_tab_by_extension(tmp_path):
    (tmp_path / "x.tsv").write_text("user\titem\ttime\n1\t2\t3\n")
    table, _, _ = read_all(files_of(tmp_path / "x.tsv").events)
    assert table.to_pylist() == [{"user": "1", "item": "2", "time": "3"}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", b"usr,item,time\n1,2,3\n", "column 'user' (wanted as 'user') is missing; the file has 'usr'"),
        ("x.csv", b"", "x.csv: empty; expected a first line with column names"),
        ("x.csv", b"user,user,item,time\n", "appears 2 times"),
        ("x.csv.gz", gzip.compress(b"user,item,time\n" + b"1,2,3\n" * 500_000)[:-3000], "truncated"),
        ("x.csv.gz", b"user,item,time\n1,2,3\n", "not readable as CSV"),
        ("x.xlsx", b"PK", "its extension '.xlsx' tells no format"),
    ],
)
def test_broken_files_are_one_paragraph(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_all(files_of(tmp_path / name).events)
    assert expected in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.csv: no such file \(data\.events"):
        files_of(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match="no file matches this glob"):
        files_of(tmp_path / "*.csv")
    with pytest.raises(UserError, match="it is a folder"):
        files_of(tmp_path)
