"""The synthetic catalogue on which self-supervision must show what it does, and a trainer of one arm on it.

Settings of the paper's specification, section 8: 6,000 items in 300 clusters, cluster popularity Zipf(1.1); fields id,
category (30), sub-category (150), brand (900), tier (40, a function of the brand) and 4 tags (1,800), each value
replaced by a random one with probability 0.25; 12,000 training and 12,000 test pairs of items of one cluster. What it
leaves open is set here: clusters of 20 items; the popularity of items within a cluster falls as rank^-`WITHIN`; both
items of a pair are drawn independently (so a test pair can be an item with itself, which no list can hit, as the item
that asks is left out of it). The model, the losses and the step are those of the training job.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recsys._tensorflow import tf
from recsys.config.model import IdentityConfig, ModelConfig, TemperatureConfig, TowerConfig
from recsys.config.ssl import SslConfig
from recsys.config.train import LossConfig
from recsys.encoding.information import mutual_information
from recsys.features.spec import Form, InputSpec, full_table
from recsys.retrieval.input import Batch, join
from recsys.retrieval.job import build
from recsys.retrieval.live import LiveTower
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import RowAdagrad
from recsys.retrieval.sampler import UniformSampler
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.retrieval.ssl import SelfSupervision, last_of, make_masks
from recsys.retrieval.step import Catalogue, Trainer
from recsys.retrieval.towers import TwoTower
from recsys.retrieval.views import correlated_masks, correlated_sets
from recsys.schema import FIRST_VALUE_ID, ITEM, Field, Kind, Schema, Side

CLUSTERS, CLUSTER_SIZE = 300, 20
ITEMS = CLUSTERS * CLUSTER_SIZE
ZIPF, WITHIN, NOISE = 1.1, 0.75, 0.25
VALUES = {"category": 30, "sub": 150, "brand": 900, "tier": 40, "tags": 1800}
TAGS = 4
EPOCHS, BATCH, LEARNING_RATE = 10, 512, 0.05
DIM, HIDDEN, OUTPUT = 16, 128, 64
ADAGRAD_START = 0.0
"""Where Adagrad's sums of squares start: at 0.1, as is usual in this library, 230 steps move little."""
HEAD_SHARE = 0.1
CUT_OFFS = (10, 50)
SLICES = ("all", "head", "tail", "unseen")


@dataclass(frozen=True, eq=False)
class Data:
    """Static features by item id `[ids, …] int32`, and pairs (asking item, target) of ids `[pairs, 2] int32`."""

    features: dict[str, np.ndarray]
    train: np.ndarray
    test: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Training pairs that each item id is the target of, `[ids]`."""
        return np.bincount(self.train[:, 1], minlength=ITEMS + FIRST_VALUE_ID)


def every_item() -> np.ndarray:
    """The items' ids, `[ITEMS] int32`."""
    return np.arange(FIRST_VALUE_ID, ITEMS + FIRST_VALUE_ID, dtype=np.int32)


def make_data(seed: int, share: float = 1.0, pairs: int = 12_000) -> Data:
    """The catalogue of a seed, `share` of its `pairs` training pairs, and 12,000 test pairs."""
    rng = np.random.default_rng([seed, 0x5511])
    cluster = np.repeat(np.arange(CLUSTERS), CLUSTER_SIZE)
    brand = cluster * 3 + rng.integers(0, 3, ITEMS)
    tier_of_brand = rng.integers(0, VALUES["tier"], VALUES["brand"])
    ordered = np.argsort(rng.random((ITEMS, 6)), axis=1)[:, :TAGS]
    columns = {
        "category": cluster % VALUES["category"],
        "sub": cluster % VALUES["sub"],
        "brand": brand,
        "tier": tier_of_brand[brand],
        "tags": cluster[:, None] * 6 + ordered,
    }
    features = {}
    for name, values in columns.items():
        replaced = rng.random(values.shape) < NOISE
        values = np.where(replaced, rng.integers(0, VALUES[name], values.shape), values)
        special = np.zeros((FIRST_VALUE_ID, *values.shape[1:]), np.int32)
        special.reshape(FIRST_VALUE_ID, -1)[:, 0] = 1
        features[name] = np.concatenate([special, values.astype(np.int32) + FIRST_VALUE_ID])

    clusters = np.arange(1, CLUSTERS + 1) ** -ZIPF
    within = np.arange(1, CLUSTER_SIZE + 1) ** -WITHIN

    def draw(count: int) -> np.ndarray:
        drawn = rng.choice(CLUSTERS, count, p=clusters / clusters.sum())
        places = rng.choice(CLUSTER_SIZE, (count, 2), p=within / within.sum())
        return (drawn[:, None] * CLUSTER_SIZE + places + FIRST_VALUE_ID).astype(np.int32)

    train, test = draw(pairs), draw(12_000)
    return Data(features, train[: round(share * len(train))], test)


@dataclass(frozen=True)
class Arm:
    """One way of training. `ssl` None: no second loss. Two variants that are known to be wrong are for comparison."""

    log_q: bool = False
    ssl: SslConfig | None = None
    temperature: float = 0.07
    feature_dropout: float = 0.0
    share: float = 1.0
    without_seed: bool = False
    """Correlated masking of the neighbours alone: the seed field is in the other view, as LibRecommender has it."""
    in_batch: bool = False
    """Self-supervision on the items of the main batch instead of uniform draws."""
    longer: int = 1
    """Times the epochs: so that a share of the pairs is trained on for as many steps as all of them."""


