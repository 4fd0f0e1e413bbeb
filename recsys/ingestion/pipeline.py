"""The Beam pipeline as a graph. Three shuffles, by shards of items, of users and of time; never by row.

shards ─► ReadEvents ─► EncodeEvents ═item═► ByItem ═user═► ByUser ═file═► WriteEvents
             │ values       ▲                  │ histogram     ▲ │ counted      ▲
             └► distinct ───┘                  └► plan ────────┘ └► encoders ───┘
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, PCollection

from recsys.config.ingest import IngestConfig, utc
from recsys.datasets.readers import FileReader
from recsys.datasets.source import RawSource, TableReader
from recsys.encoding.carried import CARRIED
from recsys.encoding.histories import effective_lag
from recsys.ingestion.by_item import DUPLICATES, FIRSTS, HISTOGRAM, TIMES, ByItem, ItemStage
from recsys.ingestion.by_user import COUNTED, ENDS, ByUser, PairsByUser, UserStage
from recsys.ingestion.carried import ReadCarried
from recsys.ingestion.encode import EncodeEvents, id_columns, merge_distinct
from recsys.ingestion.finish import (
    FinishContext,
    cluster_changes,
    count_bins,
    item_availability,
    make_encoders,
    make_plan,
    settle_plan,
    shard_count,
    write_clusters,
    write_items,
    write_rejected,
    write_summary,
    write_users,
)
from recsys.ingestion.foreign import refuse_foreign
from recsys.ingestion.progress import Progress
from recsys.ingestion.reading import BEGINNINGS, COUNTS, REJECTED, ROWS, VALUES, ReadEntities, ReadEvents
from recsys.ingestion.validation import RAW_KINDS, EventRules
from recsys.ingestion.writing import WriteEvents
from recsys.schema import ITEM, USER, Kind, Schema, Side, Statistic

Keyed = tuple[int, bytes]


@dataclass(frozen=True)
class Job:
    """One ingestion: what to read, how, and the folder that only this run writes to."""

    source: RawSource
    schema: Schema
    config: IngestConfig
    seed: int
    folder: Path
    earlier: Path | None
    progress: Progress


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Add the whole graph to a pipeline."""
    config, schema = job.config, job.schema
    end = None if config.split.end is None else int(utc(config.split.end).timestamp() * 1000)
    rules = EventRules(schema, job.source.time_unit, job.source.positive, config.split.kind == "given", end)
    context = FinishContext(schema, job.folder, job.earlier, config.file_rows, job.seed)
    one = pipeline | "One" >> beam.Create([None])

    events = _shards(pipeline, "events", job.source.events) | "Read events" >> beam.ParDo(
        ReadEvents(job.source.events, rules, id_columns(schema), config.batch_rows, job.progress)
    ).with_outputs(VALUES, REJECTED, COUNTS, BEGINNINGS, main=ROWS)
    entities: dict[str, Any] = {}
    for key, reader in ((ITEM, job.source.items), (USER, job.source.users)):
        if reader is not None:
            read = ReadEntities(reader, key, schema.of(Side(key), *RAW_KINDS), job.source.time_unit, config.batch_rows)
            entities[key] = _shards(pipeline, key, reader) | f"Read {key}s" >> beam.ParDo(read).with_outputs(
                REJECTED, COUNTS, main=ROWS
            )
    raw = {
        key: AsList(entities[key][ROWS] if key in entities else _empty(pipeline, f"No {key}s")) for key in (ITEM, USER)
    }

    rows_in, values_in = events[ROWS], events[VALUES]
    if job.earlier is not None:
        known = AsList(events[VALUES])
        one | "Same data set" >> beam.Map(refuse_foreign, known, raw[ITEM], raw[USER], job.earlier)
        before = ReadCarried(
            rules,
            job.folder / CARRIED,
            job.earlier,
            effective_lag(config.lag_ms) + config.refresh_ms,
            config.batch_rows,
        )
        carried = one | "Carried over" >> beam.ParDo(before, known, AsList(events[BEGINNINGS])).with_outputs(
            VALUES, ROWS
        )
        rows_in = (rows_in, carried[ROWS]) | "All rows" >> beam.Flatten()
        flat = (values_in, carried[VALUES]) | "All values" >> beam.Flatten()
        values_in = flat | "Values by name" >> beam.Map(_same).with_output_types(tuple[str, bytes])  # Flink wants pairs
    values = values_in | "Group values" >> beam.GroupByKey() | "Distinct" >> beam.Map(merge_distinct)
    shards = AsSingleton(one | "Shards" >> beam.Map(shard_count, AsList(events[COUNTS]), config.shard_rows))
    availability = AsSingleton(
        one | "Availability" >> beam.Map(item_availability, AsList(values), raw[ITEM], context, _ages(schema))
    )
    by_fractions = config.split.kind == "time" and isinstance(config.split.validation, float)
    item_stage = ItemStage(schema, config.lag_ms, config.refresh_ms, config.duplicates == "reject", by_fractions)
    by_item = (
        rows_in
        | "Encode" >> beam.ParDo(EncodeEvents(schema), AsList(values), shards).with_output_types(Keyed)
        | "Group by item" >> beam.GroupByKey()
        | "By item"
        >> beam.ParDo(ByItem(item_stage, job.progress), shards, availability).with_outputs(
            DUPLICATES, HISTOGRAM, FIRSTS, TIMES, main=ROWS
        )
    )
    rows: PCollection = by_item[ROWS] | "Narrow" >> beam.Map(_same).with_output_types(Keyed)
    draft = one | "Draft plan" >> beam.Map(make_plan, AsList(by_item[HISTOGRAM]), config.split, config.file_rows)
    exact = by_item[TIMES] | "Exact keys" >> beam.FlatMap(count_bins, AsSingleton(draft))
    plan = AsSingleton(one | "Plan" >> beam.Map(settle_plan, AsSingleton(draft), AsList(exact)))

    stage = UserStage(schema, config.lag_ms, config.refresh_ms, config.split, job.seed)
    by_user_rows = rows | "Group by user" >> beam.GroupByKey()
    pairs = (
        by_user_rows | "Co-clicks" >> beam.ParDo(PairsByUser(stage), plan)
        if stage.clusters is not None
        else _empty(pipeline, "No co-clicks")
    )
    clusters = AsSingleton(one | "Clusters" >> beam.Map(cluster_changes, AsList(pairs), stage.clusters, job.seed))
    by_user = by_user_rows | "By user" >> beam.ParDo(ByUser(stage, job.progress), plan, clusters).with_outputs(
        COUNTED, ENDS, main=ROWS
    )
    encoders = AsSingleton(
        one
        | "Vocabularies"
        >> beam.Map(make_encoders, AsList(values), AsList(by_user[COUNTED]), raw[ITEM], raw[USER], context)
    )
    files = (
        by_user[ROWS]
        | "File rows" >> beam.Map(_same).with_output_types(Keyed)
        | "Group by file" >> beam.GroupByKey()
        | "Write events" >> beam.ParDo(WriteEvents(schema, job.folder / "events", job.progress), plan, encoders)
    )

    one | "Write clusters" >> beam.Map(write_clusters, encoders, clusters, context)
    item_tables = one | "Write items" >> beam.Map(write_items, encoders, raw[ITEM], AsList(by_item[FIRSTS]), context)
    user_tables = one | "Write users" >> beam.Map(write_users, encoders, raw[USER], AsList(by_user[ENDS]), context)
    rejected = _rejected(pipeline, job, events, entities, by_item[DUPLICATES], AsList(values), raw, context)
    counts = {key: AsList(read[COUNTS]) for key, read in {"events": events, **entities}.items()}
    one | "Summary" >> beam.Map(
        write_summary,
        AsList(files),
        plan,
        AsList(rejected),
        AsList(item_tables),
        AsList(user_tables),
        context,
        **{f"counts_{key}": value for key, value in counts.items()},
    )


