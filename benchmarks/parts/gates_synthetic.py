"""Gates in the towers on a synthetic catalogue: the measurement of the OptFS specification, section 11, arm by arm.

6,000 items and 40,000 pairs of items; fields category, sub-category, brand and tags that tell the cluster; noise with
600 values, noise with 15, and 4 of 1,500 noise tags an item. Catalogue, popularity and towers are those of
ssl_synthetic.py, without the tier and without ids. Model, gates, losses and step are the training job's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.parts.ssl_synthetic import (
    ADAGRAD_START,
    BATCH,
    DIM,
    HIDDEN,
    ITEMS,
    LEARNING_RATE,
    OUTPUT,
    TAGS,
    VALUES,
    Data,
    every_item,
    information,
    make_data,
)
from recsys._tensorflow import tf
from recsys.config.gates import GatesConfig
from recsys.config.model import IdentityConfig, ModelConfig, TemperatureConfig, TowerConfig
from recsys.config.ssl import SslConfig
from recsys.config.train import LossConfig
from recsys.features.gate_optimiser import GateOptimiser
from recsys.features.gates import Gates, kept
from recsys.features.spec import Form, InputSpec, full_table
from recsys.retrieval.gate_search import gate_stage, rewind, rewind_arrays, set_gates
from recsys.retrieval.gates import gate_spec, make_gates
from recsys.retrieval.input import Batch, join
from recsys.retrieval.live import build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import RowAdagrad
from recsys.retrieval.sampler import UniformSampler
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.retrieval.ssl import SelfSupervision, make_masks
from recsys.retrieval.step import Catalogue, Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import FIRST_VALUE_ID, ITEM

PAIRS = 40_000
USEFUL = ("category", "sub", "brand", "tags")
NOISE = {"noise_600": 600, "noise_15": 15, "noise_tags": 1500}
LISTS = ("tags", "noise_tags")
SEARCH = {"final_temperature": 200.0, "search_epochs": 6, "rewind_epoch": 1, "learning_rate": 0.01, "start": 0.5}
TEMPERATURE = 0.07


@dataclass(frozen=True)
class GateArm:
    """One way of choosing features. `mode` None: no gates, over all fields or the `useful` ones alone.

    `ssl`: masked self-supervision in the search, `reaches` says whether its gradient gets to the gates.
    """

    mode: Literal["field", "value-lazy", "value-dense"] | None = None
    penalty: float = 0.0
    useful: bool = False
    ssl: bool = False
    reaches: bool = True
    frequent: bool = False
    """The control: as many of the most frequent values as the search kept, over all fields."""


def noisy_data(seed: int) -> Data:
    """The catalogue without its tier, with noise fields that no cluster knows of."""
    data = make_data(seed, pairs=PAIRS)
    rng = np.random.default_rng([seed, 0x6A7E])
    features = {name: data.features[name] for name in USEFUL}
    for name, size in NOISE.items():
        shape = (ITEMS, TAGS) if name in LISTS else (ITEMS,)
        values = np.zeros((ITEMS + FIRST_VALUE_ID, *shape[1:]), np.int32)
        values.reshape(len(values), -1)[:FIRST_VALUE_ID, 0] = 1
        values[FIRST_VALUE_ID:] = rng.integers(0, size, shape) + FIRST_VALUE_ID
        features[name] = values
    return replace(data, features=features)


def sizes() -> dict[str, int]:
    """Values by field."""
    return {**{name: VALUES[name] for name in USEFUL}, **NOISE}


def model_spec(arm: GateArm) -> TwoTowerSpec:
    """Both towers read the same fields of an item from the same tables, hence through the same gates."""
    fields = USEFUL if arm.useful else tuple(sizes())
    inputs = tuple(InputSpec(name, Form.IDS if name in LISTS else Form.ID, name) for name in fields)
    plain = TowerConfig(hidden=(HIDDEN,))
    config = ModelConfig(embedding_dim=DIM, output_dim=OUTPUT, temperature=TemperatureConfig(value=TEMPERATURE))
    query = TowerSpec("query", ITEM, IdentityConfig(use=False), inputs, plain)
    tables = tuple(full_table(name, sizes()[name] + FIRST_VALUE_ID) for name in fields)
    return TwoTowerSpec(config, query, replace(query, name="item"), tables)


class BlockedSelfSupervision(SelfSupervision):
    """For comparison: the same loss, but the gates take no gradient from it."""

    def loss(self, step: tf.Tensor, batch: Batch, inverse_temperature: tf.Tensor) -> tf.Tensor:
        """As without, over gates that are constants while it is computed."""
        gates = [table.gates for table in self.tower.tables.values() if table.gates is not None]
        for one in gates:
            one.at = lambda places, one=one: tf.stop_gradient(Gates.at(one, places))
        try:
            return super().loss(step, batch, inverse_temperature)
        finally:
            for one in gates:
                del one.at


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ends with: the gates' logits by name, and the state to go back to."""

    logits: dict[str, np.ndarray]
    back: dict[str, np.ndarray]


