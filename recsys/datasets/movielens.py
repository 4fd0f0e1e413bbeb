"""MovieLens in its three file formats: 100k, 1m and latest-small."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.data import MovieLensData
from recsys.datasets.columns import Wanted
from recsys.datasets.csv_format import CsvFormat
from recsys.datasets.fields import merged_fields
from recsys.datasets.movielens_download import download
from recsys.datasets.readers import FileReader, Transform, local
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.schema import Field, Kind, Schema, Side

_LATIN = "latin-1"
# fmt: off
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
_OCCUPATIONS_1M = (
    "other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive", "farmer",
    "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales", "scientist", "self-employed", "engineer",
    "craftsman", "unemployed", "writer",
)
# fmt: on
_AGE_EDGES = (18, 25, 35, 45, 50, 56)
_AGE_NAMES = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 and over")

_ITEM_FIELDS = (
    Field(name="genres", side=Side.ITEM, kind=Kind.MULTI_VALUED, separator="|"),
    Field(name="title_words", side=Side.ITEM, kind=Kind.MULTI_VALUED, separator=" ", min_count=2),
    Field(name="year", side=Side.ITEM, kind=Kind.CATEGORICAL),
)
_USER_FIELDS = (
    Field(name="age", side=Side.USER, kind=Kind.CATEGORICAL),
    Field(name="gender", side=Side.USER, kind=Kind.CATEGORICAL),
    Field(name="occupation", side=Side.USER, kind=Kind.CATEGORICAL),
    Field(name="zip_prefix", side=Side.USER, kind=Kind.CATEGORICAL),
)

_FILES = {
    "100k": ("u.data", "u.item", "u.user"),
    "1m": ("ratings.dat", "movies.dat", "users.dat"),
    "latest-small": ("ratings.csv", "movies.csv"),
}


def movielens_source(config: MovieLensData) -> RawSource:
    """The ratings as events with `value`, movies as items (title, genres, title words, year), and users.

    `latest-small` has no user features. Raises UserError where a file is missing and not to be downloaded.
    """
    names = _FILES[config.variant]
    missing = [name for name in names if not (config.folder / name).is_file()]
    if missing and config.download:
        download(config.variant, config.folder, names)
    elif missing:
        raise UserError(
            f"data.folder: {config.folder} has no '{missing[0]}', a file of MovieLens {config.variant}; expected "
            f"{', '.join(names)} there, or set data.download to true."
        )
    events, items, users = _READERS[config.variant](config.folder)
    standard = _ITEM_FIELDS + (_USER_FIELDS if users else ())
    return RawSource(
        name=f"movielens-{config.variant}",
        schema=Schema(fields=merged_fields(standard, config), has_value=True),
        events=events,
        items=items,
        users=users,
        time_unit="s",
        positive=config.positive,
        notes={"licence": "research use only, not to be redistributed; see the README of the data set"},
    )


_Tables = tuple[FileReader, FileReader, FileReader | None]


def _reader(path: Path, wanted: str, csv: CsvFormat, transform: Transform | None = None) -> FileReader:
    """A reader of one file; `wanted` names the columns to read, as `canonical` or `canonical=source`."""
    pairs = tuple((name, source or name) for name, _, source in (word.partition("=") for word in wanted.split()))
    return FileReader("data.folder", local(path.parent, path.name), Wanted(pairs), "csv", csv, transform)


def _tables_100k(folder: Path) -> _Tables:
    genres = tuple(f"genre_{number}" for number in range(len(_GENRES_100K)))
    ratings = CsvFormat("\t", ("user", "item", "value", "time"), quoted=False)
    movies = CsvFormat("|", ("item", "title", "released", "video", "url", *genres), _LATIN, quoted=False)
    people = CsvFormat("|", ("user", "age", "gender", "occupation", "zip"), _LATIN, quoted=False)
    return (
        _reader(folder / "u.data", "user item value time", ratings),
        _reader(folder / "u.item", " ".join(("item title released", *genres)), movies, _movies_100k),
        _reader(folder / "u.user", "user age gender occupation zip", people, _people_100k),
    )


def _tables_1m(folder: Path) -> _Tables:
    # The delimiter is '::'; read as ':', every second column is empty. Titles hold colons, so movies are split later.
    ratings = CsvFormat(":", ("user", "_1", "item", "_2", "value", "_3", "time"), quoted=False)
    people = CsvFormat(":", ("user", "_1", "gender", "_2", "age", "_3", "occupation", "_4", "zip"), quoted=False)
    movies = CsvFormat("\x1f", ("line",), _LATIN, quoted=False)
    return (
        _reader(folder / "ratings.dat", "user item value time", ratings),
        _reader(folder / "movies.dat", "line", movies, _movies_1m),
        _reader(folder / "users.dat", "user gender age occupation zip", people, _people_1m),
    )


def _tables_latest(folder: Path) -> _Tables:
    return (
        _reader(folder / "ratings.csv", "user=userId item=movieId value=rating time=timestamp", CsvFormat()),
        _reader(folder / "movies.csv", "item=movieId title genres", CsvFormat(), _movies_latest),
        None,
    )


_READERS: dict[str, Callable[[Path], _Tables]] = {
    "100k": _tables_100k,
    "1m": _tables_1m,
    "latest-small": _tables_latest,
}


def _movie(item: pa.Array, title: pa.Array, genres: pa.Array, released: pa.Array | None = None) -> pa.RecordBatch:
    """The item columns; the year is the title's last bracket, else that of the release date."""
    year = pc.struct_field(pc.extract_regex(title, r"\((?P<year>\d{4})\)\s*$"), "year")
    if released is not None:
        year = pc.coalesce(year, pc.struct_field(pc.extract_regex(released, r"(?P<year>\d{4})$"), "year"))
    words = pc.replace_substring_regex(pc.utf8_lower(title), r"\(\d{4}\)\s*$", "")
    words = pc.replace_substring_regex(pc.replace_substring(words, "'", ""), r"[^\p{L}\p{N}]+", " ")
    words = pc.utf8_trim_whitespace(words)
    return pa.record_batch({"item": item, "title": title, "genres": genres, "title_words": words, "year": year})


