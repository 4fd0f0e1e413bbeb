"""The small tasks between and behind the shuffles: plans, clusters, vocabularies, entity tables, the summary."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.ingest import SplitConfig
from recsys.dataset_folder import DatasetFolder
from recsys.encoding.clusters import NO_CLUSTER, Clusters, base_clusters
from recsys.encoding.information import mutual_information
from recsys.encoding.point_in_time import CLUSTERS_FILE, UNKNOWN_TIME, cluster_state
from recsys.encoding.vocabulary import Vocabulary
from recsys.ingestion import entities, rejected
from recsys.ingestion.by_user import parts_of
from recsys.ingestion.cuts import BIN_BITS, Plan, histogram, plan_output, settle
from recsys.ingestion.elements import column, gather, unpack
from recsys.ingestion.encode import Provisional
from recsys.ingestion.statistics import Moments, event_numbers
from recsys.ingestion.validation import AVAILABLE_FROM
from recsys.ingestion.vocabularies import Encoders, build_vocabularies, entity_table
from recsys.schema import FIRST_VALUE_ID, ITEM, SPLITS, TIME, USER, Field, Kind, Schema, Side


@dataclass(frozen=True)
class FinishContext:
    """What all these tasks share. `folder` belongs to this run alone; `earlier` is the data set that is extended."""

    schema: Schema
    folder: Path
    earlier: Path | None
    file_rows: int
    seed: int

    def earlier_items(self) -> pa.Table | None:
        """The earlier data set's items, if one is extended."""
        return None if self.earlier is None else DatasetFolder.open(self.earlier).items

    def earlier_users(self) -> pa.Table | None:
        """The earlier data set's users, if one is extended."""
        return None if self.earlier is None else DatasetFolder.open(self.earlier).users


