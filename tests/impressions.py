"""The tiny data set as impressions: beside every choice an item of the other block that was shown and not chosen."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder
from recsys.schema import FIRST_VALUE_ID, SPLITS


def write_impressions(dataset: DatasetFolder, output: Path, *, flipped: float = 0.0, seed: int = 0) -> DatasetFolder:
    """Label 1 where user and item are of one block, else 0; a share of `flipped` labels is the other one."""
    rng = np.random.default_rng(seed)
    odd = np.array([int(raw[1:]) % 2 for raw in dataset.items["raw"].to_pylist()])
    blocks = [np.flatnonzero(odd == block) + FIRST_VALUE_ID for block in (0, 1)]
    kept = {key: value for key, value in dataset.manifest.items() if key not in ("kind", "format", "files")}
    with write_artifact(output, DATASET_KIND, DATASET_FORMAT, kept) as folder:
        for part in ("items", "users", "vocabulary"):
            shutil.copytree(dataset.path / part, folder / part)
        shutil.copy(dataset.path / "statistics.json", folder)
        (folder / "events").mkdir()
        for split in SPLITS:
            chosen = dataset.events(split)
            items = chosen["item"].to_numpy()
            other = np.array([rng.choice(blocks[1 - odd[item - FIRST_VALUE_ID]]) for item in items], np.int32)
            shown = chosen.set_column(chosen.column_names.index("item"), "item", pa.array(other))
            shown = shown.set_column(
                shown.column_names.index("label"), "label", pa.array(np.zeros(len(shown), np.int8))
            )
            both = pa.concat_tables([chosen, shown])
            both = both.take(pc.sort_indices(both, [("time", "ascending"), ("item", "ascending")]))
            labels = both["label"].to_numpy() ^ (rng.random(len(both)) < flipped)
            both = both.set_column(both.column_names.index("label"), "label", pa.array(labels.astype(np.int8)))
            pq.write_table(both, folder / "events" / f"{split}-00000.parquet")
    return DatasetFolder.open(output)
