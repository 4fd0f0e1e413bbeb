"""The gated feature layer: columns to one vector a field, the same for every branch of every backbone."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recsys._tensorflow import keras, tf
from recsys.features.gates import Gates
from recsys.features.pooling import DistinctVectors, FlatValues, flatten, mean_by_row, spread
from recsys.ranking.attention import Attention
from recsys.ranking.numbers import number_factor, number_ids
from recsys.ranking.spec import FieldSpec, RankerSpec, Reading
from recsys.ranking.table import FeatureTable

Features = Mapping[str, tf.Tensor]


class FeatureLayer(keras.layers.Layer):
    """Columns by name to gated vectors `[batch, fields, dim] float32` and first-order terms `[batch, fields]`.

    A value's gate multiplies its embedding and its first-order weight after the lookup and before pooling, so what
    follows never sees a closed value: it is the zero vector in each branch. `field_gates` `[fields]` multiply all
    values of a field instead, where `gated` `[fields] bool` (None: everywhere).
    """

    def __init__(
        self,
        spec: RankerSpec,
        table: FeatureTable,
        *,
        seed: int,
        field_gates: Gates | None = None,
        gated: np.ndarray | None = None,
    ) -> None:
        super().__init__(name="feature_layer")
        self.spec, self.table, self.field_gates = spec, table, field_gates
        self.gated = np.ones(len(spec.fields), bool) if gated is None else gated
        self.attentions = {
            field.name: Attention(field.name, spec.dim, seed)
            for field in spec.fields
            if field.reading is Reading.ATTENTION and spec.dim
        }

    def call(self, features: Features) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """The vectors and the first-order terms of the click and of each task (None where the ranker has none)."""
        singles, lists = self.spec.singles, self.spec.lists
        flat = [self.list_rows(features[field.name], field) for field in lists]
        rows = [tf.reshape(self.single_rows(features), [-1])] if singles else []
        rows += [found for _, found in flat]
        # All fields at once, so that a row of the table is read, and later written, once a step.
        looked_up = self.table.look_up(tf.concat(rows, axis=0))
        places = tf.split(looked_up.place, [tf.size(one) for one in rows])
        heads = 1 + len(self.spec.tasks)
        widths = [self.spec.dim, heads] if self.spec.linear else [self.spec.dim]
        parts = []
        candidate = None
        scales = None
        if self.field_gates is not None:
            scales = tf.where(tf.constant(self.gated), self.field_gates.all(), 1.0)
        if singles:
            place = places.pop(0)
            # Cut before they are spread: the gradient of a slice of what was spread would pass over all of it again.
            vectors = [self._spread(part, place, features) for part in tf.split(looked_up.vectors, widths, axis=1)]
            if scales is not None:
                vectors = [one * scales[: len(singles), None] for one in vectors]
            candidate = vectors[0][:, self.spec.candidate] if self.attentions else None
            parts.append(vectors)
        for number, (field, (values, _), place) in enumerate(zip(lists, flat, places, strict=True), len(singles)):
            own = looked_up.vectors if scales is None else looked_up.vectors * scales[number]
            pooled = self._pooled(field, values, replace(looked_up, vectors=own, place=place), candidate)[:, None, :]
            parts.append(tf.split(pooled, widths, axis=2))
        found = [one[0] if len(one) == 1 else tf.concat(one, axis=1) for one in zip(*parts, strict=True)]
        if not self.spec.linear:
            return found[0], [None] * heads
        return found[0], tf.unstack(found[1], axis=2)

    def _spread(self, vectors: tf.Tensor, place: tf.Tensor, features: Features) -> tf.Tensor:
        """Vectors `[distinct, width]` of the single-valued fields, `[batch, fields, width]`, times their factors."""
        singles = self.spec.singles
        found = tf.reshape(spread(vectors, place), [-1, len(singles), vectors.shape[1]])
        if any(field.reading is Reading.VALUE for field in singles):
            found *= tf.stack([_factor(features[field.name], field) for field in singles], axis=1)[..., None]
        return found

    def every_row(self, features: Features) -> tf.Tensor:
        """Table rows of all values of all fields, one entry an occurrence, `[lookups] int64`."""
        rows = [tf.reshape(self.single_rows(features), [-1])] if self.spec.singles else []
        rows += [self.list_rows(features[field.name], field)[1] for field in self.spec.lists]
        return tf.concat(rows, axis=0)

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

    def _pooled(
        self, field: FieldSpec, values: FlatValues, looked_up: DistinctVectors, candidate: tf.Tensor | None
    ) -> tf.Tensor:
        if candidate is None or field.name not in self.attentions:
            return mean_by_row(looked_up, values)
        return self.attentions[field.name](looked_up, values, candidate)


def _factor(values: tf.Tensor, field: FieldSpec) -> tf.Tensor:
    """What a field's row is multiplied by, `[batch] float32`."""
    if field.reading is Reading.VALUE:
        return number_factor(values, field)
    return tf.ones([tf.shape(values)[0]])
