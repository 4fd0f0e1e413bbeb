"""The ranker: feature layer and backbone, without or with gates."""

from dataclasses import replace

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.features.gates import Gates
from recsys.ranking.backbones import Scored, make_backbone
from recsys.ranking.layer import FeatureLayer, Features
from recsys.ranking.seeds import named_seed
from recsys.ranking.spec import RankerSpec
from recsys.ranking.table import FeatureTable


class Ranker(keras.Model):
    """Columns by name to logits and activations. `gates` are None for a plain model.

    Tasks beside the click have a backbone of their own each, `heads` by name, over the one gated feature layer.
    """

    def __init__(
        self,
        spec: RankerSpec,
        seed: int,
        *,
        gates: Gates | None = None,
        gated: np.ndarray | None = None,
        field_gates: Gates | None = None,
    ) -> None:
        """`gates` are those of the table's rows, `field_gates` of fields; in force where `gated` `[rows or fields]`."""
        super().__init__(name="ranker")
        self.spec = spec
        self.gates = field_gates if gates is None else gates
        of_rows, of_fields = (gated, None) if field_gates is None else (None, gated)
        self.table = FeatureTable(spec, seed=named_seed(seed, "table"), gates=gates, gated=of_rows)
        self.layer = FeatureLayer(spec, self.table, seed=seed, field_gates=field_gates, gated=of_fields)
        self.backbone = make_backbone(spec, seed)
        self.heads = {name: make_backbone(spec, named_seed(seed, f"task/{name}"), head=True) for name in spec.tasks}
        self({name: tf.zeros([1] * len(form.shape), form.dtype) for name, form in signature(spec).items()})

    def call(self, features: Features, seed: tf.Tensor | None = None) -> Scored:
        """`features` by column name, batch first; with `seed` `[2] int32` as in training: dropout, batch statistics."""
        vectors, first = self.layer(features)
        scored = self.backbone(vectors, first[0], seed)
        if not self.heads:
            return scored
        heads = zip(self.heads.items(), first[1:], strict=True)
        return replace(scored, tasks={name: head(vectors, terms, seed).logits for (name, head), terms in heads})

    @property
    def network_variables(self) -> list[tf.Variable]:
        """Trainable weights besides the table."""
        return [variable for variable in self.trainable_variables if variable is not self.table.table]

    @property
    def learned(self) -> list[tf.Variable]:
        """All that training changes besides the gates: weights and the running statistics of batch normalisation."""
        return [
            self.table.table,
            *self.backbone.variables,
            *(v for a in self.layer.attentions.values() for v in a.variables),
            *(v for head in self.heads.values() for v in head.variables),
        ]


def signature(spec: RankerSpec) -> dict[str, tf.TensorSpec]:
    """The columns that a ranker reads: ids int32, numbers float32, lists `[batch, width]`."""
    return {
        field.name: tf.TensorSpec(
            [None, None] if field.is_list else [None], tf.float32 if field.is_number else tf.int32, name=field.name
        )
        for field in spec.fields
    }
