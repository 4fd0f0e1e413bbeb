"""Configuration of the FAISS retrieval index."""

from typing import Literal

from pydantic import Field

from recsys.config.base import Section


class IndexConfig(Section):
    """The FAISS retrieval index. What is None here is chosen at build time by measured recall."""

    type: Literal["flat", "ivf", "hnsw", "ivf_pq"] = "flat"
    """`flat` is exact and costs milliseconds below some 100,000 items; the others trade recall for time or memory."""

    target_recall: float = Field(default=0.95, gt=0, le=1)
    """Share of the exact first `recall_at` items that the index must find; the least effort that does is chosen."""

    recall_at: int = Field(default=100, ge=1)
    """Length of the lists on which recall is measured."""

    tuning_queries: int = Field(default=1000, ge=1)
    """At most so many of the model's own validation queries measure recall and latency."""

    lists: int | None = Field(default=None, ge=1)
    """Inverted lists of `ivf` and `ivf_pq`; None: the square root of the catalogue, times 2."""

    neighbours: int = Field(default=32, ge=2)
    """Links of a vector on each level of `hnsw`."""

    build_effort: int = Field(default=200, ge=8)
    """Candidates that `hnsw` weighs while it links a new vector (efConstruction)."""

    code_bytes: int | None = Field(default=None, ge=1)
    """Bytes of a vector in `ivf_pq`; must divide the dimension. None: the fewest that reach `target_recall`."""
