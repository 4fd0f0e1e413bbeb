"""Backbones: gated field vectors to a logit, and what the model thought on the way.

Each takes `vectors` `[batch, fields, dim]` and `first` `[batch, fields]` (None without first-order terms). They see the
gated vectors and nothing else, so a closed value is the zero vector in every branch (OptFS, sections 2.6 and 9.1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from recsys._tensorflow import keras, tf
from recsys.config.ranking import RankerConfig
from recsys.ranking.seeds import named_seed
from recsys.ranking.spec import RankerSpec
from recsys.schema import Side


@dataclass(frozen=True)
class Scored:
    """`logits` `[batch] float32` and the named activations that the error memory uses, each `[batch, any] float32`.

    `encoded` are the field vectors beside each other; without hidden layers the other two are what is summed up to the
    logit. All are of the click; `tasks` are the other tasks' logits.
    """

    logits: tf.Tensor
    encoded: tf.Tensor
    first_hidden: tf.Tensor
    last_hidden: tf.Tensor
    tasks: Mapping[str, tf.Tensor] = field(default_factory=dict)


class Network(keras.layers.Layer):
    """Hidden ReLU layers, each with batch normalisation before the ReLU and dropout after it where configured."""

    def __init__(self, name: str, config: RankerConfig, seed: int) -> None:
        super().__init__(name=name)
        self.dropout, self.name_seed = config.dropout, named_seed(seed, name)
        self.dense = [
            keras.layers.Dense(units, kernel_initializer=_start(seed, f"{name}/{place}"), name=f"hidden_{place}")
            for place, units in enumerate(config.hidden)
        ]
        self.norms = [keras.layers.BatchNormalization(name=f"norm_{n}") for n in range(len(self.dense))]
        if not config.batch_norm:
            self.norms = []

    def call(self, inputs: tf.Tensor, seed: tf.Tensor | None = None) -> list[tf.Tensor]:
        """The outputs of all hidden layers (the input alone where there are none); a `seed` means training."""
        found = [inputs]
        for place, layer in enumerate(self.dense):
            hidden = layer(found[-1])
            if self.norms:
                hidden = self.norms[place](hidden, training=seed is not None)
            hidden = tf.nn.relu(hidden)
            if seed is not None and self.dropout:
                drawn = tf.random.fold_in(tf.random.fold_in(seed, self.name_seed), place)
                hidden = tf.nn.experimental.stateless_dropout(hidden, self.dropout, drawn)
            found.append(hidden)
        return found[1:] or found


class LogisticRegression(keras.layers.Layer):
    """bias + sum of the first-order terms."""

    def __init__(self, spec: RankerSpec, seed: int) -> None:
        super().__init__(name="lr")
        self.bias = tf.Variable(0.0, name="bias")

    def call(self, vectors: tf.Tensor, first: tf.Tensor | None, seed: tf.Tensor | None = None) -> Scored:
        """See the module."""
        return Scored(tf.reduce_sum(first, axis=1) + self.bias, first, first, first)


def pairwise(vectors: tf.Tensor) -> tf.Tensor:
    """0.5 ((sum of v)^2 - sum of v^2): the sum of all pairs' products by coordinate, `[batch, dim]` (Rendle 2010)."""

    @tf.custom_gradient
    def pairs(vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        total = tf.reduce_sum(vectors, axis=1)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return (total[:, None] - vectors) * upstream[:, None]  # two passes; TensorFlow's own makes seven

        return 0.5 * (tf.square(total) - tf.reduce_sum(tf.square(vectors), axis=1)), gradient

    return pairs(vectors)


class FactorisationMachine(keras.layers.Layer):
    """Pairs' inner products, and with first-order terms those and a bias. With `deep`, a network beside: DeepFM.

    Rendle 2010; Guo et al., IJCAI 2017. As the `head` of another task it weighs the products by coordinate (at first
    1 each): without that, tasks that share the embeddings would share the products too.
    """

    def __init__(self, spec: RankerSpec, seed: int, *, head: bool = False) -> None:
        super().__init__(name=spec.config.backbone)
        self.pair_weights = tf.Variable(tf.ones([spec.dim]), name="pair_weights") if head else None
        self.bias = tf.Variable(0.0, name="bias") if spec.linear else None
        self.network = Network("deep", spec.config, seed) if spec.config.backbone == "deepfm" else None
        if self.network is not None:
            self.output_layer = keras.layers.Dense(1, kernel_initializer=_start(seed, "output"), name="output")

    def call(self, vectors: tf.Tensor, first: tf.Tensor | None, seed: tf.Tensor | None = None) -> Scored:
        """See the module."""
        pairs = pairwise(vectors)
        if self.pair_weights is not None:
            pairs *= self.pair_weights
        logits = tf.reduce_sum(pairs, axis=1)
        if first is not None:
            logits += tf.reduce_sum(first, axis=1) + self.bias
        encoded = beside(vectors)
        if self.network is None:
            return Scored(logits, encoded, pairs, pairs)
        hidden = self.network(encoded, seed)
        return Scored(logits + self.output_layer(hidden[-1])[:, 0], encoded, hidden[0], hidden[-1])


class CrossNetwork(keras.layers.Layer):
    """Crosses of the field vectors beside a network, and a linear layer without bias over both: DCN and DCN-v2.

    DCN (Wang et al., ADKDD 2017): x_{l+1} = x_0 (w_l . x_l) + b_l + x_l. DCN-v2 (Wang et al., WWW 2021):
    x_{l+1} = x_0 o (W_l x_l + b_l) + x_l, where every coordinate of a closed value stays 0.
    """

    def __init__(self, spec: RankerSpec, seed: int) -> None:
        super().__init__(name=spec.config.backbone)
        width = len(spec.fields) * spec.dim
        self.full = spec.config.backbone == "dcn_v2"
        units = width if self.full else 1
        self.kernels, self.biases = [], []
        for place in range(spec.config.cross_layers):
            start = _start(seed, f"cross_{place}")
            self.kernels.append(tf.Variable(start([width, units]), name=f"cross_{place}/kernel"))
            self.biases.append(tf.Variable(tf.zeros([width]), name=f"cross_{place}/bias"))
        self.network = Network("deep", spec.config, seed)
        self.output_layer = keras.layers.Dense(1, use_bias=False, kernel_initializer=_start(seed, "output"))

    def call(self, vectors: tf.Tensor, first: tf.Tensor | None, seed: tf.Tensor | None = None) -> Scored:
        """See the module."""
        start = crossed = beside(vectors)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            product = tf.matmul(crossed, kernel)
            crossed += start * (product + bias) if self.full else start * product + bias
        hidden = self.network(start, seed)
        logits = self.output_layer(tf.concat([crossed, hidden[-1]], axis=1))[:, 0]
        return Scored(logits, start, hidden[0], hidden[-1])


class InnerProductNetwork(keras.layers.Layer):
    """A network over the field vectors and the inner products of all pairs of them: IPNN (Qu et al., ICDM 2016)."""

    def __init__(self, spec: RankerSpec, seed: int) -> None:
        super().__init__(name="ipnn")
        count = len(spec.fields)
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        self.places = tf.constant([i * count + j for i, j in pairs], tf.int32)
        self.network = Network("deep", spec.config, seed)
        self.output_layer = keras.layers.Dense(1, kernel_initializer=_start(seed, "output"))

    def products(self, vectors: tf.Tensor) -> tf.Tensor:
        """<v_i, v_j> of all pairs i < j, `[batch, pairs]`."""
        every = tf.matmul(vectors, vectors, transpose_b=True)
        return tf.gather(tf.reshape(every, [tf.shape(vectors)[0], vectors.shape[1] ** 2]), self.places, axis=1)

    def call(self, vectors: tf.Tensor, first: tf.Tensor | None, seed: tf.Tensor | None = None) -> Scored:
        """See the module."""
        encoded = beside(vectors)
        hidden = self.network(tf.concat([encoded, self.products(vectors)], axis=1), seed)
        return Scored(self.output_layer(hidden[-1])[:, 0], encoded, hidden[0], hidden[-1])


class TwoTowerDot(keras.layers.Layer):
    """A tower over the user's and context's fields, one over the item's, their inner product, a bias: as a ranker."""

    def __init__(self, spec: RankerSpec, seed: int) -> None:
        super().__init__(name="two_tower")
        of_item = [place for place, field in enumerate(spec.fields) if field.side is Side.ITEM]
        others = [place for place in range(len(spec.fields)) if place not in of_item]
        self.sides = {"query": tf.constant(others, tf.int32), "item": tf.constant(of_item, tf.int32)}
        self.widths = {"query": len(others) * spec.dim, "item": len(of_item) * spec.dim}
        self.networks = {name: Network(name, spec.config, seed) for name in self.sides}
        self.ends = {
            name: keras.layers.Dense(spec.dim, kernel_initializer=_start(seed, f"{name}/output"), name=f"{name}_output")
            for name in self.sides
        }
        self.bias = tf.Variable(0.0, name="bias")

    def call(self, vectors: tf.Tensor, first: tf.Tensor | None, seed: tf.Tensor | None = None) -> Scored:
        """See the module."""
        hidden, vectors_of = {}, {}
        for name, places in self.sides.items():
            part = tf.reshape(tf.gather(vectors, places, axis=1), [-1, self.widths[name]])
            hidden[name] = self.networks[name](part, seed)
            vectors_of[name] = self.ends[name](hidden[name][-1])
        logits = tf.reduce_sum(vectors_of["query"] * vectors_of["item"], axis=1) + self.bias
        both = [tf.concat([hidden["query"][place], hidden["item"][place]], axis=1) for place in (0, -1)]
        return Scored(logits, beside(vectors), *both)


def beside(vectors: tf.Tensor) -> tf.Tensor:
    """Field vectors in one row, `[batch, fields x dim]`."""
    return tf.reshape(vectors, [tf.shape(vectors)[0], vectors.shape[1] * vectors.shape[2]])


def make_backbone(spec: RankerSpec, seed: int, *, head: bool = False) -> keras.layers.Layer:
    """The configured backbone at its initial weights, or the same as the `head` of another task."""
    if head and spec.config.backbone in ("fm", "deepfm"):
        return FactorisationMachine(spec, seed, head=True)
    kinds = {
        "lr": LogisticRegression,
        "fm": FactorisationMachine,
        "deepfm": FactorisationMachine,
        "dcn": CrossNetwork,
        "dcn_v2": CrossNetwork,
        "ipnn": InnerProductNetwork,
        "two_tower": TwoTowerDot,
    }
    return kinds[spec.config.backbone](spec, seed)


def _start(seed: int, name: str) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=named_seed(seed, name))
