"""The index stage: a bundle from a model and its data set, all that serving loads."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from recsys.artifacts import MANIFEST, Artifact, latency_file, open_artifact, write_artifact, write_atomic
from recsys.config.index import IndexConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.evaluation.inputs import query_columns, query_inputs
from recsys.index.tuning import build_tuned, measure_latency
from recsys.promotion import SAW
from recsys.ranking import RANKER_FORMAT, RANKER_KIND
from recsys.registry import BUNDLE_FORMAT, BUNDLE_KIND
from recsys.retrieval import MODEL_FORMAT, MODEL_KIND
from recsys.schema import ITEM, LABEL
from recsys.scoring.history import write_histories
from recsys.scoring.towers import load_tower


def build_bundle(
    dataset: DatasetFolder,
    model: Path,
    config: IndexConfig,
    output: Path,
    *,
    ranker: Path | None = None,
    quiet: bool = False,
) -> Artifact:
    """Index the model's item vectors and write the bundle folder (docs/contracts.md, 'Bundle folder').

    The index's parameters are chosen by measured recall on the model's validation queries. A `ranker` folder comes
    along. Raises UserError where the model or ranker is damaged or was trained on another data set.
    """
    trained = open_artifact(model, MODEL_KIND, MODEL_FORMAT)
    _belongs(trained, dataset)
    second = None if ranker is None else open_artifact(ranker, RANKER_KIND, RANKER_FORMAT)
    if second is not None:
        _belongs(second, dataset)
    vectors = read_vectors(trained.path, len(dataset.items))
    ids = dataset.items[ITEM].to_numpy().astype(np.int64)
    queries, source = tuning_queries(dataset, trained.path, config.tuning_queries)
    index, info = build_tuned(ids, vectors, queries, config)
    info["recall"]["source"] = source
    payload: dict[str, Any] = {
        "dataset": dataset.artifact.artifact_id,
        "model": trained.artifact_id,
        "index": config.model_dump(mode="json"),
        "representation": _representation(trained.path),
    }
    if second is not None:
        payload["ranker"] = second.artifact_id
        payload[SAW] = second.manifest.get("retrieval_model")
    with write_artifact(output, BUNDLE_KIND, BUNDLE_FORMAT, payload) as folder:
        link_tree(trained.path, folder / "model")
        if second is not None:
            link_tree(second.path, folder / "ranker")
        link_tree(dataset.path / "vocabulary", folder / "vocabulary")
        pq.write_table(dataset.items, folder / "items.parquet")
        pq.write_table(dataset.users, folder / "users.parquet")
        write_histories(dataset, folder / "histories")
        index.save(folder / "index", info)
    recall, latency = info["recall"], measure_latency(index, queries, info["recall"]["at"])
    # A clock has no place in the bundle: equal content has equal bytes.
    write_atomic(latency_file(output), json.dumps({"threads": 1} | latency, indent=1).encode())
    if not quiet:
        Console().print(
            f"Index [bold]{config.type}[/bold]: {len(index):,} items, recall@{recall['at']} {recall['value']:.3f} of "
            f"exact search, one query {latency['p50_ms']:.2f} ms (p99 {latency['p99_ms']:.2f} ms)"
        )
        if not info["target_reached"]:
            Console(stderr=True).print(
                f"[yellow]No setting of {config.type} reaches index.target_recall {config.target_recall}; the best one "
                "found is used. Use type flat, or ivf_pq with more code_bytes.[/yellow]"
            )
    return open_artifact(output, BUNDLE_KIND, BUNDLE_FORMAT)


def _belongs(model: Artifact, dataset: DatasetFolder) -> None:
    found, expected = model.manifest.get("dataset"), dataset.artifact.artifact_id
    if found != expected:
        raise UserError(
            f"{model.path / MANIFEST}: the model was trained on the data set {found}, but {dataset.path} is "
            f"{expected}; their ids differ in meaning. Train on this data set, or index with the other one."
        )


def _representation(model: Path) -> dict:
    """The representation epoch, so that whoever holds a bundle knows which vectors may be compared."""
    try:
        return json.loads((model / "representation.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{model / 'representation.json'}: not readable ({error}); train the model again.") from None


def read_vectors(model: Path, items: int) -> np.ndarray:
    """The item vectors of a model folder, `[items, dim] float32`; raises UserError for another number of rows."""
    path = model / "vectors.npy"
    try:
        vectors = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}); train the model again.") from None
    if vectors.ndim != 2 or len(vectors) != items:
        raise UserError(f"{path}: shape {vectors.shape}, expected one row for each of {items} items; train again.")
    return vectors.astype(np.float32, copy=False)


def tuning_queries(dataset: DatasetFolder, model: Path, limit: int) -> tuple[np.ndarray, str]:
    """At most `limit` query vectors `[n, dim] float32` of evenly spaced validation positives, and where they are from.

    A data set without validation events gives training positives.
    """
    tower = load_tower(model / "query_tower")
    split = "validation" if dataset.event_files("validation") else "train"
    labels = dataset.events(split, (LABEL,))[LABEL].to_numpy()
    rows = np.flatnonzero(labels == 1)
    rows = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64)]
    events = dataset.events(split, query_columns(dataset, tower.inputs)).take(pa.array(rows))
    return tower(query_inputs(dataset, events, tower.inputs)), f"{split} queries"


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder of immutable files by hard links, or by bytes where the file system has none."""

    def link(origin: str, destination: str) -> None:
        try:
            os.link(origin, destination)
        except OSError:
            shutil.copy2(origin, destination)

    shutil.copytree(source, target, copy_function=link)
