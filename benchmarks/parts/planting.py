"""A field that means nothing, planted in a real data set: the strictest test of a search for useful values."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder
from recsys.schema import ITEM, SPLITS, Field, Kind, Schema, Side

PLANTED = "planted"


def plant(dataset: DatasetFolder, output: Path, seed: int) -> DatasetFolder:
    """The data set with a context field `planted`: the rows' item ids in random order within each part.

    It has the very values and frequencies of the most telling field, and nothing to do with the label.
    """
    if (output / "manifest.json").is_file():
        return DatasetFolder.open(output)
    field = Field(name=PLANTED, side=Side.CONTEXT, kind=Kind.CATEGORICAL)
    schema = Schema(**{**dict(dataset.schema), "fields": (*dataset.schema.fields, field)})
    kept = {name: value for name, value in dataset.manifest.items() if name not in ("kind", "format", "files")}
    sizes = {**kept["vocabularies"], PLANTED: kept["vocabularies"][ITEM]}
    payload = {**kept, "schema": schema.model_dump(mode="json"), "vocabularies": sizes}
    with write_artifact(output, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("items", "users", "vocabulary"):
            shutil.copytree(dataset.path / name, folder / name)
        shutil.copy(dataset.path / "statistics.json", folder)
        shutil.copy(folder / "vocabulary" / f"{ITEM}.parquet", folder / "vocabulary" / f"{PLANTED}.parquet")
        (folder / "events").mkdir()
        for number, split in enumerate(SPLITS):
            if not dataset.event_files(split):
                continue
            table = dataset.events(split)
            order = np.random.default_rng([seed, number]).permutation(len(table))
            table = table.append_column(PLANTED, pa.array(table[ITEM].to_numpy()[order]))
            pq.write_table(table, folder / "events" / f"{split}-00000.parquet")
    return DatasetFolder.open(output)
