"""Configuration of the towers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys.config.base import Section

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Size = Annotated[int, Field(gt=0)]


class IdentityConfig(Section):
    """How a tower uses the id of its own user or item."""

    use: bool = True
    """Whether the tower reads the id at all; without it only features (and the history) speak."""
    min_count: int = Field(default=1, ge=1)
    """Ids with fewer training positives share the unseen row."""
    dropout: Share = 0.0
    """Share of rows a step that look up the unseen row instead, so that it learns what a newcomer is like."""


class TowerConfig(Section):
    """One tower: fields to vectors, combined, through hidden layers, to the output."""

    features: tuple[str, ...] | None = None
    """Names of the fields that it reads besides the id; all of its side where left out."""
    combine: Literal["concat", "sum"] = "concat"
    """How the fields' vectors meet. `sum` adds a bias; without hidden layers and with equal
    dimensions it has no other weights."""
    hidden: tuple[Size, ...] = ()
    """Widths of the hidden layers (ReLU); none: one linear layer, or the plain sum."""
    feature_dropout: Share = 0.0
    """Share of the fields (the id among them) of each training row that are hidden behind their default embedding."""


class PoolingConfig(Section):
    """One way of pooling a history into a vector."""

    kind: Literal["mean", "root", "recent", "position"] = "mean"
    """`root`: sum / sqrt(count), so a long history weighs more. `recent`: mean weighted by 0.5^(place from the newest /
    half_life). `position`: mean weighted by one learned weight a place (at first the plain mean)."""
    half_life: float = Field(default=10.0, gt=0.0)
    """In places from the newest item, for `recent`."""


class HistoryConfig(Section):
    """How the query tower reads histories (sequence fields)."""

    poolings: tuple[PoolingConfig, ...] = Field(default=(PoolingConfig(),), min_length=1)
    """Each history is pooled in each of these ways. In a sum, several have a square matrix each (identity at first)."""
    share_item_table: bool = True
    """Whether items of a history are looked up in the item tower's id table, or in one of their own."""
    dropout: Share = 0.0
    """Share of a history's items left out at random, each step anew."""


class TemperatureConfig(Section):
    """The softmax temperature: logits are cosine / temperature."""

    value: float = Field(default=0.07, gt=0.0, le=10.0)
    """The temperature, or where it starts when it is learned."""
    learned: bool = False
    """Whether it is trained along (its logarithm is the variable)."""


class ModelConfig(Section):
    """The towers."""

    embedding_dim: Size = 32
    """Width of every embedding table."""
    output_dim: Size = 32
    """Width of the towers' outputs, hence of the index."""
    user_id: IdentityConfig = IdentityConfig(dropout=0.1)
    item_id: IdentityConfig = IdentityConfig()
    query: TowerConfig = TowerConfig()
    item: TowerConfig = TowerConfig()
    history: HistoryConfig = HistoryConfig()
    item_audience: bool = False
    """Whether the item tower reads the id vectors of the users who had the item in training, pooled like `root`: the
    counterpart of a history. For data without times; where events have times, a training row would see later users."""
    embedding_dropout: Share = 0.0
    """Dropout on the combined field vectors, before the first layer."""
    initial_scale: float = Field(default=0.1, gt=0.0)
    """Standard deviation of the embeddings' initial values."""
    temperature: TemperatureConfig = TemperatureConfig()
    popularity_prior: float = Field(default=0.0, ge=0.0, le=1.0)
    """Added to the cosine in ranking, not in training, for each unit of the logarithm of an item's training count. What
    is known of rare items is little, and of many of them some look best by chance; more than 0 allows for that. It
    makes served vectors two wider than `output_dim`."""

    @model_validator(mode="after")
    def _readable(self) -> "ModelConfig":
        if self.item_audience and not self.user_id.use:
            raise ValueError("'item_audience: true' pools vectors of user ids: it needs 'user_id: {use: true}'")
        return self
