"""Configuration of the ranker: a model of click probability on gated features, and how it is trained."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from recsys.config.base import Device, Section
from recsys.config.gates import GatesConfig
from recsys.config.train import CheckpointConfig

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Size = Annotated[int, Field(gt=0)]
Backbone = Literal["lr", "fm", "deepfm", "dcn", "dcn_v2", "ipnn", "two_tower"]
NumericReading = Literal["value", "log_squared", "quantile"]
Control = Literal["backbone", "frequency", "random", "field"]


class NumericConfig(Section):
    """How numbers are read.

    `value`: the standardised number times the field's embedding. `log_squared`: a bucket each for int(x) up to 2 and
    floor(ln(x)^2) above, as is usual for counts. `quantile`: buckets that hold about as many training rows each.
    """

    default: NumericReading = "value"
    fields: dict[str, NumericReading] = Field(default_factory=dict)
    """Other than the default, by field name."""
    quantiles: int = Field(default=20, ge=2)
    """Buckets of a `quantile` field, at most."""


class RankerConfig(Section):
    """The model: fields to vectors, and a backbone over them."""

    backbone: Backbone = "deepfm"
    features: tuple[str, ...] | None = None
    """Names of the fields that it reads, `user` and `item` for the ids; all where left out."""
    embedding_dim: Size = 16
    min_count: int = Field(default=1, ge=1)
    """User and item ids with fewer training events share the unseen row."""
    numeric: NumericConfig = NumericConfig()
    history: Literal["mean", "attention"] = "mean"
    """How sequences are pooled. `attention`: weighted by what the candidate item makes of each of their items."""
    linear: bool = True
    """Whether FM and DeepFM have a first-order weight a value (under the same gate) and a bias."""
    hidden: tuple[Size, ...] = (256, 128)
    """Widths of the hidden layers (ReLU) of DeepFM, DCN, DCN-v2, IPNN and of each of the two towers."""
    cross_layers: Size = 3
    dropout: Share = 0.0
    """After each hidden layer."""
    batch_norm: bool = False
    """Before each hidden layer's ReLU."""
    initial_scale: float | None = Field(default=None, gt=0.0)
    """Standard deviation of the embeddings' initial values; None: Xavier-uniform over the whole table."""

    @field_validator("features")
    @classmethod
    def _once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = sorted({name for name in names or () if (names or ()).count(name) > 1})
        if twice:
            raise ValueError(f"{twice} stand there twice; a field is read once")
        return names


class NegativesConfig(Section):
    """Negatives drawn for data that has none: items that the user might have been shown instead.

    The model then learns s = log of the rate at which the item is chosen: its logit in training is s - log(drawn a
    positive x probability to be drawn), so probabilities are right whatever the number drawn.
    """

    per_positive: Size = 4
    source: Literal["catalogue", "batch"] = "catalogue"
    """`catalogue`: uniformly from all items. `batch`: uniformly from the distinct items of the batch, each with what
    is known of it in one of its rows there, which items with point-in-time fields need; with `order: time` these are
    the items of the same moment, so the rate is that of an item among those alive."""


class RankingTrainConfig(Section):
    """How the ranker is trained."""

    epochs: Size = 20
    batch_size: Size = 4096
    device: Device = "auto"
    """As `train.device`."""
    patience: Size = 1
    """Epochs without a better validation AUC before training stops; the best epoch's weights are kept."""
    learning_rate: float = Field(default=0.001, gt=0.0)
    plateau: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor on the learning rate after each epoch without a better validation AUC (not in a search)."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Adam's."""
    l2_embeddings: float = Field(default=0.0, ge=0.0)
    """Coefficient of the squared norm of the embedding rows in the batch."""
    l2_network: float = Field(default=0.0, ge=0.0)
    """Coefficient of the squared norm of all other weights."""
    positive_weight: float = Field(default=1.0, gt=0.0)
    """What a positive row counts beside a negative one. Calibration on validation rows undoes its bias, beside drawn
    negatives the intercept's correction."""
    weight_field: str | None = None
    """A context field that holds each row's weight, 0 or more and never missing: an outcome, or a number, which is an
    input too unless left out."""
    negatives: NegativesConfig | None = None
    order: Literal["shuffled", "time"] = "shuffled"
    buffer_rows: Size = 1_000_000
    """Rows in memory at a time, over which is shuffled."""
    prefetch: Size = 4
    checkpoint: CheckpointConfig = CheckpointConfig()


