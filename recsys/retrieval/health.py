"""How training goes beyond its loss, for TensorBoard: computed on an epoch's last batch, changing nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys._tensorflow import tf
from recsys.retrieval.input import Batch
from recsys.retrieval.ssl import SelfSupervision
from recsys.retrieval.step import Trainer
from recsys.retrieval.towers import Tower
from recsys.schema import ITEM, USER

LOOKED_AT = 1024
"""Rows of which all pairs are compared."""


class Health:
    """Figures by name of a trainer as it is now.

    `alignment`, `uniformity/query`, `uniformity/item` (Wang and Isola, ICML 2020, section 4.1; lower is better),
    `effective_rank/…` of the batch's vectors (Roy and Vetterli, EUSIPCO 2007; near 1 the vectors have collapsed),
    `log_q/min|median|max` and `accidental_hits` (other rows of a row's item, mean over rows). Of each self-supervised
    tower, under `ssl/<tower>/`: `loss`; `weighted_over_main` (alpha L_self / L_main); `gradient_ratio`, the norm of the
    gradient of alpha L_self over that of L_main, on all weights that the tower has, and `gradient_ratio/<table>` on
    each of its tables; `top_1`, how often the other view of the same thing is the nearest (near 1 early there is a
    shortcut, near 1 / n the views have nothing in common);
    `positive_cosine` and `negative_cosine`; `default_norm/<field>`, lengths of the default embeddings.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._losses = tf.function(self._losses_of, reduce_retracing=True)
        self._vectors = tf.function(self._vectors_of, reduce_retracing=True)
        self._views = [tf.function(one.views, reduce_retracing=True) for one in trainer.self_supervisions]

    def measure(self, batch: Batch) -> dict[str, float]:
        """All figures; neither weights nor the randomness of training are touched."""
        queries, items = (vectors.numpy()[:LOOKED_AT] for vectors in self._vectors(batch))
        found = {"alignment": alignment(queries, items)}
        for name, vectors in (("query", queries), ("item", items)):
            found |= {f"uniformity/{name}": uniformity(vectors), f"effective_rank/{name}": effective_rank(vectors)}
        found |= self._sampling(batch)
        if self.trainer.self_supervisions:
            main, *others = ({name: float(value) for name, value in one.items()} for one in self._losses(batch))
            for one, views, figures in zip(self.trainer.self_supervisions, self._views, others, strict=True):
                weight = float(one.weight(self.trainer.step))
                found |= _under(
                    f"ssl/{one.tower.spec.name}",
                    {
                        "loss": figures["loss"],
                        "weighted_over_main": weight * figures["loss"] / max(main["loss"], 1e-12),
                        **_ratios(weight, figures),
                        **view_figures(*self._shown(one, views, batch)),
                        **{f"default_norm/{name}": float(tf.norm(value)) for name, value in one.tower.defaults.items()},
                    },
                )
        return found

    def _sampling(self, batch: Batch) -> dict[str, float]:
        ids = batch["item"][ITEM]
        log_q = self.trainer.log_q(ids, ids, batch["item"]).numpy()
        repeats = np.unique(ids.numpy(), return_counts=True)[1]
        return {
            "log_q/min": float(log_q.min()),
            "log_q/median": float(np.median(log_q)),
            "log_q/max": float(log_q.max()),
            "accidental_hits": float((repeats * (repeats - 1)).sum() / len(log_q)),
        }

    def _vectors_of(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The batch's query and item vectors as the loss sees them, without dropout and prior."""
        sides = batch["query"], {**batch["item"], USER: batch["query"][USER]}
        towers = self.trainer.model.query_tower, self.trainer.model.item_tower
        query, item = (tower.encode(tower.field_vectors(side, None)) for tower, side in zip(towers, sides, strict=True))
        return query, item

    def _losses_of(self, batch: Batch) -> Sequence[Mapping[str, tf.Tensor]]:
        """The main loss, then of each self-supervision its loss and the lengths of both gradients, unweighted."""
        trainer = self.trainer
        seed = tf.random.fold_in(tf.constant([trainer.seed % (1 << 31), 0x4EA1], tf.int32), trainer.step)
        others = trainer.self_supervisions
        with tf.GradientTape() as tape:
            main = trainer.loss(batch, seed)
        # A tape of its own for each loss: one persistent tape for all takes ten times as long to trace.
        pulled = tape.gradient(main, [one.tower.trainable_variables for one in others])
        found = [{"loss": main}]
        for one, of_main in zip(others, pulled, strict=True):
            with tf.GradientTape() as tape:
                loss = one.loss(trainer.step, batch, trainer.model.inverse_temperature)
            own = tape.gradient(loss, one.tower.trainable_variables)
            found.append({"loss": loss, **_lengths(one.tower, own, of_main)})
        return found

    def _shown(self, one: SelfSupervision, views: tf.types.experimental.Callable, batch: Batch) -> tuple:
        drawn = one.drawn(self.trainer.step, batch)[:LOOKED_AT]
        return tuple(vectors.numpy() for vectors in views(drawn, self.trainer.step))


def alignment(queries: np.ndarray, items: np.ndarray) -> float:
    """Mean squared distance of the two vectors of each row, both `[rows, dim]`."""
    return float(np.mean(np.sum((queries.astype(np.float64) - items) ** 2, axis=1)))


def uniformity(vectors: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different rows of `[rows, dim]` unit vectors."""
    rows = len(vectors)
    if rows < 2:
        return float("nan")
    wide = vectors.astype(np.float64)
    kernel = np.exp(-2.0 * np.maximum(2.0 - 2.0 * wide @ wide.T, 0.0))
    return float(np.log((kernel.sum() - np.trace(kernel)) / (rows * (rows - 1))))


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of `[rows, dim]`: from 1 to dim."""
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def view_figures(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Of the unit vectors `[n, dim]` of two views of the same n things: who is nearest to whom."""
    cosines = first.astype(np.float64) @ second.T
    own = np.diagonal(cosines)
    count = len(own)
    others = (cosines.sum() - own.sum()) / max(count * (count - 1), 1)
    return {
        "top_1": float(np.mean(own >= cosines.max(axis=1))),
        "positive_cosine": float(own.mean()),
        "negative_cosine": float(others),
    }


Gradients = Sequence[tf.Tensor | tf.IndexedSlices | None]


def _lengths(tower: Tower, own: Gradients, main: Gradients) -> dict[str, tf.Tensor]:
    """Lengths of two losses' gradients on a tower's weights (`own`, `main`) and its tables (`own/<table>`)."""
    weights = tower.trainable_variables
    parts = {"": list(range(len(weights)))}
    for table in tower.tables.values():
        parts[f"/{table.spec.name}"] = [place for place, one in enumerate(weights) if one is table.table]
    found: dict[str, tf.Tensor] = {}
    for part, places in parts.items():
        both = [[one[place] for place in places if one[place] is not None] for one in (own, main)]
        if all(both):
            found |= {f"{name}{part}": _norm(one) for name, one in zip(("own", "main"), both, strict=True)}
    return found


def _ratios(weight: float, lengths: Mapping[str, float]) -> dict[str, float]:
    """What `_lengths` found as ratios, `gradient_ratio` and `gradient_ratio/<table>`."""
    parts = [name.removeprefix("own") for name in lengths if name.startswith("own")]
    return {
        f"gradient_ratio{part}": weight * lengths[f"own{part}"] / max(lengths[f"main{part}"], 1e-12) for part in parts
    }


def _norm(gradients: Gradients) -> tf.Tensor:
    """The length of all gradients as one vector; rows that a sparse one names twice are added up first."""
    squares = [tf.constant(0.0)]
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            rows, place = tf.unique(gradient.indices)
            gradient = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
        if gradient is not None:
            squares.append(tf.reduce_sum(tf.square(gradient)))
    return tf.sqrt(tf.add_n(squares))


def _under(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in figures.items()}