def shard_count(_: None, counts: list[tuple[int, int]], shard_rows: int) -> int:
    """How many shards of about `shard_rows` events; (rows in, rows rejected) come from reading."""
    return max(1, -(-sum(rows for rows, _ in counts) // shard_rows))


def item_availability(
    _: None, values: list[tuple[str, bytes]], items: list[bytes], context: FinishContext, wanted: bool
) -> bytes:
    """`[provisional ids] int64` ms since when the catalogue knows each item, as bytes; empty where no one asks."""
    if not wanted:
        return b""
    provisional = Provisional(values, (ITEM,))
    known = np.full(len(provisional.values[ITEM]), UNKNOWN_TIME, np.int64)
    tables = [entity_table(items, ITEM)[0]]
    earlier = context.earlier_items()
    if earlier is not None:
        earlier = earlier.rename_columns({ITEM: "id", "raw": ITEM})
        tables.append(earlier.filter(pc.greater(earlier[AVAILABLE_FROM], 0)))  # 0: nothing was known
    for table in tables:
        if table is not None and AVAILABLE_FROM in table.column_names:
            table = table.filter(table[AVAILABLE_FROM].is_valid())
            ids = provisional.encode(ITEM, table[ITEM].combine_chunks())
            known[ids[ids >= 0]] = column(table, AVAILABLE_FROM)[ids >= 0]
    return known.tobytes()


def make_plan(_: None, histograms: list[bytes], split: SplitConfig, file_rows: int) -> Plan:
    """File borders, and which order statistics are wanted for the split."""
    return plan_output(histograms, split, file_rows)


def count_bins(message: bytes, plan: Plan) -> Iterator[bytes]:
    """Exact counts of the times that lie in the plan's bins."""
    from recsys.ingestion.elements import pack

    if not plan.wanted:
        return
    times = column(unpack(message), TIME)
    chosen = times[np.isin(times >> BIN_BITS, plan.bins)]
    if len(chosen):
        yield pack(histogram(chosen, bits=0))


def settle_plan(_: None, plan: Plan, counts: list[bytes]) -> Plan:
    """The plan with exact split times."""
    return settle(plan, counts)


def cluster_changes(_: None, pairs: list[bytes], field: Field | None, seed: int) -> Clusters | None:
    """When each item got which cluster: base clusters from training co-clicks, then all co-clicks in time order."""
    if field is None:
        return None
    table = gather(pairs)
    if table is None:  # no event is left; the summary says so
        nothing = np.zeros(0, np.int32)
        return Clusters(nothing, cluster_state(field, nothing).finish())
    first, second, when = (column(table, name).astype(np.int64) for name in ("first", "second", "time"))
    order = np.lexsort((second, first, when))
    first, second, when = first[order], second[order], when[order]
    train = table["train"].to_numpy()[order]
    items = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
    base = base_clusters(first[train], second[train], items, field.clusters or 1, seed)
    state = cluster_state(field, base)
    state.update(first, second, when)
    return Clusters(base, state.finish())


def write_clusters(_: None, encoders: Encoders, clusters: Clusters | None, context: FinishContext) -> None:
    """Write the base clusters by final item id, `[items + 3] int32`, from which the state of a data set starts."""
    if clusters is None:
        return
    final = np.full(encoders.vocabularies[ITEM].size, NO_CLUSTER, np.int32)
    final[encoders.final[ITEM][: len(clusters.base)]] = clusters.base
    np.save(context.folder / CLUSTERS_FILE, final)


def make_encoders(
    _: None,
    values: list[tuple[str, bytes]],
    counted: list[tuple[str, bytes]],
    items: list[bytes],
    users: list[bytes],
    context: FinishContext,
) -> Encoders:
    """All vocabularies, written to `vocabulary/`, and the maps from provisional to final ids."""
    earlier: dict[str, Vocabulary] = {}
    if context.earlier is not None:
        folder = DatasetFolder.open(context.earlier)
        earlier = {name: folder.vocabulary(name) for name in context.schema.vocabularies}
    tables = {ITEM: entity_table(items, ITEM)[0], USER: entity_table(users, USER)[0]}
    encoders = build_vocabularies(context.schema, values, counted, tables, earlier)
    for name, vocabulary in encoders.vocabularies.items():
        vocabulary.write(context.folder / "vocabulary" / f"{name}.parquet")
    return encoders


def write_items(
    _: None, encoders: Encoders, raw: list[bytes], firsts: list[bytes], context: FinishContext
) -> dict[str, object]:
    """Write `items/`; gives its statistics."""
    table, _ = entity_table(raw, ITEM)
    earlier = context.earlier_items()
    columns = entities.entity_rows(ITEM, context.schema, table, encoders.vocabularies, earlier)
    first_times = np.full(len(columns[ITEM]), -1, np.int64)
    seen = gather(firsts)
    if seen is not None and context.schema.has_time:
        first_times[encoders.final[ITEM][column(seen, ITEM)] - FIRST_VALUE_ID] = column(seen, TIME)
    columns[AVAILABLE_FROM] = entities.available_from(columns, table, first_times, earlier)
    names = [ITEM, "raw", "title", "count", AVAILABLE_FROM]
    items = pa.table({name: columns[name] for name in [*names, *(n for n in columns if n not in names)]})
    entities.write_entities(context.folder / "items", "items", items, context.file_rows)
    return {
        "accepted": entities.listed(items, table, ITEM),
        "numeric": entities.numeric_summaries(items, context.schema.of(Side.ITEM)),
        "mutual_information": mutual_information(items, context.schema, Side.ITEM, context.seed),
    }


def write_users(
    _: None, encoders: Encoders, raw: list[bytes], ends: list[bytes], context: FinishContext
) -> dict[str, object]:
    """Write `users/`; gives its statistics."""
    table, _ = entity_table(raw, USER)
    earlier = context.earlier_users()
    columns = entities.entity_rows(USER, context.schema, table, encoders.vocabularies, earlier)
    shown = [unpack(message) for message in ends]
    for field in context.schema.fields:
        if field.kind is Kind.SEQUENCE:
            # The numbers of clusters are learned anew, so an earlier data set's mean nothing here.
            kept = earlier if field.of == ITEM else None
            columns[field.name] = entities.end_sequences(field, len(columns[USER]), shown, encoders.final, kept)
    users = pa.table(columns)
    entities.write_entities(context.folder / "users", "users", users, context.file_rows)
    return {
        "accepted": entities.listed(users, table, USER),
        "numeric": entities.numeric_summaries(users, context.schema.of(Side.USER)),
        "mutual_information": mutual_information(users, context.schema, Side.USER, context.seed),
    }


def write_rejected(element: tuple[str, Iterable[bytes]], context: FinishContext) -> Iterator[tuple[str, str, int]]:
    """Write one file of rejected rows; gives (table, reason, rows)."""
    name, messages = element
    text, reasons = rejected.lines(messages)
    (context.folder / "rejected" / f"{name}.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    for reason, rows in reasons.items():
        yield name.rsplit("-", 1)[0], reason, rows


def write_summary(
    _: None,
    files: list[tuple[int, tuple[int, dict[str, Moments]]]],
    plan: Plan,
    reasons: list[tuple[str, str, int]],
    items: list[dict],
    users: list[dict],
    context: FinishContext,
    **counts: list[tuple[int, int]],
) -> None:
    """Write statistics.json and summary.json (the rows and split times that go into the manifest)."""
    positives = dict.fromkeys(SPLITS, 0)
    training: list[dict[str, Moments]] = []
    for key, (positive, moments) in sorted(files):
        part = parts_of(key, plan)[0]
        positives[part] += positive
        if part == SPLITS[0]:
            training.append(moments)
    numeric = {
        f.name: Moments.merge(part[f.name] for part in training).summary(with_log=f.kind is Kind.POINT_IN_TIME)
        for f in event_numbers(context.schema)
    }
    statistics = {
        "numeric": {**numeric, **items[0]["numeric"], **users[0]["numeric"]},
        "mutual_information": {"item": items[0]["mutual_information"], "user": users[0]["mutual_information"]},
    }
    (context.folder / "statistics.json").write_text(
        json.dumps(statistics, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    tables: dict[str, dict[str, object]] = {}
    for name, read in counts.items():
        table = name.removeprefix("counts_") + ("" if name.endswith("s") else "s")
        by_reason: dict[str, int] = {}
        for source, reason, rejects in reasons:
            if source == table:
                by_reason[reason] = by_reason.get(reason, 0) + rejects
        tables[table] = {"in": sum(rows for rows, _ in read), "by_reason": by_reason}
    summary = {
        "tables": tables,
        "accepted": {"items": items[0]["accepted"], "users": users[0]["accepted"]},
        "positives": positives,
        "times": {"validation": plan.validation, "test": plan.test},
    }
    (context.folder / "summary.json").write_text(json.dumps(summary, sort_keys=True), encoding="utf-8")
