"""Trainers as the training job makes them, over the benchmark's data."""

from collections.abc import Iterator
from typing import Any

from recsys._tensorflow import tf
from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.retrieval.gate_search import gate_stage
from recsys.retrieval.gates import gate_spec, make_gates
from recsys.retrieval.input import drawable_ids, event_reader, tower_columns, training_batches
from recsys.retrieval.live import build
from recsys.retrieval.log_q import LogQ
from recsys.retrieval.optimiser import make_optimiser
from recsys.retrieval.shards import scan_positives
from recsys.retrieval.spec import two_tower_spec
from recsys.retrieval.ssl import self_supervisions
from recsys.retrieval.step import Catalogue, Trainer
from recsys.retrieval.towers import TwoTower
from recsys.schema import ITEM, Side

SEED = 1


def make_trainer(
    dataset: DatasetFolder, model: ModelConfig, config: TrainConfig, *, search: bool = False
) -> tuple[Trainer, Iterator[Any]]:
    """A trainer at its initial weights and its endless batches; `search`: in the phase that searches for gates."""
    events = scan_positives(dataset, ("train",))
    spec = two_tower_spec(dataset, model, events.counts)
    gates = None
    if config.gates is not None:
        gates = make_gates(gate_spec(spec, config.gates), spec.tables, hard=not search)
    towers = TwoTower(spec, SEED, gates)
    build(towers)
    reader = event_reader(dataset, spec, events, config, SEED)
    stage = None
    if config.gates is not None and search:
        stage = gate_stage(towers, config.gates, events.rows, reader.steps)
    columns = tower_columns(dataset, spec.item, Side.ITEM)
    drawn = columns.joined if config.loss.uniform_negatives else {}
    catalogue = Catalogue(
        drawable_ids(dataset, Side.ITEM, ("train",)),
        {name: tf.constant(array) for name, array in drawn.items()},
        fixed=not columns.event,
    )
    trainer = Trainer(
        towers,
        make_optimiser(config.optimiser),
        config.loss,
        LogQ(config.loss, events.counts[ITEM], len(dataset.items), config.batch_size, SEED),
        catalogue,
        SEED,
        self_supervisions(dataset, towers, config, SEED, ("train",)),
        gates=stage.optimiser if stage is not None else None,
    )
    return trainer, training_batches(dataset, spec, reader, config.input.prefetch, epoch=0, step=0)