def _movies_100k(batch: pa.RecordBatch) -> pa.RecordBatch:
    flags = np.stack([pc.equal(batch.column(name), "1").to_numpy(False) for name in batch.schema.names[3:]], axis=1)
    offsets = np.concatenate([[0], np.cumsum(flags.sum(axis=1))]).astype(np.int32)
    names = pa.array(_GENRES_100K).take(pa.array(np.nonzero(flags)[1]))
    genres = pa.ListArray.from_arrays(pa.array(offsets), names)
    return _movie(batch.column("item"), batch.column("title"), genres, batch.column("released"))


def _movies_1m(batch: pa.RecordBatch) -> pa.RecordBatch:
    parts = pc.extract_regex(batch.column("line"), r"^(?P<item>\d+)::(?P<title>.*)::(?P<genres>[^:]*)$")
    return _movie(*(pc.struct_field(parts, name) for name in ("item", "title", "genres")))


def _movies_latest(batch: pa.RecordBatch) -> pa.RecordBatch:
    genres = batch.column("genres")
    none = pc.equal(genres, "(no genres listed)")
    return _movie(batch.column("item"), batch.column("title"), pc.if_else(none, None, genres))


def _person(
    user: pa.Array, age: pa.Array, gender: pa.Array, occupation: pa.Array, zip_code: pa.Array
) -> pa.RecordBatch:
    """The user columns; of the zip code its first two digits."""
    prefix = pc.utf8_slice_codeunits(zip_code, 0, 2)
    columns = {"user": user, "age": age, "gender": gender, "occupation": occupation, "zip_prefix": prefix}
    return pa.record_batch(columns)


def _people_100k(batch: pa.RecordBatch) -> pa.RecordBatch:
    user, age, gender, occupation, zip_code = batch.columns
    years = pc.cast(age, pa.int32())
    buckets = pa.array(np.searchsorted(_AGE_EDGES, pc.fill_null(years, 0).to_numpy(False), side="right"))
    names = pc.if_else(pc.is_valid(years), pa.array(_AGE_NAMES).take(buckets), None)
    return _person(user, names, gender, occupation, zip_code)


def _people_1m(batch: pa.RecordBatch) -> pa.RecordBatch:
    user, gender, age, occupation, zip_code = batch.columns
    # The file's age codes are the lower ends of the buckets, 1 for those under 18.
    codes = pc.index_in(age, pa.array(["1", *map(str, _AGE_EDGES)]))
    job = pa.array(_OCCUPATIONS_1M).take(pc.cast(occupation, pa.int32()))
    return _person(user, pa.array(_AGE_NAMES).take(codes), gender, job, zip_code)
