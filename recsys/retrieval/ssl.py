"""Self-supervision of a tower: two views of the same item's fields find each other among the views of other items.

    L_self = -(1/N) sum_i log( exp(s(z_i, z'_i) / tau) / sum_j exp(s(z_i, z'_j) / tau) ),    L = L_main + alpha L_self

(T. Yao et al., CIKM 2021, section 3; s is the cosine, z and z' the tower's outputs for the two views.) Both views go
through the whole tower that is served, tables and output layer included. Items are drawn uniformly from the catalogue,
apart from the main batch, so what has no clicks is learned from as much as what has many. There is no logQ, as the draw
is uniform.
"""

from collections.abc import Callable, Mapping

import numpy as np

from recsys._tensorflow import tf
from recsys.config.ssl import SslConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.features.spec import Form
from recsys.retrieval.field_information import FieldInformation, field_information
from recsys.retrieval.gates import closed_fields, kept_ids
from recsys.retrieval.input import Batch, drawable_ids, join, tower_columns
from recsys.retrieval.sampler import UniformSampler
from recsys.retrieval.softmax import sampled_softmax_loss
from recsys.retrieval.towers import Tower, TwoTower, named_seed
from recsys.retrieval.views import correlated_masks, correlated_sets, drop_values, random_masks
from recsys.schema import MISSING_ID, Side

LEAST_FIELDS = 3
"""Fewer fields leave nothing to tell apart: with two, correlated masking would hide everything in one view."""

COMPLEMENTARY = ("cfm", "rfm")


Masks = Callable[[tf.Tensor], tf.Tensor]
"""From a seed `[2] int32` to `[2, fields] bool` over the fields that can be seen."""

Draw = Callable[[tf.Tensor, Batch], tf.Tensor]
"""From the step and the main batch to distinct ids `[n] int32`."""


