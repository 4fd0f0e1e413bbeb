"""Validation recall of the model under training: full catalogue, the same queries and ranking as `recsys evaluate`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys.config.evaluate import EvaluateConfig
from recsys.config.train import ValidationConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.inputs import item_inputs, query_columns, query_inputs
from recsys.evaluation.metrics import find_hits, ndcg, recall
from recsys.evaluation.queries import Queries, make_queries
from recsys.evaluation.recommend import Catalogue, recommend
from recsys.retrieval.live import tower_signature
from recsys.retrieval.spec import TwoTowerSpec
from recsys.schema import SPLITS

Embed = Callable[[Mapping[str, np.ndarray]], np.ndarray]
VALIDATION = SPLITS[1]


@dataclass(eq=False)
class _Towers:
    """The towers as a Recommender over prepared inputs; item vectors are made once."""

    queries: dict[str, np.ndarray]
    embed_queries: Embed
    items: np.ndarray
    dynamic: bool = False

    def advance(self, time: int) -> None:
        """Nothing changes with time."""

    def scores(self, queries: Queries, first: int, last: int) -> np.ndarray:
        """Cosines `[last - first, catalogue] float32`."""
        part = {name: values[first:last] for name, values in self.queries.items()}
        return self.embed_queries(part) @ self.items.T


class Validation:
    """Prepared once, measured after each epoch."""

    def __init__(self, dataset: DatasetFolder, config: ValidationConfig, spec: TwoTowerSpec) -> None:
        """Raises UserError where the validation part has no positives."""
        inputs = tuple(tower_signature(spec.query))
        self.item_columns = tuple(tower_signature(spec.item))
        protocol = EvaluateConfig(
            split="validation",
            ks=(config.k,),
            main_k=config.k,
            exclude_seen="auto" if config.exclude_seen else "none",
            candidates="all",
            max_queries=config.max_queries,
        )
        lag = dataset.manifest.get("ingest", {}).get("lag_ms", 0)
        self.dataset, self.k = dataset, config.k
        self.queries = make_queries(dataset, protocol, VALIDATION, lag_ms=lag)
        events = dataset.events(VALIDATION, query_columns(dataset, inputs))
        self.inputs = query_inputs(dataset, events.take(pa.array(self.queries.rows)), inputs)
        self.catalogue = Catalogue(dataset.items["count"].to_numpy(), None)

    def measure(self, embed_queries: Embed, embed_items: Embed) -> dict[str, float]:
        """Mean recall and NDCG at k over the queries, `{"recall@50": …, "ndcg@50": …}`."""
        items = embed_items(item_inputs(self.dataset, self.item_columns))
        found = recommend(_Towers(self.inputs, embed_queries, items), self.queries, self.catalogue, self.k)
        offsets, targets = self.queries.targets.block(0, len(self.queries))
        hits = find_hits(found, offsets, targets)
        return {
            f"recall@{self.k}": float(np.mean(recall(hits, offsets, self.k))),
            f"ndcg@{self.k}": float(np.mean(ndcg(hits, offsets, self.k))),
        }
