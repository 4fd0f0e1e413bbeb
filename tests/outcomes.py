"""A data set folder with an outcome more, for tests."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder
from recsys.schema import Field, Kind, Schema, Side


def with_outcome(dataset: DatasetFolder, output: Path, name: str, values: Mapping[str, np.ndarray]) -> DatasetFolder:
    """The data set with the outcome `name`, of the given values by split (each `[rows]`, NaN where unknown)."""
    field = Field(name=name, side=Side.CONTEXT, kind=Kind.OUTCOME)
    schema = Schema(**{**dict(dataset.schema), "fields": (*dataset.schema.fields, field)})
    kept = {key: value for key, value in dataset.manifest.items() if key not in ("kind", "format", "files")}
    payload = {**kept, "schema": schema.model_dump(mode="json")}
    with write_artifact(output, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for part in ("items", "users", "vocabulary"):
            shutil.copytree(dataset.path / part, folder / part)
        shutil.copy(dataset.path / "statistics.json", folder)
        (folder / "events").mkdir()
        for split, column in values.items():
            table = dataset.events(split).append_column(name, pa.array(np.asarray(column, np.float32)))
            pq.write_table(table, folder / "events" / f"{split}-00000.parquet")
    return DatasetFolder.open(output)
