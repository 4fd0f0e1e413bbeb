"""The public data sets: on the real files where they are, on files of the same format everywhere."""

import zipfile

import pyarrow.compute as pc
import pytest

from recsys.datasets.movielens_download import download
from recsys.errors import UserError
from tests.datasets.reading import read_all, source_of


@pytest.mark.data
def test_movielens_100k(real_data):
    source = source_of({"source": "movielens", "folder": str(real_data("ml-100k"))})
    events, rows, rejected = read_all(source.events)
    assert rows == list(range(1, 100_001))
    assert not rejected
    assert events.slice(0, 1).to_pylist() == [{"user": "196", "item": "242", "value": "3", "time": "881250949"}]
    assert pc.count_distinct(events["user"]).as_py() == 943
    items = {row["item"]: row for row in read_all(source.items)[0].to_pylist()}
    assert items["1"] == {
        "item": "1",
        "title": "Toy Story (1995)",
        "genres": ["Animation", "Children's", "Comedy"],
        "title_words": "toy story",
        "year": "1995",
    }
    assert items["543"]["title_words"] == "misérables les"  # latin-1
    assert len(items) == 1682
    users = read_all(source.users)[0].to_pylist()
    assert users[0] == {"user": "1", "age": "18-24", "gender": "M", "occupation": "technician", "zip_prefix": "85"}
    assert len(users) == 943
    assert (source.time_unit, source.positive, source.schema.has_value) == ("s", "value >= 4", True)
    assert set(source.inputs()) == {"u.data", "u.item", "u.user"}


@pytest.mark.data
def test_globo_news(real_data):
    folder = real_data("globo-news") / "clicks"
    source = source_of({"source": "globo", "folder": str(folder), "hours": [0, 3], "drop_fields": ["country"]})
    events, rows, rejected = read_all(source.events)
    first = events.slice(0, 1).to_pylist()[0]
    assert first["time"] == "1506826828020"  # 2017-10-01 03:00:28 UTC, midnight in Brasilia
    assert (first["user"], first["item"], first["hour"], first["os"]) == ("0", "157541", "0", "20")
    assert "country" not in first
    assert len(source.events.shards()) == 3
    assert rows[:2] == [2, 3]
    assert not rejected
    assert len(source_of({"source": "globo", "folder": str(folder)}).events.shards()) == 240
    with pytest.raises(UserError, match=r"clicks_hour_240\.csv\.gz: no file matches|clicks_hour_240\.csv\.gz: no such"):
        source_of({"source": "globo", "folder": str(folder), "hours": [239, 241]})


@pytest.mark.data
def test_gowalla_has_the_published_sizes(real_data):
    source = source_of({"source": "gowalla", "folder": str(real_data("gowalla"))})
    events, _, rejected = read_all(source.events)
    by_split = dict(zip(*(column.to_pylist() for column in pc.value_counts(events["split"]).flatten()), strict=True))
    assert by_split == {"train": 810_128, "test": 217_242}
    assert pc.count_distinct(events["user"]).as_py() == 29_858
    assert pc.count_distinct(events["item"]).as_py() == 40_981
    assert not rejected
    assert (source.given_split, source.schema.has_time) == (True, False)


@pytest.mark.data
def test_frappe_has_the_published_sizes(real_data):
    source = source_of({"source": "frappe", "folder": str(real_data("frappe"))})
    events, rows, rejected = read_all(source.events)
    by_split = dict(zip(*(column.to_pylist() for column in pc.value_counts(events["split"]).flatten()), strict=True))
    assert by_split == {"train": 202_027, "validation": 57_722, "test": 28_860}
    assert not rejected
    assert rows[:2] == [2, 3]
    values = [pc.count_distinct(events[name]).as_py() for name in ("user", "item", *FRAPPE_CONTEXT)]
    assert values[:2] == [957, 4082]
    assert sum(values) == 5_382
    assert set(source.inputs()) == {"train.resampled_negatives.csv.gz", "valid.csv.gz", "test.csv.gz"}
    assert source.notes["negatives"] == "train negatives resampled"


FRAPPE_CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


def test_frappe_format(tmp_path):
    header = "label,user,item," + ",".join(FRAPPE_CONTEXT) + "\n"
    for name, row in (("train", "1,7,20"), ("valid", "0,8,20"), ("test", "1,7,21")):
        (tmp_path / f"{name}.csv").write_text(header + row + ",30,31,32,33,34,35,36,37\n")
    files = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}
    source = source_of({"source": "frappe", "folder": str(tmp_path), "drop_fields": ["city", "cost"]} | files)
    events = read_all(source.events)[0].to_pylist()
    assert events[0] == {
        "user": "7",
        "item": "20",
        "label": "1",
        "daytime": "30",
        "weekday": "31",
        "isweekend": "32",
        "homework": "33",
        "weather": "35",
        "country": "36",
        "split": "train",
    }
    assert [(row["label"], row["user"], row["item"], row["split"]) for row in events[1:]] == [
        ("0", "8", "20", "validation"),
        ("1", "7", "21", "test"),
    ]
    assert (source.given_split, source.schema.has_time, source.positive) == (True, False, None)


def test_gowalla_lines(tmp_path):
    (tmp_path / "train.txt").write_text("0 5 6 7\n1 5 \n2\n\n3 8\n")
    (tmp_path / "test.txt").write_text("0 9\n")
    source = source_of({"source": "gowalla", "folder": str(tmp_path)})
    events, rows, rejected = read_all(source.events)
    pairs = list(zip(events["user"].to_pylist(), events["item"].to_pylist(), events["split"].to_pylist(), strict=True))
    assert pairs == [
        ("0", "5", "train"),
        ("0", "6", "train"),
        ("0", "7", "train"),
        ("1", "5", "train"),
        ("3", "8", "train"),
        ("0", "9", "test"),
    ]
    assert rows == [1, 1, 1, 2, 5, 1]
    assert [(row.row, row.raw) for row in rejected] == [(3, "2"), (4, "")]


