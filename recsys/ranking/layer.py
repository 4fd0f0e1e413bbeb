"""The gated feature layer: columns to one vector a field, the same for every branch of every backbone."""

from collections.abc import Mapping

from recsys._tensorflow import keras, tf
from recsys.features.gates import Gates
from recsys.features.pooling import DistinctVectors, FlatValues, flatten, mean_by_row
from recsys.ranking.attention import Attention
from recsys.ranking.numbers import number_factor, number_ids
from recsys.ranking.spec import FieldSpec, RankerSpec, Reading
from recsys.ranking.table import FeatureTable

Features = Mapping[str, tf.Tensor]


class FeatureLayer(keras.layers.Layer):
    """Columns by name to gated vectors `[batch, fields, dim] float32` and first-order terms `[batch, fields]`.

    A value's gate multiplies its embedding and its first-order weight after the lookup and before pooling, so what
    follows never sees a closed value: it is the zero vector in each branch. `field_gates` `[fields]` multiply whole
    fields instead.
    """

    def __init__(self, spec: RankerSpec, table: FeatureTable, *, seed: int, field_gates: Gates | None = None) -> None:
        super().__init__(name="feature_layer")
        self.spec, self.table, self.field_gates = spec, table, field_gates
        self.attentions = {
            field.name: Attention(field.name, spec.dim, seed)
            for field in spec.fields
            if field.reading is Reading.ATTENTION and spec.dim
        }

    def call(self, features: Features) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """The vectors and the first-order terms of the click and of each task (None where the ranker has none)."""
        singles = self.spec.singles
        parts = []
        candidate = None
        if singles:
            vectors = self.table.vectors(self.single_rows(features))
            if any(field.reading is Reading.VALUE for field in singles):
                vectors *= tf.stack([_factor(features[field.name], field) for field in singles], axis=1)[..., None]
            candidate = vectors[:, self.spec.candidate, :] if self.attentions else None
            parts.append(vectors)
        for field in self.spec.lists:
            parts.append(self._pooled(features[field.name], field, candidate)[:, None, :])
        found = parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
        if self.field_gates is not None:
            found *= self.field_gates.all()[:, None]
        heads = 1 + len(self.spec.tasks)
        if not self.spec.linear:
            return found, [None] * heads
        dim = self.spec.dim
        return found[..., :dim], [found[..., dim + place] for place in range(heads)]

    def single_rows(self, features: Features) -> tf.Tensor:
        """Table rows of the single-valued fields, `[batch, single-valued fields] int64`."""
        singles = self.spec.singles
        ids = tf.stack([self._ids(features[field.name], field) for field in singles], axis=1)
        return self.table.rows(ids, singles)

    def list_rows(self, ids: tf.Tensor, field: FieldSpec) -> tuple[FlatValues, tf.Tensor]:
        """The values of a field of lists, and their table rows `[values] int64`."""
        values = flatten(ids)
        return values, self.table.rows(values.ids[:, None], (field,))[:, 0]

    def _ids(self, values: tf.Tensor, field: FieldSpec) -> tf.Tensor:
        if not field.is_number:
            return values
        return number_ids(values, field, self.table.sizes[field.table])

    def _pooled(self, ids: tf.Tensor, field: FieldSpec, candidate: tf.Tensor | None) -> tf.Tensor:
        values, rows = self.list_rows(ids, field)
        distinct = tf.unique(rows)
        looked_up = DistinctVectors(self.table.vectors(distinct.y), distinct.idx, self.table.openness(distinct.y))
        if candidate is None or field.name not in self.attentions:
            return mean_by_row(looked_up, values)
        return self.attentions[field.name](looked_up, values, candidate)


def _factor(values: tf.Tensor, field: FieldSpec) -> tf.Tensor:
    """What a field's row is multiplied by, `[batch] float32`."""
    if field.reading is Reading.VALUE:
        return number_factor(values, field)
    return tf.ones([tf.shape(values)[0]])
