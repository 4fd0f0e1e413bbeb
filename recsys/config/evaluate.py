"""Configuration of what is measured and against which baselines."""

from typing import Literal

from pydantic import Field

from recsys.config.base import Section

Baseline = Literal["popularity", "recent_popularity", "item_transitions", "item_knn", "als", "bpr", "ease", "tutorial"]


class EvaluateConfig(Section):
    """What is measured and against which baselines; docs/evaluation.md says what each protocol means."""

    split: Literal["validation", "test"] = "test"
    """The part of the data whose positives are to be found."""

    protocol: Literal["auto", "event", "user"] = "auto"
    """`event`: a query for each positive. `user`: a query for each user. `auto`: `event` where the data has times."""

    ks: tuple[int, ...] = Field(default=(10, 20, 50, 100), min_length=1)
    """Cut-offs of recall, NDCG, MRR and hit rate."""

    main_k: int = 50
    """The cut-off (one of `ks`) that tuning, the report's first table and its plots by slice use."""

    exclude_seen: Literal["auto", "none", "training", "before_event"] = "auto"
    """What is never recommended: nothing, a user's positives of the earlier parts of the data, or all its positives
    before the query. `auto`: `before_event` for protocol event, `training` for protocol user."""

    candidates: Literal["auto", "all", "available"] = "auto"
    """The whole catalogue, or the items that had appeared when the query was asked. `auto`: `available` where items
    have point-in-time fields."""

    refresh_minutes: float | None = Field(default=None, gt=0)
    """How often that which changes with time is brought up to date: new items, point-in-time features with the item
    vectors made from them, recent popularity. None: as often as the data set's own features, else every hour."""

    max_queries: int | None = Field(default=None, ge=1)
    """At most so many queries, evenly spaced over the split; None: all."""

    fit_on: Literal["auto", "training", "training_and_validation"] = "auto"
    """What the baselines learn from, once tuned. `auto`: what the model itself was trained on, as its manifest says."""

    baselines: tuple[Baseline, ...] = (
        "popularity",
        "recent_popularity",
        "item_knn",
        "als",
        "bpr",
        "ease",
        "tutorial",
    )
    """Run beside the model, in the same table, on the same queries and histories."""

    rank_candidates: int = Field(default=200, ge=1)
    """How many candidates the retrieval model hands to the ranker, where the bundle has one (at least max(ks))."""

    tuning_queries: int = Field(default=3000, ge=1)
    """At most so many validation queries choose each baseline's settings."""

    ease_max_items: int = Field(default=8000, ge=1)
    """EASE inverts a dense items x items matrix; a larger catalogue leaves it out, and the report says so."""

    bootstrap: int = Field(default=1000, ge=0)
    """Resamples of users for the confidence intervals; 0: no intervals."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Probability that a confidence interval covers."""

    head_share: float = Field(default=0.5, gt=0, lt=1)
    """Head: the most popular items that together got this share of the training positives."""

    tail_share: float = Field(default=0.1, gt=0, lt=1)
    """Tail: the least popular items that together got this share, unseen items included; torso: those between."""