def search(data: Data, arm: GateArm, seed: int) -> Found:
    """The search of an arm with gates; `frequent` changes nothing in it."""
    spec, config = model_spec(arm), search_config(arm)
    model = TwoTower(spec, seed, make_gates(gate_spec(spec, config), spec.tables, hard=False))
    build(model)
    stage = gate_stage(model, config, PAIRS, PAIRS // BATCH)
    back: dict[str, np.ndarray] = {}

    def begin(epoch: int) -> None:
        if stage.gates.temperature is not None:
            stage.gates.temperature.assign(stage.search.temperature(epoch))
        if epoch == config.rewind_epoch:
            back.update(rewind_arrays(model, []))

    views = _self_supervised(arm, model, data, seed) if arm.ssl else ()
    _run(model, data, seed, config.search_epochs, views, stage.optimiser, begin)
    return Found(stage.found(), back)


def train_arm(
    data: Data, arm: GateArm, seed: int, found: Found | None, epochs: int
) -> tuple[TwoTower, dict[str, float]]:
    """Train for `epochs` with what the search found, if the arm has one: the model, and each field's share kept."""
    spec = model_spec(arm)
    if found is None:
        model = TwoTower(spec, seed)
        build(model)
        _run(model, data, seed, epochs)
        return model, {}
    logits = most_frequent(data, found.logits) if arm.frequent else found.logits
    gates = make_gates(gate_spec(spec, search_config(arm)), spec.tables, hard=True)
    model = TwoTower(spec, seed, gates)
    build(model)
    if arm.ssl:
        model.item_tower.allow_hiding()  # the rewound state has the default embeddings
    set_gates(gates, logits)
    rewind(model, [], found.back)
    _run(model, data, seed, epochs)
    return model, shares(logits, spec)


def search_config(arm: GateArm) -> GatesConfig:
    """The settings of an arm's search."""
    return GatesConfig.model_validate({"mode": arm.mode, "penalty": arm.penalty, **SEARCH})


def shares(logits: dict[str, np.ndarray], spec: TwoTowerSpec) -> dict[str, float]:
    """By field the share of values kept; where fields are gated, that of the two towers, whose gates are their own."""
    if "gates_item_fields" in logits:
        names = [inputs.name for inputs in spec.item.inputs]
        stays = (kept(logits["gates_item_fields"]) + kept(logits["gates_query_fields"]).astype(float)) / 2
        return dict(zip(names, stays.tolist(), strict=True))
    return {name: float(kept(logits[f"gates_{name}"])[FIRST_VALUE_ID:].mean()) for name in sizes()}


def most_frequent(data: Data, logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gates that keep as many values as `logits` do, those that the most training pairs have on either side."""
    items = data.train.ravel()
    counts = {
        name: np.bincount(data.features[name][items].ravel(), minlength=size + FIRST_VALUE_ID)
        for name, size in sizes().items()
    }
    number = sum(int(kept(logits[f"gates_{name}"])[FIRST_VALUE_ID:].sum()) for name in sizes())
    least = np.sort(np.concatenate([count[FIRST_VALUE_ID:] for count in counts.values()]))[::-1][number - 1]
    return {f"gates_{name}": np.where(count >= least, 1.0, -1.0).astype(np.float32) for name, count in counts.items()}


def _self_supervised(arm: GateArm, model: TwoTower, data: Data, seed: int) -> tuple[SelfSupervision, ...]:
    config = SslConfig()
    features = {name: values for name, values in data.features.items() if name in sizes()}
    matrix = information(replace(data, features=features))[1:, 1:]
    sampler = UniformSampler(every_item(), BATCH, seed)
    kind = SelfSupervision if arm.reaches else BlockedSelfSupervision
    tensors = {name: tf.constant(values) for name, values in features.items()}
    masks = make_masks(config, matrix, None)
    return (kind(model.item_tower, config, masks, tensors, lambda step, batch: sampler(step), seed),)


def _run(
    model: TwoTower,
    data: Data,
    seed: int,
    epochs: int,
    views: tuple[SelfSupervision, ...] = (),
    gates: GateOptimiser | None = None,
    begin: Callable[[int], None] = lambda epoch: None,
) -> None:
    loss = LossConfig(frequencies="none")
    optimiser = RowAdagrad(LEARNING_RATE, initial=ADAGRAD_START)
    log_q = LogQ(loss, data.counts, ITEMS, BATCH, 1)
    trainer = Trainer(model, optimiser, loss, log_q, Catalogue(every_item(), {}), seed, views, gates=gates)
    optimiser.build(model.trainable_variables)
    features = {name: tf.constant(values) for name, values in data.features.items()}
    for epoch in range(epochs):
        begin(epoch)
        for pairs in _batches(data, seed, epoch):
            sides = {"query": pairs[:, 0], "item": pairs[:, 1]}
            batch = {side: join({ITEM: tf.constant(ids)}, ITEM, features) for side, ids in sides.items()}
            trainer.train_step(batch, tf.constant(LEARNING_RATE))


def _batches(data: Data, seed: int, epoch: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng([seed, 0xE90C, epoch]).permutation(len(data.train))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        yield data.train[order[start : start + BATCH]]