class SelfSupervision(tf.Module):
    """The loss of one tower, by step. All randomness comes from (seed, step)."""

    def __init__(
        self,
        tower: Tower,
        config: SslConfig,
        masks: Masks | None,
        features: Mapping[str, tf.Tensor],
        draw: Draw,
        seed: int,
        products: tf.DType = tf.float32,
        closed: frozenset[str] = frozenset(),
        information: FieldInformation | None = None,
    ) -> None:
        """`features` are the tower's static inputs `[ids, …]`; what else it reads is hidden in both views.

        `masks` gives each step's pair of masks; None hides nothing. `products` is as for `sampled_softmax_loss`.
        `closed` are fields of which gates left nothing: zeros in both views, neither hidden nor among the fields that
        masks are drawn over. `information` is what the masks were made from, to be reported.
        """
        super().__init__(name=f"{tower.spec.name}_self_supervision")
        self.tower, self.config, self.masks, self.features, self.draw = tower, config, masks, features, draw
        self.products, self.information = products, information
        self.seed = tf.constant([seed % (1 << 31), 0x55E1], tf.int32)
        self.lists = [
            inputs.name for inputs in tower.spec.inputs if inputs.form is Form.IDS and inputs.name in features
        ]
        self.visible = visible_fields(tower, features, closed)
        # Of each of the tower's fields the column in a step's masks, to which always and never are added.
        others = {field: len(self.visible) + (field in closed) for field in tower.fields}
        self.columns = [*(others | {field: place for place, field in enumerate(self.visible)}).values()]
        if masks is not None or len(visible_fields(tower, features)) < len(tower.fields):
            tower.allow_hiding()

    def due(self, step: int) -> bool:
        """Whether step `step` (from 0) has this loss; one that has bears `every` times the weight."""
        return step % self.config.every == 0

    def weight(self, step: tf.Tensor) -> tf.Tensor:
        """The factor on the loss about step `step` (from 0), float32, on the mean of steps: alpha, after its ramp."""
        done = tf.cast(step + 1, tf.float32)
        return self.config.weight * tf.minimum(1.0, done / max(1, self.config.warmup_steps))

    def loss(self, step: tf.Tensor, batch: Batch, inverse_temperature: tf.Tensor) -> tf.Tensor:
        """L_self of the step's draw, a float32 scalar; `inverse_temperature` is the main loss's."""
        first, second = self.views(self.drawn(step, batch), step)
        own = self.config.temperature
        scale = tf.stop_gradient(inverse_temperature) if own is None else tf.constant(1.0 / own)
        return sampled_softmax_loss(first, second, tf.zeros([tf.shape(second)[0]]), scale, products=self.products)

    def drawn(self, step: tf.Tensor, batch: Batch) -> tf.Tensor:
        """The ids `[n] int32` of step `step`, the same ones until the next that has this loss."""
        return self.draw(step // self.config.every, batch)

    def views(self, ids: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The vectors of both views of `ids` `[n]` in step `step`: z and z', `[n, dim] float32` each."""
        seed = tf.random.fold_in(self.seed, step)
        features = self._features(ids)
        masks = tf.zeros([2, len(self.visible)], tf.bool)
        if self.masks is not None:
            masks = self.masks(tf.random.fold_in(seed, 0))
        if self.config.method == "spread_out":
            vectors = self._encode([self._fields(features, None)], masks[:1])
            return vectors, vectors
        fields = [self._fields(features, tf.random.fold_in(seed, 1))]
        # Where no field is seen in both views, one look-up and one draw of values serve both.
        if self.config.method not in COMPLEMENTARY:
            fields.append(self._fields(features, tf.random.fold_in(seed, 2)))
        first, second = tf.split(self._encode(fields, masks), 2)
        return first, second

    def _features(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of the tower for drawn ids; those that only an event has are missing (and hidden)."""
        inputs = join({self.tower.spec.id_column: ids}, self.tower.spec.id_column, self.features)
        count = tf.shape(ids)[0]
        for spec in self.tower.spec.inputs:
            if spec.name not in inputs:
                shape = [count, 1] if spec.is_list else [count]
                inputs[spec.name] = tf.fill(shape, MISSING_ID) if spec.is_integer else tf.zeros(shape)
        return inputs

    def _fields(self, features: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The fields' vectors, some values of multi-valued ones left out where there is a seed."""
        thinned = dict(features)
        if seed is not None and self.config.value_dropout:
            for place, name in enumerate(self.lists):
                thinned[name] = drop_values(features[name], self.config.value_dropout, tf.random.fold_in(seed, place))
        return self.tower.field_vectors(thinned, None)

    def _encode(self, fields: list[dict[str, tf.Tensor]], masks: tf.Tensor) -> tf.Tensor:
        """The views of `masks` `[views, visible fields]`, one after the other: `[views x n, dim]`.

        `fields` are each view's vectors, or one that serves all. What is not visible is hidden in any case, but closed
        fields never are.
        """
        vectors = {name: tf.stack([one[name] for one in fields]) for name in fields[0]}
        if self.tower.defaults:
            always_never = tf.tile(tf.constant([[True, False]]), [tf.shape(masks)[0], 1])
            hidden = tf.gather(tf.concat([masks, always_never], axis=1), self.columns, axis=1)
            vectors = self.tower.hide(vectors, hidden[:, None])
        return self.tower.encode({name: tf.reshape(parts, [-1, parts.shape[-1]]) for name, parts in vectors.items()})


def visible_fields(
    tower: Tower, features: Mapping[str, object], closed: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """The fields of a tower that a drawn id has by itself, in the tower's order: the id and open static features."""
    own = {tower.spec.id_column, *features} - closed
    return tuple(field for field in tower.fields if field in own)


def make_masks(config: SslConfig, information: np.ndarray, identity: int | None) -> Masks | None:
    """The pairs of masks of a method, over the fields of `information` `[fields, fields]`; `identity` is the id's."""
    if config.method == "cfm":
        sets = correlated_sets(information, last_of(config, identity))
        return lambda seed: correlated_masks(sets, seed)
    if config.method in ("rfm", "rfm_independent"):
        return lambda seed: random_masks(len(information), seed, complementary=config.method == "rfm")
    return None


def last_of(config: SslConfig, identity: int | None) -> int | None:
    """The field that comes last among the others' neighbours: the id, where the configuration wants it so."""
    return identity if config.id_rank == "last" else None


def self_supervisions(
    dataset: DatasetFolder, model: TwoTower, config: TrainConfig, seed: int, splits: tuple[str, ...]
) -> tuple[SelfSupervision, ...]:
    """The self-supervisions that the configuration asks for and that weigh anything.

    They draw what there was by the end of `splits`, the parts that are trained on. Where the model has hard gates, they
    are those of what its gates left open as they are now. Raises UserError where a tower has too few fields to hide.
    """
    towers = {"ssl": (model.item_tower, config.ssl), "query_ssl": (model.query_tower, config.query_ssl)}
    return tuple(
        _self_supervision(dataset, model, tower, one, config, f"train.{section}", seed, splits)
        for section, (tower, one) in towers.items()
        if one is not None and one.weight
    )


def _self_supervision(
    dataset: DatasetFolder,
    model: TwoTower,
    tower: Tower,
    config: SslConfig,
    train: TrainConfig,
    section: str,
    seed: int,
    splits: tuple[str, ...],
) -> SelfSupervision:
    side = Side(tower.spec.id_column)
    features = tower_columns(dataset, tower.spec, side).joined
    closed = closed_fields(model.gates, model.spec) if model.gates is not None else frozenset()
    visible = visible_fields(tower, features, closed)
    if len(visible) < LEAST_FIELDS and len(visible_fields(tower, features)) >= LEAST_FIELDS:
        raise UserError(
            f"{section}: views of {side.value}s need at least {LEAST_FIELDS} fields (the id counts), but the search "
            f"for gates left only {list(visible)} of the {tower.spec.name} tower's; lower train.gates.kappa (or "
            f"penalty), name other fields in train.gates.fields, or leave {section} out."
        )
    if len(visible) < LEAST_FIELDS:
        raise UserError(
            f"{section}: views of {side.value}s need at least {LEAST_FIELDS} fields that they have by themselves (the "
            f"id counts), but the {tower.spec.name} tower reads {list(visible)}; add fields to "
            f"model.{tower.spec.name}.features or leave {section} out."
        )
    kept = kept_ids(model.gates, model.spec) if model.gates is not None else {}
    information = field_information(dataset, visible, side, kept, named_seed(seed, "information"))
    ids = drawable_ids(dataset, side, splits)
    sampler = UniformSampler(ids, config.batch_size or train.batch_size, named_seed(seed, f"{section}/draw"))
    return SelfSupervision(
        tower,
        config,
        make_masks(config, information.matrix, information.identity),
        {name: tf.constant(values) for name, values in features.items()},
        lambda step, batch: sampler(step),
        named_seed(seed, f"{section}/views"),
        tf.as_dtype(train.loss.precision),
        closed,
        information,
    )


def report(one: SelfSupervision) -> dict[str, object]:
    """What training.json says of a self-supervision: its fields, their mutual information, what is hidden together."""
    found = one.information
    if found is None:
        raise ValueError("this self-supervision was made without a measurement of its fields")
    if one.config.method != "cfm":
        return found.to_json()
    return found.to_json(correlated_sets(found.matrix, last_of(one.config, found.identity)))
