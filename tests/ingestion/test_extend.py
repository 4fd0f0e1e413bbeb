"""Extending an earlier data set: ids stay, new values follow, foreign vocabularies are refused."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.config.ingest import IngestConfig
from recsys.dataset_folder import DatasetFolder
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.ingestion.job import ingest
from recsys.schema import Field, Kind, Schema, Side
from tests.ingestion.tables import START, memory_table

CONFIG = {"split": {"kind": "time", "validation": 0.0, "test": 0.0}}
SCHEMA = Schema(
    fields=(
        Field(name="brand", side=Side.ITEM, kind=Kind.CATEGORICAL),
        Field(name="history", side=Side.USER, kind=Kind.SEQUENCE, of="item", length=4),
    )
)


def source(folder: Path, log: list[tuple[str, str]], brands: dict[str, str]) -> RawSource:
    """One click a second."""
    folder.mkdir()
    users, items = zip(*log, strict=True)
    times = [str(START + 1000 * second) for second in range(len(log))]
    events = pa.table({"user": users, "item": items, "time": times})
    catalogue = pa.table({"item": list(brands), "brand": list(brands.values())})
    return RawSource(
        "shop", SCHEMA, memory_table(folder, "events", [events]), memory_table(folder, "items", [catalogue])
    )


@pytest.fixture
def earlier(tmp_path: Path) -> DatasetFolder:
    """A first data set."""
    first = source(tmp_path / "one", [("ann", "pen"), ("bob", "cup"), ("ann", "cup")], {"pen": "p", "cup": "c"})
    return ingest(first, IngestConfig.model_validate(CONFIG), tmp_path / "first", quiet=True)


def ids(folder: DatasetFolder, name: str) -> dict[str, tuple[int, int]]:
    """(id, generation) by value."""
    table = folder.vocabulary(name).table.to_pydict()
    return dict(zip(table["value"], zip(table["id"], table["generation"], strict=True), strict=True))


def test_ids_stay_and_new_ones_follow(tmp_path: Path, earlier: DatasetFolder) -> None:
    log = [("zoe", "tie"), ("zoe", "hat"), ("zoe", "hat"), ("bob", "tie"), ("bob", "hat")]
    second = source(tmp_path / "two", log, {"hat": "p", "tie": "t"})
    settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path, "duplicates": "keep"})
    folder = ingest(second, settings, tmp_path / "second", quiet=True)
    assert ids(earlier, "item") == {"cup": (3, 1), "pen": (4, 1)}
    assert ids(folder, "item") == {"cup": (3, 1), "pen": (4, 1), "hat": (5, 2), "tie": (6, 2)}
    assert ids(folder, "brand") == {"c": (3, 1), "p": (4, 1), "t": (5, 2)}
    assert ids(folder, "user") == {"ann": (3, 1), "bob": (4, 1), "zoe": (5, 2)}
    assert folder.vocabulary("item").table["count"].to_pylist() == [0, 0, 3, 2]
    assert folder.items["brand"].to_pylist() == [3, 4, 4, 5], "features of items that only the earlier one knows"
    assert folder.users["history"].to_pylist() == [[4, 3], [3, 6, 5], [6, 5, 5]], "what users did before goes on"
    assert folder.items["available_from"].to_pylist() == [START + 1000, START, START + 1000, START]
    assert folder.manifest["parent"] == earlier.artifact.artifact_id


def test_another_source_is_refused(tmp_path: Path, earlier: DatasetFolder) -> None:
    other = dataclasses.replace(source(tmp_path / "two", [("a", "b")], {"b": "x"}), name="library")
    settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path})
    with pytest.raises(UserError, match="is a data set of 'shop', this input is 'library'"):
        ingest(other, settings, tmp_path / "second", quiet=True)


def test_other_fields_are_refused(tmp_path: Path, earlier: DatasetFolder) -> None:
    second = source(tmp_path / "two", [("a", "b")], {"b": "x"})
    fields = (Field(name="brand", side=Side.ITEM, kind=Kind.NUMERIC), *SCHEMA.fields[1:])
    settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path})
    with pytest.raises(UserError, match="field 'brand' is categorical"):
        ingest(dataclasses.replace(second, schema=Schema(fields=fields)), settings, tmp_path / "second", quiet=True)
    more = Schema(fields=(*SCHEMA.fields, Field(name="colour", side=Side.ITEM, kind=Kind.CATEGORICAL)))
    with pytest.raises(UserError, match="no vocabulary 'colour'"):
        ingest(dataclasses.replace(second, schema=more), settings, tmp_path / "second", quiet=True)


def catalogue(folder: Path, titles: list[str]) -> RawSource:
    """One click an item, of its own user."""
    first = source(folder, [(f"u{n}", f"i{n}") for n in range(len(titles))], {})
    items = pa.table({"item": [f"i{n}" for n in range(len(titles))], "title": titles, "brand": ["x"] * len(titles)})
    return dataclasses.replace(first, items=memory_table(folder, "titled", [items]))


def test_the_same_kind_of_source_with_nothing_in_common_is_refused(tmp_path: Path, earlier: DatasetFolder) -> None:
    settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path})
    foreign = source(tmp_path / "two", [("eve", "book")], {"book": "p"})
    with pytest.raises(UserError, match="has not one user and not one item in common with this input; expected"):
        ingest(foreign, settings, tmp_path / "second", quiet=True)
    assert not (tmp_path / "second").exists()
    same = source(tmp_path / "three", [("eve", "book")], {"book": "p", "pen": "p"})
    assert ids(ingest(same, settings, tmp_path / "second", quiet=True), "user")["eve"] == (5, 2)


def test_another_catalogue_under_the_same_numbers_is_refused(tmp_path: Path) -> None:
    titles = [f"Title {n}" for n in range(25)]
    first = ingest(
        catalogue(tmp_path / "one", titles), IngestConfig.model_validate(CONFIG), tmp_path / "first", quiet=True
    )
    settings = IngestConfig.model_validate({**CONFIG, "extend": first.path})
    other = [f"Other {n}" for n in range(25)]
    with pytest.raises(UserError, match=r"25 items .* all under another title \('i0' is 'Title 0' there and"):
        ingest(catalogue(tmp_path / "two", other), settings, tmp_path / "second", quiet=True)
    for place, legal in enumerate(([*other[:24], titles[24]], other[:19])):
        ingest(catalogue(tmp_path / f"legal-{place}", legal), settings, tmp_path / f"made-{place}", quiet=True)


def test_an_altered_vocabulary_is_refused(tmp_path: Path, earlier: DatasetFolder) -> None:
    file = earlier.path / "vocabulary" / "item.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    second = source(tmp_path / "two", [("a", "b")], {"b": "x"})
    with pytest.raises(UserError, match=r"item.parquet: its SHA-256 differs"):
        settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path})
        ingest(second, settings, tmp_path / "second", quiet=True)


def test_not_onto_itself(tmp_path: Path, earlier: DatasetFolder) -> None:
    second = source(tmp_path / "two", [("a", "b")], {"b": "x"})
    with pytest.raises(UserError, match="name another output"):
        settings = IngestConfig.model_validate({**CONFIG, "extend": earlier.path})
        ingest(second, settings, earlier.path, quiet=True)
