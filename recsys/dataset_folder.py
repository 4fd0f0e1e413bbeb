"""Reading a data set folder (docs/contracts.md): what training, evaluation, indexing and scoring start from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import Artifact, open_artifact
from recsys.encoding.vocabulary import Vocabulary
from recsys.errors import UserError
from recsys.schema import FIRST_VALUE_ID, ITEM, MISSING_ID, PADDING_ID, USER, Field, Kind, Schema, Side

DATASET_KIND = "dataset"
DATASET_FORMAT = 1


@dataclass(frozen=True)
class DatasetFolder:
    """An opened data set; tables are read when asked for, events by split."""

    artifact: Artifact
    schema: Schema

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> "DatasetFolder":
        """Open and check a data set; raises UserError for a missing, truncated or foreign folder."""
        artifact = open_artifact(Path(path), DATASET_KIND, DATASET_FORMAT, verify=verify)
        return cls(artifact, Schema.model_validate(artifact.manifest["schema"]))

    @property
    def path(self) -> Path:
        """The folder."""
        return self.artifact.path

    @property
    def manifest(self) -> Any:
        """The parsed manifest."""
        return self.artifact.manifest

    def event_files(self, split: str) -> list[Path]:
        """The Parquet files of a split in time order; empty where the split has no events."""
        return sorted((self.path / "events").glob(f"{split}-*.parquet"))

    def events(self, split: str, columns: Iterable[str] | None = None) -> pa.Table:
        """A whole split in memory; for what must see every row (evaluation), not for training."""
        files = self.event_files(split)
        if not files:
            raise UserError(f"{self.path}: the data set has no {split} events; check ingest.split.")
        names = list(columns) if columns is not None else None
        return pa.concat_tables([read_parquet(file, names) for file in files]).combine_chunks()

    def vocabulary(self, name: str) -> Vocabulary:
        """The vocabulary called `name`."""
        return self._vocabularies[name]

    @cached_property
    def _vocabularies(self) -> dict[str, Vocabulary]:
        return {
            name: Vocabulary.read(self.path / "vocabulary" / f"{name}.parquet") for name in self.schema.vocabularies
        }

    @cached_property
    def items(self) -> pa.Table:
        """One row an item, row r has id r + 3."""
        return self._entities("items")

    @cached_property
    def users(self) -> pa.Table:
        """One row a user, row r has id r + 3."""
        return self._entities("users")

    def _entities(self, folder: str) -> pa.Table:
        files = sorted((self.path / folder).glob("*.parquet"))
        if not files:
            raise UserError(f"{self.path / folder}: no Parquet files; the data set is incomplete, make it again.")
        return pa.concat_tables([read_parquet(file) for file in files]).combine_chunks()

    def features(self, side: Side) -> dict[str, np.ndarray]:
        """Static features of all users or items as arrays indexed by id (rows 0 to 2 stand for the special ids).

        Categorical: `[ids] int32`; multi-valued: `[ids, values] int32`, padded with 0; numeric: `[ids] float32` with
        NaN where missing. The special ids have missing values.
        """
        table = self.items if side is Side.ITEM else self.users
        kinds = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)
        return {field.name: dense_column(table[field.name], field) for field in self.schema.of(side, *kinds)}

    @cached_property
    def statistics(self) -> Any:
        """The parsed statistics.json."""
        import json

        return json.loads((self.path / "statistics.json").read_text(encoding="utf-8"))


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file; raises UserError that names a truncated file or a missing column."""
    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({error}); the file is truncated or not Parquet.") from None
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: column '{missing[0]}' is missing; the file has {table.column_names}.")
    return table


def pad_lists(lists: pa.Array | pa.ChunkedArray, length: int | None = None, *, keep_last: bool = True) -> np.ndarray:
    """Ragged list<int32> as `[rows, length] int32`, padded at the end with 0.

    `length` defaults to the longest row (at least 1). A longer row keeps its last values, or its first.
    """
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    lists = lists.fill_null([]) if lists.null_count else lists
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy(zero_copy_only=False)
    sizes = np.diff(offsets)
    if length is None:
        length = max(1, int(sizes.max(initial=0)))
    kept = np.minimum(sizes, length)
    starts = offsets[1:] - kept if keep_last else offsets[:-1]
    padded = np.full((len(sizes), length), PADDING_ID, np.int32)
    within = np.arange(length, dtype=np.int64)
    mask = within < kept[:, None]
    padded[mask] = values[(starts[:, None] + within)[mask]]
    return padded


def dense_column(column: pa.ChunkedArray, field: Field) -> np.ndarray:
    """A feature column of users or items indexed by id, the special ids (missing values) in front."""
    if field.kind is Kind.MULTI_VALUED:
        padded = pad_lists(column, keep_last=False)
        special = np.full((FIRST_VALUE_ID, padded.shape[1]), PADDING_ID, np.int32)
        special[:, 0] = MISSING_ID
        return np.concatenate([special, padded])
    if field.kind is Kind.NUMERIC:
        return np.concatenate([np.full(FIRST_VALUE_ID, np.nan, np.float32), column.to_numpy().astype(np.float32)])
    return np.concatenate([np.full(FIRST_VALUE_ID, MISSING_ID, np.int32), column.to_numpy().astype(np.int32)])


__all__ = [
    "DATASET_FORMAT",
    "DATASET_KIND",
    "ITEM",
    "USER",
    "DatasetFolder",
    "dense_column",
    "pad_lists",
    "read_parquet",
]
