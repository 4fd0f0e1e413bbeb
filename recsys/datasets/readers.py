"""Tables in files: CSV, JSON Lines and Parquet, plain or gzip, named by paths and globs."""

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.config.data import TableFormat
from recsys.datasets.columns import Wanted
from recsys.datasets.csv_format import CsvFormat
from recsys.datasets.jsonl_format import read_jsonl
from recsys.datasets.parquet_format import read_parquet_shard, row_group_ranges
from recsys.datasets.source import RawBatch, Shard
from recsys.errors import UserError
from recsys.schema import SPLITS

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}

Transform = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Makes canonical columns out of the columns read, row by row in place; a function of a module, so that it pickles."""


@dataclass(frozen=True)
class FileReader:
    """The rows of some files, in the order of the globs and of the names that each matches.

    `where` is the configuration path that names the files, for error messages. `paths` pairs each path or glob with its
    split, or None. `columns` pairs canonical names with source columns. `transform` is applied to every batch.
    """

    where: str
    paths: tuple[tuple[str, str | None], ...]
    columns: Wanted
    format: str = "auto"
    csv: CsvFormat = field(default_factory=CsvFormat)
    transform: Transform | None = None

    def shards(self) -> list[Shard]:
        """One shard a file, several for a Parquet file of many row groups; a file that two globs match is read once."""
        shards: list[Shard] = []
        for pattern, split in self.paths:
            seen = {shard.file for shard in shards if shard.split == split}
            for path in expand(pattern, self.where):
                if path in seen:
                    continue
                ranges: list[tuple[int, int | None]] = [(0, None)]
                if self._format(path) == "parquet":
                    ranges = list(row_group_ranges(path))
                shards += [
                    Shard(len(shards) + number, path, start, stop, split) for number, (start, stop) in enumerate(ranges)
                ]
        return shards

    def read(self, shard: Shard) -> Iterator[RawBatch]:
        """The rows of one shard under canonical names."""
        form = self._format(shard.file)
        if form == "parquet":
            batches = read_parquet_shard(shard, self.columns)
        elif form == "jsonl":
            batches = read_jsonl(shard.file, self.columns)
        else:
            batches = self._csv_format(shard.file).read(shard.file, self.columns)
        for batch in batches:
            table = batch.table if self.transform is None else self._transformed(batch)
            if shard.split is not None:
                given = pa.array([shard.split]).take(pa.array([0] * len(table), pa.int32()))
                table = table.append_column("split", given)
            yield replace(batch, table=table, names=self.names)

    @property
    def names(self) -> dict[str, str]:
        """The file's own name of each canonical column; none where columns are made of others."""
        return {} if self.transform else dict(self.columns.pairs)

    def _transformed(self, batch: RawBatch) -> pa.RecordBatch:
        assert self.transform is not None
        try:
            return self.transform(batch.table)
        except pa.ArrowException as error:
            first = batch.rows[0].as_py() if len(batch.rows) else 0
            raise UserError(
                f"{batch.file}: a value in the {len(batch.rows)} rows from row {first} on is not what {self.where} "
                f"expects there: {' '.join(str(error).split())}."
            ) from None

    def _format(self, path: str) -> str:
        if self.format != "auto":
            return self.format
        extension = Path(path.removesuffix(".gz")).suffix.lower()
        if extension not in _FORMATS:
            raise UserError(
                f"{path}: its extension '{extension}' tells no format; expected one of {', '.join(_FORMATS)} "
                f"(but Parquet also with .gz), or set {self.where}.format to csv, jsonl or parquet."
            )
        return _FORMATS[extension]

    def _csv_format(self, path: str) -> CsvFormat:
        if self.csv.delimiter:
            return self.csv
        tab = Path(path.removesuffix(".gz")).suffix.lower() == ".tsv"
        return replace(self.csv, delimiter="\t" if tab else ",")


def expand(pattern: str, where: str) -> list[str]:
    """The files that a path or glob names, sorted; raises UserError where there are none."""
    if not glob.has_magic(pattern):
        path = Path(pattern).expanduser()
        if not path.is_file():
            found = "it is a folder; add a glob such as /*.csv" if path.is_dir() else "no such file"
            raise UserError(f"{pattern}: {found} ({where}; relative paths start at {Path.cwd().name}/).")
        return [str(path)]
    paths = sorted(path for path in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(path).is_file())
    if not paths:
        raise UserError(f"{pattern}: no file matches this glob ({where}; relative paths start at {Path.cwd().name}/).")
    return paths


def file_reader(
    where: str,
    paths: tuple[str, ...] | Mapping[Any, tuple[str, ...]],
    columns: Mapping[str, str | None],
    form: TableFormat,
    transform: Transform | None = None,
) -> FileReader:
    """The reader of a table as the configuration describes it; columns without a source are left out."""
    pairs: tuple[tuple[str, str | None], ...]
    if isinstance(paths, Mapping):
        pairs = tuple((path, split) for split in SPLITS for path in paths.get(split, ()))
    else:
        pairs = tuple((path, None) for path in paths)
    if not pairs:
        raise UserError(f"{where}: names no file; expected at least one path or glob.")
    wanted = Wanted(tuple((name, source) for name, source in columns.items() if source))
    csv = CsvFormat(form.delimiter or "", form.header, form.encoding, True, form.multiline, form.missing)
    return FileReader(where, pairs, wanted, form.format, csv, transform)


def local(folder: Path, *patterns: str) -> tuple[tuple[str, None], ...]:
    """Globs below a folder whose own name is taken as it is, as `FileReader.paths`."""
    return tuple((f"{glob.escape(str(folder))}/{pattern}", None) for pattern in patterns)