class PositionConfig(Section):
    """A context field that says where an item was shown, so that clicks are not taken for taste.

    When scoring, every candidate is taken to be shown at the position `neutral` (a raw value of the field).
    """

    field: str
    neutral: str = "1"


class TaskConfig(Section):
    """Another thing to predict beside the click, by a head of its own on the same gated feature layer."""

    label_field: str
    """A field of kind `outcome` that holds 1 or 0, nothing where it is not known; rows without are left out."""
    weight: float = Field(default=1.0, ge=0.0)
    """Of its loss in the sum. Each loss is over the weight of all rows of the batch, so that with weight 1 the sum is
    the negative log-likelihood a row of the click and what follows."""
    of: Literal["clicks", "impressions"] = "clicks"
    """`clicks`: learned on clicked rows, as a probability given the click; what is exported is that times the
    probability of the click. `impressions`: learned on all rows where it is known, exported as it is."""


TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class RankingConfig(Section):
    """The ranker. Without this section there is none."""

    model: RankerConfig = RankerConfig()
    train: RankingTrainConfig = RankingTrainConfig()
    gates: GatesConfig | None = None
    """OptFS: search which values are kept, then train on those. None: no gates at all."""
    kappas: tuple[Annotated[float, Field(ge=0.0)], ...] = ()
    """Searches with each of these instead of `gates.kappa`; the smallest set of values within `tolerance` of the best
    validation AUC is taken."""
    tolerance: float = Field(default=0.001, ge=0.0)
    controls: tuple[Control, ...] = ()
    """Trained beside the chosen set, for the report: all values; as many of the most frequent values; as many values at
    random; whole fields, which a search of its own at the same price chooses (`mode: field`)."""
    tasks: dict[TaskName, TaskConfig] = Field(default_factory=dict, exclude_if=lambda tasks: not tasks)
    """What is predicted beside the click, by name, for example `conversion`. Early stopping and the choice among
    `kappas` look at the click."""
    retrieval_score: bool = False
    """Whether the score that the trained towers give query and item is a field, `retrieval_score`: a number, read as
    `model.numeric` says, with a gate of its own in a search. Evaluation and serving take that of the bundle's."""
    reuse: Path | None = None
    """A ranker folder of the same data set that is taken as it is, with its own settings, instead of training one, as
    when towers are trained anew more often than rankers. Promotion then checks its calibration behind these towers."""
    position: PositionConfig | None = None
    calibration: Literal["none", "platt", "isotonic"] = "platt"
    """Fitted on validation rows, stored with the model."""

    @model_validator(mode="after")
    def _consistent(self) -> "RankingConfig":
        if self.gates is None and (self.kappas or self.controls):
            raise ValueError("'kappas' and 'controls' belong to a search: give 'gates', or leave them out")
        if self.gates is not None and self.kappas and self.gates.penalty is not None:
            raise ValueError("'kappas' are instead of the price in 'gates': give 'gates.kappa', not 'gates.penalty'")
        negatives = self.train.negatives
        if negatives is not None and negatives.per_positive >= self.train.batch_size:
            raise ValueError(
                f"'train.negatives.per_positive: {negatives.per_positive}' does not fit into "
                f"'train.batch_size: {self.train.batch_size}', a positive and its negatives together"
            )
        if "click" in self.tasks:
            raise ValueError("'tasks.click': the click is always a task, its label is the event's; take another name")
        if self.train.negatives is not None and any(task.of == "impressions" for task in self.tasks.values()):
            raise ValueError("'tasks' of impressions need impressions: use 'of: clicks', or no 'train.negatives'")
        if self.retrieval_score and self.model.backbone == "two_tower":
            raise ValueError("'retrieval_score' is a number of both sides, which 'two_tower' has no place for")
        return self
