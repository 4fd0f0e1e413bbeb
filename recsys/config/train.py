"""Configuration of how the towers are trained."""

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.base import Device, Section
from recsys.config.gates import GatesConfig
from recsys.config.model import Size
from recsys.config.ssl import SslConfig


class StreamingConfig(Section):
    """The streaming frequency estimator of Yi et al. 2019, algorithm 2."""

    buckets: Size = 1 << 20
    """Length H of each array."""
    hashes: Size = 2
    """Independent arrays m; the longest gap counts, which undoes most collisions."""
    alpha: float = Field(default=0.01, gt=0.0, le=1.0)
    """Learning rate of the gap."""


class RecentConfig(Section):
    """Frequencies of the moment, for batches in time order."""

    field: str
    """A point-in-time field that counts clicks and that the item tower reads."""
    floor: float = Field(default=0.05, gt=0.0)
    """Added to the count. Large, it understates how rare a quiet item is among the negatives, and lists fill with items
    that are over; small, one click on such an item weighs much."""


class LossConfig(Section):
    """The in-batch softmax."""

    frequencies: Literal["exact", "streaming", "batch", "recent", "none"] = "exact"
    """Where logQ comes from: training counts, the streaming estimator, the item's count in the batch itself or its
    clicks shortly before (both for batches in time order, where popularity is of the moment), or no correction."""
    recent: RecentConfig | None = None
    """For `frequencies: recent`."""
    log_q_strength: float = Field(default=1.0, ge=0.0, le=2.0)
    """Factor on logQ: 1 is the unbiased correction, less leaves popular items somewhat penalised."""
    mask_accidental_hits: bool = True
    """Whether other rows with the row's own item are left out of its negatives."""
    mask_history: bool = False
    """Whether items of the row's own histories are left out of its negatives too: right where what a user had is never
    recommended, as the softmax otherwise pushes items away from the very histories that hold them."""
    uniform_negatives: int = Field(default=0, ge=0)
    """Items drawn uniformly from the catalogue each step as extra negatives for every row (mixed negative sampling)."""
    uniform_negatives_from: Literal["catalogue", "positives"] = "catalogue"
    """What they are drawn from: all items that there were, or those of them with positives in training. An item without
    is never a positive, so draws of the whole catalogue teach the towers that such items are wrong everywhere."""
    weight_field: str | None = None
    """A context field that holds each positive's weight (its reward), 0 or more and never missing: an outcome, or a
    number. None: all weigh the same."""
    cross_batch_negatives: int = Field(default=0, ge=0)
    """Candidates of the last steps (positives and uniform negatives) that are kept, as constants, as more negatives for
    every row; 0: none. One costs (dim + 2) x 4 bytes and two of the three matrix products of a live one."""
    block_rows: Size = 512
    """Rows of logits that exist at a time; speed only."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products that give the softmax's gradients (self-supervision's too); the loss is the same.
    `bfloat16` is for machines with instructions for it and for wide outputs (docs/training.md, 'Speed')."""
    streaming: StreamingConfig = StreamingConfig()

    @model_validator(mode="after")
    def _complete(self) -> "LossConfig":
        if (self.frequencies == "recent") != (self.recent is not None):
            raise ValueError("'frequencies: recent' and 'recent: {field: ..., floor: ...}' go together")
        if self.mask_history and not self.mask_accidental_hits:
            raise ValueError("'mask_history: true' needs 'mask_accidental_hits: true'")
        if self.uniform_negatives_from != "catalogue" and not self.uniform_negatives:
            raise ValueError("'uniform_negatives_from' says what 'uniform_negatives' are drawn from; that is 0")
        return self


class OptimiserConfig(Section):
    """The optimiser; embedding tables are updated in the rows of the batch only."""

    kind: Literal["adam", "adagrad"] = "adam"
    learning_rate: float = Field(default=0.001, gt=0.0)
    decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor on the learning rate after each epoch."""
    to_zero: bool = False
    """Whether the learning rate also falls in a straight line, to 0 at the last step of the last epoch."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate grows from 0."""
    l2: float = Field(default=0.0, ge=0.0)
    """Coefficient of the squared norm of the weights, for tables of the rows in the batch."""


class InputConfig(Section):
    """The input pipeline."""

    order: Literal["shuffled", "time"] = "shuffled"
    """`time`: a batch holds consecutive events, so that its negatives are of the same time; batches are shuffled."""
    buffer_rows: Size = 1_000_000
    """Rows in memory at a time, over which is shuffled; data sets up to this size are decoded once."""
    prefetch: Size = 4
    """Batches prepared ahead."""


class ValidationConfig(Section):
    """What early stopping watches: recall over the full catalogue on validation, of equal recall the larger NDCG."""

    k: Size = 50
    exclude_seen: bool = True
    """Whether what the user had before is left out of the lists, as `evaluate.exclude_seen: auto` does."""
    max_queries: Size | None = 20_000
    """At most so many queries, evenly spaced over the validation part; None: all."""
    refresh_minutes: float | None = Field(default=None, gt=0.0)
    """As `evaluate.refresh_minutes`: how often point-in-time fields and the items on offer are brought up to date."""
    every_epochs: Size = 1


class CheckpointConfig(Section):
    """When training saves what it needs to go on after being killed."""

    every_steps: Size = 2_000
    every_seconds: float = Field(default=60.0, gt=0.0)


class TrainConfig(Section):
    """How the towers are trained."""

    epochs: Size = 20
    """At most so many passes over the training positives."""
    batch_size: Size = 1024
    device: Device = "auto"
    """`gpu` fails where there is none; `auto` uses one where TensorFlow finds one; `cpu` never does."""
    patience: Size = 3
    """Epochs without a better validation recall before training stops; without validation events all epochs run."""
    refit_on_validation: bool = False
    """Train once more from the start, for the chosen number of epochs, on training and validation events together."""
    loss: LossConfig = LossConfig()
    ssl: SslConfig | None = None
    """Self-supervision of the item tower, on items drawn from the catalogue; needs three fields that items have by
    themselves, the id among them."""
    query_ssl: SslConfig | None = None
    """The same for the query tower, on users; their histories and all that comes with an event are hidden."""
    gates: GatesConfig | None = None
    """OptFS: first search which values or fields pay, then train on those alone; None: keep all."""
    optimiser: OptimiserConfig = OptimiserConfig()
    input: InputConfig = InputConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
