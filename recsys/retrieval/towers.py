"""The towers and the two-tower model on TensorFlow Recommenders' Model."""

import zlib
from collections.abc import Mapping

import tensorflow_recommenders as tfrs

from recsys._tensorflow import keras, tf
from recsys.config.model import ModelConfig
from recsys.features.audience import Audience
from recsys.features.embedding import EmbeddingTable, drop_identity
from recsys.features.gates import Gates
from recsys.features.numeric import standardise
from recsys.features.pooling import Pooling, flatten, look_up
from recsys.features.spec import Form, InputSpec
from recsys.retrieval.gates import TowerGates
from recsys.retrieval.prior import COORDINATES, PopularityPrior
from recsys.retrieval.spec import TowerSpec, TwoTowerSpec
from recsys.schema import ITEM, USER

Features = Mapping[str, tf.Tensor]

AUDIENCE = "audience"
"""The part of an item's vector that its users make up."""

NUMBER_WIDTH = 2
"""A number's vector: its standardised value and whether it is missing."""


def named_seed(seed: int, name: str) -> int:
    """A seed of its own for each named part, the same in every process."""
    return (seed * 1_000_003 + zlib.crc32(name.encode())) % (1 << 31)


class Tower(keras.layers.Layer):
    """Fields of one side to an L2-normalised vector `[batch, output_dim] float32`.

    Tables are given, since the towers share them. Randomness (dropout) comes from the `seed` of the call alone; without
    a seed the tower is deterministic, as served. Training can hide fields of a row: a hidden field's vector is the
    field's default embedding, a trained vector that is neither that of a missing nor that of an unseen value.
    `gates` are those of the fields in `gated`, in their order; gates of values belong to their tables. A tower with an
    `audience` reads that of its id too; if `features` have users, each row's is left out of it.
    """

    def __init__(
        self,
        spec: TowerSpec,
        config: ModelConfig,
        tables: Mapping[str, EmbeddingTable],
        seed: int,
        gates: Gates | None = None,
        gated: tuple[str, ...] = (),
        audience: Audience | None = None,
        prior: PopularityPrior | None = None,
    ) -> None:
        super().__init__(name=f"{spec.name}_tower")
        self.audience, self.prior = audience, prior
        self.gates, self.gated = gates, gated
        self.spec = spec
        self.model = config
        self.tables = dict(tables)
        self.pools = {inputs.name: _poolings(inputs, config) for inputs in spec.inputs if inputs.is_list}

        def dense(name: str, units: int, **options) -> keras.layers.Dense:
            start = keras.initializers.GlorotUniform(seed=named_seed(seed, f"{spec.name}/{name}"))
            return keras.layers.Dense(units, kernel_initializer=start, name=name, **options)

        summed = spec.config.combine == "sum"
        numeric = any(inputs.form is Form.NUMBER for inputs in spec.inputs)
        self.numbers = dense("numbers", config.embedding_dim, use_bias=False) if summed and numeric else None
        self.bias = tf.Variable(tf.zeros([config.embedding_dim]), name=f"{spec.name}/bias") if summed else None
        # In a sum, poolings of one history need weights of their own, or they would only be one other pooling.
        several = summed and len(config.history.poolings) > 1
        self.mixers = {
            part: keras.layers.Dense(config.embedding_dim, use_bias=False, kernel_initializer="identity")
            for parts in self.pools.values()
            for part in parts
            if several and len(parts) > 1
        }
        self.hidden = [
            dense(f"hidden_{place}", units, activation="relu") for place, units in enumerate(spec.config.hidden)
        ]
        plain = summed and not self.hidden and config.embedding_dim == config.output_dim
        self.output_layer = None if plain else dense("output", config.output_dim)
        own = (spec.id_column,) if spec.identity.use else ()
        shown_by = (AUDIENCE,) if audience is not None else ()
        self.fields = (*own, *(inputs.name for inputs in spec.inputs), *shown_by)
        self.defaults: dict[str, tf.Variable] = {}
        self.seed = seed
        if spec.config.feature_dropout:
            self.allow_hiding()

    def allow_hiding(self) -> None:
        """Make the default embeddings, one a field of `fields`: `[embedding_dim] float32`, a number's `[2]`."""
        if self.defaults:
            return
        numbers = {inputs.name for inputs in self.spec.inputs if inputs.form is Form.NUMBER}
        for field in self.fields:
            width = NUMBER_WIDTH if field in numbers else self.model.embedding_dim
            name = f"{self.spec.name}/default/{field}"
            first = tf.random.stateless_normal([width], seed=[self.seed, named_seed(0, name)])
            self.defaults[field] = tf.Variable(first * self.model.initial_scale, name=name)

    def call(self, features: Features, seed: tf.Tensor | None = None) -> tf.Tensor:
        """`features` by column name, batch first; `seed` `[2] int32` turns dropout on and the prior off."""
        if seed is None:
            return self._with_prior(self.encode(self.field_vectors(features, None)), features)
        vectors = self.field_vectors(features, seed)
        places = len(self.spec.inputs) + 1
        if self.spec.config.feature_dropout:
            shape = [tf.shape(next(iter(vectors.values())))[0], len(self.fields)]
            drawn = tf.random.stateless_uniform(shape, tf.random.fold_in(seed, places + 1))
            vectors = self.hide(vectors, drawn < self.spec.config.feature_dropout)
        return self.encode(vectors, tf.random.fold_in(seed, places))

    @property
    def varies_by_row(self) -> bool:
        """Whether in training rows of equal features can get different vectors: by dropout, or for their user."""
        dropped = self.spec.identity.dropout, self.spec.config.feature_dropout, self.model.embedding_dropout
        histories = any(inputs.form is Form.HISTORY for inputs in self.spec.inputs)
        return any(dropped) or (histories and self.model.history.dropout > 0) or self.audience is not None

    @property
    def dimension(self) -> int:
        """Width of the vectors served."""
        return self.model.output_dim + (COORDINATES if self.prior is not None else 0)

    def _with_prior(self, vectors: tf.Tensor, features: Features) -> tf.Tensor:
        """The vectors as served."""
        if self.prior is None:
            return vectors
        return self.prior.items(vectors, features[ITEM]) if self.spec.id_column == ITEM else self.prior.queries(vectors)

    def hide(self, vectors: Mapping[str, tf.Tensor], hidden: tf.Tensor) -> dict[str, tf.Tensor]:
        """Put default embeddings where `hidden` `[batch or 1, fields] bool` is true, the columns in order of `fields`.

        `vectors` are what `field_vectors` gave; all poolings of one history are hidden together. Both may have one axis
        more in front, of views: `[views or 1, batch, dim]` and `[views, batch or 1, fields]`.
        """
        shown = dict(vectors)
        hide = tf.cast(hidden, tf.float32)
        show = 1.0 - hide
        for place, field in enumerate(self.fields):
            # Products, not tf.where: that has to be as large as its result in every argument, and in its gradient too.
            default = hide[..., place, None] * self.defaults[field]
            for part in self.pools.get(field, (field,)):
                shown[part] = show[..., place, None] * vectors[part] + default
        return shown

    def encode(self, vectors: Mapping[str, tf.Tensor], dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """The fields' vectors to the tower's output; a seed turns the dropout of the combined vector on."""
        combined = self.combine(vectors)
        if dropout_seed is not None and self.model.embedding_dropout:
            combined = tf.nn.experimental.stateless_dropout(combined, self.model.embedding_dropout, dropout_seed)
        for layer in self.hidden:
            combined = layer(combined)
        if self.output_layer is not None:
            combined = self.output_layer(combined)
        return tf.math.l2_normalize(combined, axis=1)

    def field_vectors(self, features: Features, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Each field's `[batch, embedding_dim]` by column name (and pooling), numbers `[batch, 2]`, the id first."""
        vectors: dict[str, tf.Tensor] = {}
        if self.spec.identity.use:
            table = self.tables[self.spec.id_column]
            rows = table.rows(features[self.spec.id_column])
            if seed is not None and self.spec.identity.dropout:
                rows = drop_identity(rows, self.spec.identity.dropout, tf.random.fold_in(seed, 0))
            vectors[self.spec.id_column] = table.vectors(rows)
        for place, inputs in enumerate(self.spec.inputs):
            values = features[inputs.name]
            if inputs.form is Form.NUMBER:
                vectors[inputs.name] = standardise(values, inputs)
            elif inputs.is_list:
                drop = self.model.history.dropout if inputs.form is Form.HISTORY else 0.0
                flat = flatten(values, drop, None if seed is None else tf.random.fold_in(seed, place + 1))
                looked_up = look_up(self.tables[inputs.table], flat)
                for part, pooling in self.pools[inputs.name].items():
                    vectors[part] = pooling(looked_up, flat)
            else:
                vectors[inputs.name] = self.tables[inputs.table](values)
        if self.audience is not None:
            vectors[AUDIENCE] = self.audience(features[self.spec.id_column], features.get(USER))
        return self._scaled(vectors)

    def _scaled(self, vectors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The vectors times their fields' gates and scales, where there are any."""
        factors: dict[str, tf.Tensor | float] = {
            inputs.name: inputs.scale for inputs in self.spec.inputs if inputs.scale != 1.0
        }
        if self.gates is not None:
            factors |= dict(zip(self.gated, tf.unstack(self.gates.all(), num=len(self.gated)), strict=True))
        for field, factor in factors.items():
            for part in self.pools.get(field, (field,)):
                vectors[part] = factor * vectors[part]
        return vectors

    def combine(self, vectors: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Concatenate or add the fields' vectors; in a sum, numbers first pass a linear layer of their own."""
        if self.spec.config.combine == "concat":
            return tf.concat(list(vectors.values()), axis=1)
        numbers = [inputs.name for inputs in self.spec.inputs if inputs.form is Form.NUMBER]
        terms = [
            self.mixers[name](vector) if name in self.mixers else vector
            for name, vector in vectors.items()
            if name not in numbers
        ]
        if self.numbers is not None:
            terms.append(self.numbers(tf.concat([vectors[name] for name in numbers], axis=1)))
        return tf.add_n(terms) + self.bias


def _poolings(inputs: InputSpec, config: ModelConfig) -> dict[str, Pooling]:
    """The poolings of a list input by the name of the vector that each gives."""
    if inputs.form is not Form.HISTORY:
        return {inputs.name: Pooling(inputs.name)}
    poolings: dict[str, Pooling] = {}
    for place, pooling in enumerate(config.history.poolings):
        name = inputs.name if len(config.history.poolings) == 1 else f"{inputs.name}/{place}_{pooling.kind}"
        poolings[name] = Pooling(
            name.replace("/", "_"), pooling.kind, half_life=pooling.half_life, positions=inputs.length
        )
    return poolings


class TwoTower(tfrs.models.Model):
    """Query and item tower over shared tables, and the temperature.

    The loss is the job's (recsys/retrieval/step.py); `compute_loss` is what tfrs.models.Model asks for.
    """

    def __init__(self, spec: TwoTowerSpec, seed: int, gates: TowerGates | None = None) -> None:
        super().__init__()
        config = spec.config
        self.spec, self.gates = spec, gates
        by_table, by_field = (gates.tables, gates.fields) if gates is not None else ({}, {})
        gated = gates.spec.fields if gates is not None else {}
        self.embedding_tables = {
            table.name: EmbeddingTable(
                table, config.embedding_dim, scale=config.initial_scale, seed=seed, gates=by_table.get(table.name)
            )
            for table in spec.tables
        }
        audience = Audience(spec.audience, self.embedding_tables[USER]) if spec.audience is not None else None
        prior = PopularityPrior(spec.item_counts, config.popularity_prior) if spec.item_counts is not None else None
        self.query_tower, self.item_tower = (
            Tower(
                tower,
                config,
                self.embedding_tables,
                seed,
                by_field.get(tower.name),
                gated.get(tower.name, ()),
                audience if tower is spec.item else None,
                prior,
            )
            for tower in (spec.query, spec.item)
        )
        self.log_inverse_temperature = tf.Variable(
            -tf.math.log(config.temperature.value),
            trainable=config.temperature.learned,
            name="log_inverse_temperature",
        )

    @property
    def inverse_temperature(self) -> tf.Tensor:
        """1 / temperature, scalar float32."""
        return tf.exp(self.log_inverse_temperature)

    def call(self, inputs: Mapping[str, Features]) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors of `inputs["query"]` and `inputs["item"]`, without dropout."""
        return self.query_tower(inputs["query"]), self.item_tower(inputs["item"])