def test_movielens_1m_format(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes(
        "1::Toy Story (1995)::Animation|Comedy\n2::Star Wars: Episode IV (1977)::Sci-Fi\n"
        "3::Misérables, Les (1995)::Drama\n".encode("latin-1")
    )
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    source = source_of({"source": "movielens", "variant": "1m", "folder": str(tmp_path)})
    events, _, rejected = read_all(source.events)
    assert events.to_pylist()[0] == {"user": "1", "item": "1193", "value": "5", "time": "978300760"}
    assert not rejected
    items = read_all(source.items)[0].to_pylist()
    assert items[1] == {
        "item": "2",
        "title": "Star Wars: Episode IV (1977)",
        "genres": "Sci-Fi",
        "title_words": "star wars episode iv",
        "year": "1977",
    }
    assert items[2]["title_words"] == "misérables les"
    users = read_all(source.users)[0].to_pylist()
    assert users == [
        {"user": "1", "age": "under 18", "gender": "F", "occupation": "K-12 student", "zip_prefix": "48"},
        {"user": "2", "age": "56 and over", "gender": "M", "occupation": "self-employed", "zip_prefix": "70"},
    ]


LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n",
    "movies.csv": 'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n'
    "2,Ghosts,(no genres listed)\n",
}


def test_movielens_latest_small_format(tmp_path):
    for name, text in LATEST.items():
        (tmp_path / name).write_text(text)
    source = source_of({"source": "movielens", "variant": "latest-small", "folder": str(tmp_path)})
    assert read_all(source.events)[0].to_pylist() == [{"user": "1", "item": "1", "value": "4.0", "time": "964982703"}]
    items = read_all(source.items)[0].to_pylist()
    assert [item["title_words"] for item in items] == ["american president the", "ghosts"]
    assert [item["genres"] for item in items] == ["Comedy|Drama", None]
    assert [item["year"] for item in items] == ["1995", None]
    assert source.users is None


def test_fields_are_added_replaced_and_dropped(tmp_path):
    for name, text in LATEST.items():
        (tmp_path / name).write_text(text)
    section = {"source": "movielens", "variant": "latest-small", "folder": str(tmp_path)}
    history = {"name": "history", "side": "user", "kind": "sequence", "of": "item", "length": 20}
    year = {"name": "year", "side": "item", "kind": "categorical", "min_count": 7}
    schema = source_of(section | {"fields": [history, year], "drop_fields": ["genres"]}).schema
    assert [field.name for field in schema.fields] == ["title_words", "year", "history"]
    assert schema.field("year").min_count == 7
    with pytest.raises(UserError, match=r"data\.drop_fields\.0: no field 'genre'; this source has genres, title_words"):
        source_of(section | {"drop_fields": ["genre"]})


def test_download(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-latest-small.zip", "w") as archive:
        for name, text in LATEST.items():
            archive.writestr(f"ml-latest-small/{name}", text)
    url = tmp_path.as_uri() + "/ml-{variant}.zip"
    download("latest-small", tmp_path / "there", tuple(LATEST), url)
    assert {path.name for path in (tmp_path / "there").iterdir()} == set(LATEST)
    with pytest.raises(UserError, match=r"holds no 'users\.dat'"):
        download("latest-small", tmp_path / "not", ("users.dat",), url)
    with pytest.raises(UserError, match=r"cannot fetch file:.*ml-1m\.zip"):
        download("1m", tmp_path / "not", ("users.dat",), url)
    assert not (tmp_path / "not").exists()


def test_missing_files_say_what_was_expected(tmp_path):
    with pytest.raises(
        UserError, match=r"has no 'u\.data', a file of MovieLens 100k; expected u\.data, u\.item, u\.user"
    ):
        source_of({"source": "movielens", "folder": str(tmp_path)})
    with pytest.raises(UserError, match="is no folder"):
        source_of({"source": "globo", "folder": str(tmp_path / "no")})
    with pytest.raises(UserError, match=r"no is no folder; expected the one with train\.resampled_negatives\.csv\.gz"):
        source_of({"source": "frappe", "folder": str(tmp_path / "no")})
    with pytest.raises(UserError, match=r"train\.resampled_negatives\.csv\.gz: no such file \(data\.folder"):
        source_of({"source": "frappe", "folder": str(tmp_path)})
    with pytest.raises(UserError, match=r"train\.txt: no such file"):
        source_of({"source": "gowalla", "folder": str(tmp_path)})


def _hundred_k(folder, users: str):
    (folder / "u.data").write_text("1\t1\t5\t881250949\n")
    (folder / "u.item").write_text("|".join(["1", "Toy Story (1995)", "01-Jan-1995", "", "", *"0" * 19]) + "\n")
    (folder / "u.user").write_text(users)
    return source_of({"source": "movielens", "folder": str(folder)})


def test_age_bands_hold_their_lower_end(tmp_path):
    ages = {"17": "under 18", "18": "18-24", "24": "18-24", "25": "25-34", "55": "50-55", "56": "56 and over", "": None}
    source = _hundred_k(tmp_path, "".join(f"{n}|{age}|F|writer|12345\n" for n, age in enumerate(ages)))
    assert read_all(source.users)[0]["age"].to_pylist() == list(ages.values())


def test_a_value_of_another_type_names_file_and_place(tmp_path):
    source = _hundred_k(tmp_path, "1|young|M|writer|12345\n")
    with pytest.raises(UserError, match=r"u\.user: a value in the 1 rows from row 1 on .*'young'"):
        read_all(source.users)
