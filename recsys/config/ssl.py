"""Configuration of self-supervision, a second loss of a tower (recsys/retrieval/ssl.py)."""

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.base import Section
from recsys.config.model import Share, Size


class SslConfig(Section):
    """Two views of one thing's fields must be nearer to each other than to the views of other things."""

    method: Literal["cfm", "rfm", "rfm_independent", "no_masking", "spread_out"] = "cfm"
    """What the two views hide. `cfm`: a random field and the half of the others that tell most about it, against the
    rest. `rfm`: a random half against the other half. `rfm_independent`: two random halves. `no_masking`: nothing, the
    views differ by value dropout alone. `spread_out`: nothing at all, the loss only pushes things apart (a control)."""
    id_rank: Literal["by_information", "last"] = "by_information"
    """Where `cfm` ranks the id among the fields that tell about another. It tells everything about every field, so by
    information it is always hidden with the drawn field, and the other view has to tell the content from the id. `last`
    leaves it to the other view where it can."""
    weight: float = Field(default=0.3, ge=0.0)
    """Factor on this loss beside the main one; 0 is the same as no self-supervision."""
    temperature: float | None = Field(default=None, gt=0.0, le=10.0)
    """The temperature of this loss; that of the model where left out."""
    value_dropout: Share = 0.3
    """Share of the values of each multi-valued field that a view leaves out; one of them always stays."""
    batch_size: int | None = Field(default=None, ge=2)
    """Things drawn each step, uniformly and without repetition; `train.batch_size` where left out."""
    every: Size = 1
    """In one step of so many this loss is added, so many times as heavy: 2 halves what it costs."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the weight grows from 0; for main losses that spike at the start."""

    @model_validator(mode="after")
    def _id_rank_is_of_cfm(self) -> "SslConfig":
        if self.id_rank == "last" and self.method != "cfm":
            raise ValueError(f"'id_rank' says how 'cfm' ranks the id; '{self.method}' ranks nothing")
        return self
