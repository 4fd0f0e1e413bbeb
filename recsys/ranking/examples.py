"""Rows to learn from or to measure on: labelled events as arrays, joined with what is known of their user and item."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.config.ranking import NegativesConfig, RankingConfig, RankingTrainConfig
from recsys.dataset_folder import DatasetFolder, pad_lists
from recsys.encoding.arrays import run_starts
from recsys.errors import UserError
from recsys.ranking.retrieval_score import RowScores
from recsys.ranking.seeds import named_seed
from recsys.ranking.spec import FieldSpec, RankerSpec
from recsys.ranking.tasks import outcome
from recsys.schema import FIRST_VALUE_ID, ITEM, LABEL, RETRIEVAL_SCORE, USER, Side

BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows as arrays, all `[n]` or (lists, padded at the end with 0) `[n, width]`.

    `features` by the ranker's column name; `labels` 0 or 1, `weights` and `offsets` float32: in training the loss is of
    logits less `offsets`; `users` and `items` int32 ids. `outcomes` by task: float32 0 or 1, NaN in rows that do not
    count for it: where it is not known, and for a task of clicks where there was no click.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    users: np.ndarray
    items: np.ndarray
    outcomes: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ExampleMaker:
    """Makes examples of tables of events. `scores` gives each row's retrieval score, to a ranker that reads it."""

    dataset: DatasetFolder
    spec: RankerSpec
    config: RankingConfig
    scores: RowScores | None = None
    static: Mapping[str, tuple[str, np.ndarray]] = field(init=False)
    """By column: whose id (user or item) it is looked up by, and the values by id."""

    def __post_init__(self) -> None:
        names = {one.name for one in self.spec.fields}
        static = {
            name: (str(side), values)
            for side in (Side.USER, Side.ITEM)
            for name, values in self.dataset.features(side).items()
            if name in names
        }
        object.__setattr__(self, "static", static)
        negatives, moving = self.config.train.negatives, self._moving()
        if negatives is not None and negatives.source == "catalogue" and moving:
            raise UserError(
                f"ranking.train.negatives.source: '{moving[0]}' is read (by the ranker, or by the towers for the "
                "retrieval score), a value as of an event's time, which items drawn from the catalogue do not have; "
                "use 'batch', or leave the field out of ranking.model.features (model.item.features)."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The event columns that are needed."""
        read = [one.name for one in self._of_event()]
        weight = self.config.train.weight_field
        outcomes = [task.label_field for task in self.config.tasks.values()]
        scored = self.scores.columns if self.scores is not None else ()
        return tuple(dict.fromkeys([USER, ITEM, LABEL, *read, *([weight] if weight else []), *outcomes, *scored]))

    def make(self, table: pa.Table, rng: np.random.Generator) -> Examples:
        """Examples of a table of `columns`; with configured negatives these are drawn by `rng` and follow behind."""
        arrays = {one.name: _decode(table, one) for one in self._of_event()}
        arrays |= {name: table[name].to_numpy() for name in (USER, ITEM, *self._moving()) if name not in arrays}
        labels = table[LABEL].to_numpy().astype(np.float32)
        outcomes = {name: outcome(task, table, labels) for name, task in self.config.tasks.items()}
        weight = self.config.train.weight_field
        weights = table[weight].to_numpy().astype(np.float32) if weight else np.ones(len(labels), np.float32)
        offsets = np.zeros(len(labels), np.float32)
        if self.config.train.negatives is not None:
            arrays, chance = self._with_negatives(arrays, self.config.train.negatives, rng)
            copies = 1 + self.config.train.negatives.per_positive
            labels = np.concatenate([labels, np.zeros(len(labels) * (copies - 1), np.float32)])
            weights = np.tile(weights, copies)
            unknown = np.full(len(labels) - len(table), np.nan, np.float32)
            outcomes = {name: np.concatenate([values, unknown]) for name, values in outcomes.items()}
            drawn = self.config.train.negatives.per_positive * chance
            offsets = np.full(len(labels), np.log(drawn / self.config.train.positive_weight), np.float32)
        weights = np.where(labels > 0, weights * np.float32(self.config.train.positive_weight), weights)
        users, items = arrays[USER], arrays[ITEM]
        features = {one.name: arrays[one.name] for one in self.spec.fields if one.name in arrays}
        for name, (whose, values) in self.static.items():
            features[name] = values[arrays[whose]]
        if self.scores is not None:
            features[RETRIEVAL_SCORE] = self.scores.of_items(table, arrays)
        return Examples(features, labels, weights, offsets, users, items, outcomes)

    def _with_negatives(
        self, arrays: dict[str, np.ndarray], config: NegativesConfig, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], float]:
        """The rows and, behind them, copies with other items; and the chance of each item to be drawn, all alike."""
        rows, copies = len(arrays[USER]), config.per_positive
        of_item = {ITEM, *self._moving()}
        repeated = {
            name: np.concatenate([values] * (1 + copies)) for name, values in arrays.items() if name not in of_item
        }
        if config.source == "catalogue":
            drawn = rng.integers(FIRST_VALUE_ID, FIRST_VALUE_ID + len(self.dataset.items), rows * copies)
            items = np.concatenate([arrays[ITEM], drawn.astype(np.int32)])
            return {**repeated, ITEM: items}, 1.0 / len(self.dataset.items)
        others, distinct = _rows_of_items(arrays[ITEM], rows * copies, rng)
        places = np.concatenate([np.arange(rows), others])
        return {**repeated, **{name: arrays[name][places] for name in of_item}}, 1.0 / distinct

    def _of_event(self) -> list[FieldSpec]:
        others = (USER, ITEM, RETRIEVAL_SCORE)
        return [one for one in self.spec.fields if one.name not in self.static and one.name not in others]

    def _moving(self) -> list[str]:
        """What an event's row says of its item, for the ranker or for the towers that score."""
        own = [one.name for one in self._of_event() if one.side is Side.ITEM]
        return list(dict.fromkeys([*own, *(self.scores.moving if self.scores is not None else ())]))


def _decode(table: pa.Table, spec: FieldSpec) -> np.ndarray:
    if spec.is_list:
        return pad_lists(table[spec.name], None)
    return table[spec.name].to_numpy().astype(np.float32 if spec.is_number else np.int32)


def _rows_of_items(items: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """`count` rows: of each an item drawn uniformly from the distinct `items` `[n]`, then one of its rows. And how many
    distinct items there are."""
    order = np.argsort(items, kind="stable")
    starts = np.flatnonzero(run_starts(items[order]))
    sizes = np.diff(np.append(starts, len(items)))
    drawn = rng.integers(0, len(starts), count)
    return order[starts[drawn] + rng.integers(0, sizes[drawn])], len(starts)


def positives_per_batch(config: RankingTrainConfig) -> int:
    """Rows of the data in a batch of `batch_size` examples, its drawn negatives among them."""
    return (
        config.batch_size
        if config.negatives is None
        else max(1, config.batch_size // (1 + config.negatives.per_positive))
    )


def split_examples(maker: ExampleMaker, split: str, seed: int) -> Examples:
    """A whole split in memory, in order; positives with drawn negatives where these are configured.

    Negatives of the source `batch` are drawn as in training: from as many consecutive rows as a batch has. Part by
    part these stand behind their positives.
    """
    table = maker.dataset.events(split, maker.columns)
    rng = np.random.default_rng(named_seed(seed, f"negatives/{split}"))
    negatives = maker.config.train.negatives
    if negatives is None:
        return maker.make(table, rng)
    table = table.filter(pc.equal(table[LABEL], 1))
    size = positives_per_batch(maker.config.train) if negatives.source == "batch" else max(len(table), 1)
    parts = [maker.make(table.slice(start, size), rng) for start in range(0, max(len(table), 1), size)]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[Examples]) -> Examples:
    """The rows of all parts. Lists have one width, that of the longest."""

    def join(columns: Sequence[np.ndarray]) -> np.ndarray:
        if columns[0].ndim == 1:
            return np.concatenate(columns)
        width = max(column.shape[1] for column in columns)
        return np.concatenate([np.pad(column, ((0, 0), (0, width - column.shape[1]))) for column in columns])

    def join_each(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: join([one[name] for one in columns]) for name in columns[0]}

    plain = ("labels", "weights", "offsets", "users", "items")
    joined = join_each([{name: getattr(part, name) for name in plain} for part in parts])
    return Examples(
        features=join_each([part.features for part in parts]),
        outcomes=join_each([part.outcomes for part in parts]),
        **joined,
    )


def example_blocks(maker: ExampleMaker, split: str) -> Iterator[Examples]:
    """The events of a split block by block, without negatives drawn."""
    plain = ExampleMaker(
        maker.dataset,
        maker.spec,
        maker.config.model_copy(update={"train": maker.config.train.model_copy(update={"negatives": None})}),
        maker.scores,
    )
    for file in maker.dataset.event_files(split):
        for batch in pq.ParquetFile(file).iter_batches(BLOCK_ROWS, columns=list(plain.columns)):
            yield plain.make(pa.Table.from_batches([batch]), np.random.default_rng(0))


def training_scores(maker: ExampleMaker, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The retrieval scores of all training examples, drawn negatives among them, and their labels, `[n] float32`."""
    rng = np.random.default_rng(named_seed(seed, "retrieval score"))
    parts = []
    for file in maker.dataset.event_files("train"):
        for batch in pq.ParquetFile(file).iter_batches(BLOCK_ROWS, columns=list(maker.columns)):
            table = pa.Table.from_batches([batch])
            if maker.config.train.negatives is not None:
                table = table.filter(pc.equal(table[LABEL], 1))
            if len(table):
                made = maker.make(table, rng)
                parts.append((made.features[RETRIEVAL_SCORE], made.labels))
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])
