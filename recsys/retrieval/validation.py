"""Validation recall of the model under training: full catalogue, the same queries and ranking as `recsys evaluate`."""

import numpy as np

from recsys.config.evaluate import EvaluateConfig
from recsys.config.train import ValidationConfig
from recsys.dataset_folder import DatasetFolder
from recsys.evaluation.metrics import coverage, find_hits, mean_popularity, ndcg, recall
from recsys.evaluation.queries import lag_of, make_queries, protocol_of
from recsys.evaluation.recommend import Catalogue, recommend
from recsys.evaluation.slices import OVERALL, popularity_classes, slice_targets
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
        counts = dataset.items["count"].to_numpy()
        self.catalogue = Catalogue(counts, None if everything else available)
        classes = popularity_classes(counts, protocol.head_share, protocol.tail_share)
        self.slices = slice_targets(self.queries, dataset.users["count"].to_numpy(), classes)

    def measure(self, query_tower: Embedder, item_tower: Embedder) -> tuple[dict[str, float], dict[str, float]]:
        """Mean recall and NDCG at k over the queries, `{"recall@50": …, "ndcg@50": …}`, and what lies behind them.

        The second part is recall by slice of users and items (those that have targets), and of what was retrieved the
        mean number of training events (`popularity@50`) and the share of the catalogue (`coverage@50`).
        """
        model = two_tower(self.dataset, query_tower, item_tower, self.queries)
        found = recommend(model, self.queries, self.catalogue, self.k)
        offsets, columns = self.slices[OVERALL]
        hits = find_hits(found, offsets, columns)
        details = {}
        for name, (inside, targets) in self.slices.items():
            if name != OVERALL and len(targets):
                details[f"recall@{self.k}/{name}"] = float(
                    np.nanmean(recall(find_hits(found, inside, targets), inside, self.k))
                )
        counts = self.catalogue.counts
        details[f"popularity@{self.k}"] = mean_popularity(found, counts, self.k)
        details[f"coverage@{self.k}"] = coverage(found, len(counts), self.k)
        return {
            f"recall@{self.k}": float(np.mean(recall(hits, offsets, self.k))),
            f"ndcg@{self.k}": float(np.mean(ndcg(hits, offsets, self.k))),
        }, details
