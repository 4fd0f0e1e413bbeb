"""Validation recall of the model under training: full catalogue, the same queries and ranking as `recsys evaluate`."""

import numpy as np

from recsys.config.evaluate import EvaluateConfig
from recsys.config.train import ValidationConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.metrics import find_hits, ndcg, recall
from recsys.evaluation.queries import lag_of, make_queries, protocol_of
from recsys.evaluation.recommend import Catalogue, recommend
from recsys.evaluation.two_tower import Embedder, two_tower
from recsys.schema import SPLITS

VALIDATION = SPLITS[1]


class Validation:
    """Prepared once, measured after each epoch."""

    def __init__(self, dataset: DatasetFolder, config: ValidationConfig) -> None:
        """Raises UserError where the validation part has no positives to find."""
        protocol = EvaluateConfig(
            split="validation",
            ks=(config.k,),
            main_k=config.k,
            exclude_seen="auto" if config.exclude_seen else "none",
            refresh_minutes=config.refresh_minutes,
            max_queries=config.max_queries,
        )
        lag = lag_of(dataset)
        self.dataset, self.k = dataset, config.k
        self.queries = make_queries(dataset, protocol, VALIDATION, lag_ms=lag)
        available = dataset.items["available_from"].to_numpy() + lag
        everything = protocol_of(dataset, protocol)[2] == "all"
        self.catalogue = Catalogue(dataset.items["count"].to_numpy(), None if everything else available)

    def measure(self, query_tower: Embedder, item_tower: Embedder) -> dict[str, float]:
        """Mean recall and NDCG at k over the queries, `{"recall@50": …, "ndcg@50": …}`."""
        model = two_tower(self.dataset, query_tower, item_tower, self.queries)
        found = recommend(model, self.queries, self.catalogue, self.k)
        offsets, targets = self.queries.targets.block(0, len(self.queries))
        hits = find_hits(found, offsets, targets)
        return {
            f"recall@{self.k}": float(np.mean(recall(hits, offsets, self.k))),
            f"ndcg@{self.k}": float(np.mean(ndcg(hits, offsets, self.k))),
        }