def _rejected(
    pipeline: beam.Pipeline,
    job: Job,
    events: Any,
    entities: dict[str, Any],
    duplicates: PCollection,
    values: AsList,
    raw: dict[str, AsList],
    context: FinishContext,
) -> PCollection:
    """Write rejected/*.jsonl; gives (table, reason, rows)."""
    from recsys.ingestion.rejected import describe_duplicates, describe_repeats

    places = {shard.index: shard.file for shard in job.source.events.shards()}
    parts = [
        events[REJECTED] | "Rejected events" >> beam.Map(_tag("events")),
        duplicates
        | "Duplicate events"
        >> beam.FlatMap(describe_duplicates, values, places, job.schema, _names(job.source.events)),
    ]
    one = pipeline | "One more" >> beam.Create([None])
    for key, read in entities.items():
        reader = job.source.items if key == ITEM else job.source.users
        assert reader is not None
        places = {shard.index: shard.file for shard in reader.shards()}
        parts.append(read[REJECTED] | f"Rejected {key}s" >> beam.Map(_tag(f"{key}s")))
        parts.append(one | f"Repeated {key}s" >> beam.FlatMap(describe_repeats, raw[key], key, places, _names(reader)))
    return (
        parts
        | "All rejected" >> beam.Flatten()
        | "Group rejected" >> beam.GroupByKey()
        | "Write rejected" >> beam.FlatMap(write_rejected, context)
    )


def _names(reader: TableReader) -> dict[str, str]:
    return reader.names if isinstance(reader, FileReader) else {}


def _shards(pipeline: beam.Pipeline, name: str, reader: TableReader) -> PCollection:
    shards = pipeline | f"Shards of {name}" >> beam.Create(reader.shards(), reshuffle=False)
    return shards | f"Spread {name}" >> beam.Reshuffle()


def _empty(pipeline: beam.Pipeline, label: str) -> PCollection:
    return pipeline | label >> beam.Create([], reshuffle=False).with_output_types(bytes)


def _ages(schema: Schema) -> bool:
    return any(f.kind is Kind.POINT_IN_TIME and f.statistic is Statistic.AGE for f in schema.fields)


def _same(element: Any) -> Any:
    return element


def _tag(table: str) -> Callable[[Keyed], tuple[str, bytes]]:
    return lambda element: (f"{table}-{element[0]:05d}", element[1])
