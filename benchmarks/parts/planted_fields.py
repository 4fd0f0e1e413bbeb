"""Fields of items and events that mean nothing, planted in a real data set for gates to find and close.

Two are copies of real fields with the items in another order: the same values, frequencies and lists, and nothing to do
with the item. Two are drawn at random, with many values: one an item, one an event.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artifacts import write_artifact
from recsys.dataset_folder import DATASET_FORMAT, DATASET_KIND, DatasetFolder
from recsys.encoding.information import mutual_information
from recsys.encoding.vocabulary import COLUMNS, Vocabulary
from recsys.schema import FIRST_VALUE_ID, ITEM, LABEL, SPLITS, UNSEEN_ID, Field, Kind, Schema, Side

PERMUTED = {"permuted_words": "title_words", "permuted_genres": "genres"}
"""The planted copies and what they are of."""
RANDOM = {"random_item": 1000, "random_context": 500}
"""Planted single values, of an item and of an event, and of how many."""
PLANTED = (*PERMUTED, *RANDOM)


def plant_fields(dataset: DatasetFolder, output: Path, seed: int) -> DatasetFolder:
    """The data set with the planted fields, drawn from `seed`; made once."""
    if (output / "manifest.json").is_file():
        return DatasetFolder.open(output)
    rng = np.random.default_rng([seed, 0x9A17])
    items = dataset.items
    fields = []
    sizes = {name: dataset.vocabulary(source).size - FIRST_VALUE_ID for name, source in PERMUTED.items()} | RANDOM
    for name, source in PERMUTED.items():
        fields.append(Field(name=name, side=Side.ITEM, kind=dataset.schema.field(source).kind))
        items = items.append_column(name, dataset.items[source].take(pa.array(rng.permutation(len(items)))))
    for name, side in (("random_item", Side.ITEM), ("random_context", Side.CONTEXT)):
        fields.append(Field(name=name, side=side, kind=Kind.CATEGORICAL))
    items = items.append_column("random_item", _draw(rng, RANDOM["random_item"], len(items)))
    events = {}
    for split in SPLITS:
        table = dataset.events(split)
        events[split] = table.append_column("random_context", _draw(rng, RANDOM["random_context"], len(table)))
    schema = Schema(**{**dict(dataset.schema), "fields": (*dataset.schema.fields, *fields)})
    return _write(dataset, output, schema, items, events, sizes)


def _draw(rng: np.random.Generator, size: int, rows: int) -> pa.Array:
    return pa.array(rng.integers(0, size, rows).astype(np.int32) + FIRST_VALUE_ID)


def keep_frequent(dataset: DatasetFolder, output: Path, fields: Sequence[str], number: int) -> DatasetFolder:
    """The data set in which of all values of item `fields` only the `number` with the most training positives are left.

    A value that is not is unseen; where a list loses all its values, it is one unseen value.
    """
    if (output / "manifest.json").is_file():
        return DatasetFolder.open(output)
    counts = {name: training_counts(dataset, name) for name in fields}
    every = np.concatenate([count[FIRST_VALUE_ID:] for count in counts.values()])
    least = np.sort(every)[::-1][number - 1]
    items = dataset.items
    for name, count in counts.items():
        kept = count >= least
        kept[:FIRST_VALUE_ID] = True
        if dataset.schema.field(name).kind is Kind.MULTI_VALUED:
            rows = [[value for value in row if kept[value]] or [UNSEEN_ID] for row in items[name].to_pylist()]
            column = pa.array(rows, pa.list_(pa.int32()))
        else:
            ids = items[name].to_numpy()
            column = pa.array(np.where(kept[ids], ids, UNSEEN_ID).astype(np.int32))
        items = items.set_column(items.schema.get_field_index(name), name, column)
    events = {split: dataset.events(split) for split in SPLITS}
    return _write(dataset, output, dataset.schema, items, events, {})


def training_counts(dataset: DatasetFolder, name: str) -> np.ndarray:
    """Training positives that have each value of a field of items, `[ids] int64`; 0 for the special ids."""
    events = dataset.events(SPLITS[0], (ITEM, LABEL))
    ids = events[ITEM].to_numpy()[events[LABEL].to_numpy() == 1]
    values = dataset.features(Side.ITEM)[name][ids].ravel()
    counts = np.bincount(values, minlength=dataset.vocabulary(name).size)
    counts[:FIRST_VALUE_ID] = 0
    return counts


def _write(
    dataset: DatasetFolder,
    output: Path,
    schema: Schema,
    items: pa.Table,
    events: Mapping[str, pa.Table],
    sizes: Mapping[str, int],
) -> DatasetFolder:
    """The data set with other items, events and schema; `sizes` are the numbers of values of new fields."""
    payload = {key: value for key, value in dataset.manifest.items() if key not in ("kind", "format", "files")}
    added = {name: {"generation": 1, "size": size + FIRST_VALUE_ID} for name, size in sizes.items()}
    payload |= {"schema": schema.model_dump(mode="json"), "vocabularies": {**payload["vocabularies"], **added}}
    found = mutual_information(items, schema, Side.ITEM, dataset.manifest["settings"]["seed"])
    information = {**dataset.statistics["mutual_information"], Side.ITEM.value: found}
    with write_artifact(output, DATASET_KIND, DATASET_FORMAT, payload) as folder:
        for name in ("users", "vocabulary"):
            shutil.copytree(dataset.path / name, folder / name)
        for name in ("items", "events"):
            (folder / name).mkdir()
        pq.write_table(items, folder / "items" / "items-00000.parquet")
        for split, table in events.items():
            pq.write_table(table, folder / "events" / f"{split}-00000.parquet")
        statistics = {**dataset.statistics, "mutual_information": information}
        (folder / "statistics.json").write_text(json.dumps(statistics, indent=1, sort_keys=True) + "\n")
        for name, size in sizes.items():
            names = [str(n) for n in range(size)]
            if name in PERMUTED:
                names = dataset.vocabulary(PERMUTED[name]).table["value"].to_pylist()
            ids = np.arange(FIRST_VALUE_ID, FIRST_VALUE_ID + size, dtype=np.int32)
            columns = [names, np.zeros(size, np.int64), ids, np.ones(size, np.int32)]
            Vocabulary(name, pa.table(columns, schema=COLUMNS)).write(folder / "vocabulary" / f"{name}.parquet")
    return DatasetFolder.open(output)
