"""All vocabularies of a data set, from distinct values, training counts, and the items and users tables."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.encoding.vocabulary import Vocabulary
from recsys.ingestion.elements import unpack
from recsys.ingestion.encode import Provisional, id_columns
from recsys.ingestion.reading import input_order
from recsys.ingestion.validation import ROW
from recsys.schema import ITEM, MISSING_ID, USER, Field, Kind, Schema, Side

ID_KINDS = (Kind.CATEGORICAL, Kind.MULTI_VALUED)


@dataclass(frozen=True)
class Encoders:
    """All vocabularies, and the final id of every provisional id of an event column (the last entry: missing)."""

    vocabularies: dict[str, Vocabulary]
    final: dict[str, np.ndarray]


def entity_table(messages: Iterable[bytes], key: str) -> tuple[pa.Table | None, pa.Table | None]:
    """The items or users table without repeats of an id (the first row stands), and the rows that repeat one."""
    tables = [_decoded(unpack(message)) for message in messages]
    if not tables:
        return None, None
    table = input_order(tables, ROW)
    first = (
        table.append_column("place", pa.array(np.arange(table.num_rows))).group_by(key).aggregate([("place", "min")])
    )
    kept = np.zeros(table.num_rows, bool)
    kept[first["place_min"].to_numpy()] = True
    return table.filter(pa.array(kept)), table.filter(pa.array(~kept))


def _decoded(table: pa.Table) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table.schema.field(name).type):
            table = table.set_column(place, name, table[name].cast(pa.string()))
    return table


def build_vocabularies(
    schema: Schema,
    values: list[tuple[str, bytes]],
    counted: list[tuple[str, bytes]],
    entities: dict[str, pa.Table | None],
    earlier: dict[str, Vocabulary],
) -> Encoders:
    """Vocabularies of all fields; `earlier` ones are extended.

    User and item count training positives; a feature's value counts those of the items or users that have it; a
    context value counts training events.
    """
    provisional = Provisional(values, id_columns(schema))
    counts = {name: np.zeros(len(ids), np.int64) for name, ids in provisional.values.items()}
    for name, message in counted:
        table = unpack(message)
        np.add.at(counts[name], table["id"].to_numpy(), table["count"].to_numpy())
    found: dict[str, Vocabulary] = {}
    for name in (USER, ITEM):
        known, weights = provisional.values[name], counts[name]
        table = entities[name]
        if table is not None:
            fresh = table[name].filter(pc.invert(pc.is_in(table[name], value_set=known))).combine_chunks()
            known = pa.concat_arrays([known, fresh])
            weights = np.append(weights, np.zeros(len(fresh), np.int64))
        found[name] = Vocabulary.build(name, known, weights, earlier=earlier.get(name))
    for name in schema.vocabularies:
        if name in found:
            continue
        fields = [f for f in schema.fields if f.vocabulary_name == name and f.kind in ID_KINDS]
        parts = [_counted_values(field, provisional, counts, entities, found) for field in fields]
        owner = next((f for f in fields if f.name == name), fields[0])
        merged = _sum_by_value(parts)
        found[name] = Vocabulary.build(
            name, *merged, min_count=max(owner.min_count, 1), max_size=owner.max_size, earlier=earlier.get(name)
        )
    final = {}
    for name in id_columns(schema):
        vocabulary = found[name if name in (USER, ITEM) else schema.field(name).vocabulary_name]
        final[name] = np.append(vocabulary.encode(provisional.values[name]), np.int32(MISSING_ID))
    return Encoders(found, final)


def _counted_values(
    field: Field,
    provisional: Provisional,
    counts: dict[str, np.ndarray],
    entities: dict[str, pa.Table | None],
    found: dict[str, Vocabulary],
) -> tuple[pa.Array, np.ndarray]:
    """A field's values and how often each stands in the training part."""
    if field.side is Side.CONTEXT:
        return provisional.values[field.name], counts[field.name]
    table = entities[field.side]
    if table is None:
        return pa.array([], pa.string()), np.zeros(0, np.int64)
    weights = found[field.side].counts[found[field.side].encode(table[field.side])]
    values = table[field.name].combine_chunks()
    if pa.types.is_list(values.type):
        weights = weights[pc.list_parent_indices(values).to_numpy()]
        values = values.flatten()
    return values, weights


def _sum_by_value(parts: list[tuple[pa.Array, np.ndarray]]) -> tuple[pa.Array, np.ndarray]:
    table = pa.concat_tables(
        [pa.table({"value": values, "count": counts}).filter(pa.array(counts > 0)) for values, counts in parts]
    )
    summed = table.filter(table["value"].is_valid()).group_by("value").aggregate([("count", "sum")])
    return summed["value"].combine_chunks(), summed["count_sum"].to_numpy()