def make_model(arm: Arm, seed: int) -> TwoTower:
    """Both towers read the same fields of an item from the same tables; layers [128, 64] each."""
    forms = {name: Form.IDS if name == "tags" else Form.ID for name in VALUES}
    inputs = tuple(InputSpec(name, form, name) for name, form in forms.items())
    plain = TowerConfig(hidden=(HIDDEN,))
    config = ModelConfig(
        embedding_dim=DIM, output_dim=OUTPUT, temperature=TemperatureConfig(value=arm.temperature), item=plain
    )
    query = TowerSpec("query", ITEM, IdentityConfig(), inputs, plain)
    item = replace(query, name="item", config=plain.model_copy(update={"feature_dropout": arm.feature_dropout}))
    sizes = {ITEM: ITEMS, **VALUES}
    tables = tuple(full_table(name, size + FIRST_VALUE_ID) for name, size in sizes.items())
    model = TwoTower(TwoTowerSpec(config, query, item, tables), seed)
    build(model)
    return model


def information(data: Data) -> np.ndarray:
    """Mutual information of the id and the fields, `[1 + fields, 1 + fields]`, by the ingestion's code."""
    kinds = {1: Kind.CATEGORICAL, 2: Kind.MULTI_VALUED}
    schema = Schema(
        fields=tuple(Field(name=name, side=Side.ITEM, kind=kinds[x.ndim]) for name, x in data.features.items())
    )
    columns = {
        name: pa.array(list(values[FIRST_VALUE_ID:])) if values.ndim > 1 else pa.array(values[FIRST_VALUE_ID:])
        for name, values in data.features.items()
    }
    found = mutual_information(pa.table(columns), schema, Side.ITEM, 1)
    matrix = np.zeros((len(schema.fields) + 1,) * 2)
    matrix[1:, 1:] = found["matrix"]
    matrix[0, 1:] = matrix[1:, 0] = found["id"]
    return matrix


def self_supervised(arm: Arm, config: SslConfig, model: TwoTower, data: Data, seed: int) -> SelfSupervision:
    """The second loss of an arm, over the job's own class."""
    matrix = information(data)
    masks = make_masks(config, matrix, 0)
    if arm.without_seed:
        masks = _masks_without_seed(matrix, last_of(config, 0))
    features = {name: tf.constant(values) for name, values in data.features.items()}
    sampler = UniformSampler(every_item(), config.batch_size or BATCH, seed)

    def draw(step: tf.Tensor, batch: Batch) -> tf.Tensor:
        return tf.unique(batch["item"][ITEM]).y if arm.in_batch else sampler(step)

    return SelfSupervision(model.item_tower, config, masks, features, draw, seed)


def _masks_without_seed(matrix: np.ndarray, last: int | None) -> Callable[[tf.Tensor], tf.Tensor]:
    sets = correlated_sets(matrix, last)
    np.fill_diagonal(sets, False)
    return lambda seed: correlated_masks(sets, seed)


def train_arm(data: Data, arm: Arm, seed: int, epochs: int = EPOCHS) -> TwoTower:
    """Train an arm for `epochs` times `arm.longer`, batches of 512 pairs in a random order that a seed's arms share."""
    model = make_model(arm, seed)
    ones = () if arm.ssl is None else (self_supervised(arm, arm.ssl, model, data, seed),)
    loss = LossConfig(frequencies="exact" if arm.log_q else "none")
    optimiser = RowAdagrad(LEARNING_RATE, initial=ADAGRAD_START)
    log_q = LogQ(loss, data.counts, ITEMS, BATCH, 1)
    trainer = Trainer(model, optimiser, loss, log_q, Catalogue(every_item(), {}), seed, ones)
    optimiser.build(model.trainable_variables)
    features = {name: tf.constant(values) for name, values in data.features.items()}
    rng = np.random.default_rng([seed, 0xE90C])
    for _ in range(epochs * arm.longer):
        order = rng.permutation(len(data.train))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            pairs = data.train[order[start : start + BATCH]]
            sides = {"query": pairs[:, 0], "item": pairs[:, 1]}
            batch = {side: join({ITEM: tf.constant(ids)}, ITEM, features) for side, ids in sides.items()}
            trainer.train_step(batch, tf.constant(LEARNING_RATE))
    return model


def recalls(model: TwoTower, data: Data) -> dict[str, float]:
    """Recall at 10 and 50 over all items but the asking one, `{"all@50": …, "tail@10": …}`.

    Head: targets among the tenth of the items with the most training pairs; tail: the others; unseen: targets that are
    in no training pair on either side.
    """
    ids = every_item()
    arrays = {ITEM: ids, **{name: values[ids] for name, values in data.features.items()}}
    queries, items = LiveTower(model.query_tower)(arrays), LiveTower(model.item_tower)(arrays)
    asking, target = (data.test - FIRST_VALUE_ID).T
    who, place = np.unique(asking, return_inverse=True)
    scores = queries[who] @ items.T
    scores[np.arange(len(who)), who] = -np.inf
    found = np.sort(np.partition(-scores, max(CUT_OFFS), axis=1)[:, : max(CUT_OFFS)], axis=1)
    own = -scores[place, target]
    counts = data.counts[FIRST_VALUE_ID:]
    head = np.zeros(ITEMS, bool)
    head[np.argsort(-counts, kind="stable")[: round(HEAD_SHARE * ITEMS)]] = True
    seen = np.bincount(data.train.ravel(), minlength=ITEMS + FIRST_VALUE_ID)[FIRST_VALUE_ID:] > 0
    slices = {
        "all": np.ones(len(target), bool),
        "head": head[target],
        "tail": ~head[target],
        "unseen": ~seen[target],
    }
    return {
        f"{name}@{k}": float(np.mean(own[chosen] <= found[place[chosen], k - 1])) if chosen.any() else float("nan")
        for name, chosen in slices.items()
        for k in CUT_OFFS
    }
