"""The list format of collaborative-filtering benchmarks: a line is a user followed by its items; no time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.data import GowallaData
from recsys.datasets.columns import Wanted, rejected, sliced
from recsys.datasets.csv_format import CsvFormat
from recsys.datasets.fields import merged_fields
from recsys.datasets.source import RawBatch, RawSource, Shard
from recsys.errors import UserError
from recsys.schema import Schema

_LINE = CsvFormat("\x1f", ("line",), quoted=False)


@dataclass(frozen=True)
class ListReader:
    """The pairs of a list file each; `files` pairs a path with its split."""

    files: tuple[tuple[str, str], ...]

    def shards(self) -> list[Shard]:
        """One shard a file."""
        for path, _ in self.files:
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file (data.folder); expected lines of a user followed by its items.")
        return [Shard(index, path, split=split) for index, (path, split) in enumerate(self.files)]

    def read(self, shard: Shard) -> Iterator[RawBatch]:
        """One row a pair; `rows` are line numbers, so the items of one user share theirs.

        A line without items is rejected.
        """
        for batch in _LINE.read(shard.file, Wanted((("line", "line"),))):
            lines = pc.utf8_trim_whitespace(pc.fill_null(batch.table.column("line"), ""))
            parts = pc.split_pattern_regex(lines, r"\s+")
            offsets, values = parts.offsets.to_numpy(), parts.flatten()
            sizes = np.diff(offsets) - 1
            numbers = batch.rows.to_numpy()
            users = values.take(pa.array(np.repeat(offsets[:-1], sizes)))
            is_item = np.ones(len(values), bool)
            is_item[offsets[:-1]] = False
            bare = tuple(
                rejected(shard.file, int(numbers[at]), "no items, expected a user followed by items", lines[at].as_py())
                for at in np.flatnonzero(sizes == 0)
            )
            items = values.filter(pa.array(is_item))
            split = pa.array([shard.split]).take(pa.array(np.zeros(len(items), np.int32)))
            table = pa.record_batch({"user": users, "item": items, "split": split})
            yield from sliced(table, shard.file, pa.array(np.repeat(numbers, sizes)), batch.rejected + bare)


def gowalla_source(config: GowallaData) -> RawSource:
    """The training and test pairs as events, all positive, with their given split."""
    files = tuple(
        (str(config.folder / name), split) for name, split in ((config.train, "train"), (config.test, "test"))
    )
    return RawSource(
        name="gowalla",
        schema=Schema(fields=merged_fields((), config), has_time=False),
        events=ListReader(files),
        given_split=True,
        notes={"licence": "research use only"},
    )
