"""Ingestion in slow plain Python, row by row, straight from docs/contracts.md: what the pipeline must equal."""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from recsys.datasets.source import RawSource
from recsys.encoding.clusters import base_clusters
from recsys.encoding.point_in_time import MIN_VOTES
from recsys.ingestion.split import VALIDATION, split_random
from recsys.ingestion.validation import ROW_BITS
from recsys.schema import Field, Kind, Schema, Side, Statistic


@dataclass
class Event:
    """One accepted event, by raw values."""

    user: str
    item: str
    time: int
    value: float
    label: int
    place: int
    key: int
    context: dict[str, Any]
    given: str | None = None
    split: str = "train"
    features: dict[str, Any] = field(default_factory=dict)


def read_rows(reader: Any) -> list[dict[str, Any]]:
    """All rows of a raw table in input order, with file and line."""
    rows = []
    for shard in reader.shards():
        line = 0
        for batch in reader.read(shard):
            for row in batch.table.to_pylist():
                line += 1
                rows.append({**row, "_key": (shard.index << ROW_BITS) + line})
    return rows


def clean(text: Any) -> str | None:
    """Trimmed text, None where empty."""
    return None if text is None or not str(text).strip() else str(text).strip()


def number(text: Any) -> float | None:
    """A float, NaN where missing, None where it is no number."""
    if clean(text) is None:
        return math.nan
    try:
        return float(np.float32(float(text)))
    except ValueError:
        return None


def parts(text: Any) -> list[str]:
    """Values of a multi-valued field."""
    return [] if clean(text) is None else [part for part in str(text).split("|") if part]


def parse(kind: Kind, raw: Any) -> Any:
    """A raw value by kind."""
    return {Kind.NUMERIC: number, Kind.MULTI_VALUED: parts, Kind.CATEGORICAL: clean}[kind](raw)


def accept_events(source: RawSource, schema: Schema, keep_repeats: bool) -> tuple[list[Event], Counter]:
    """Accepted events in input order, and rejected rows by reason."""
    accepted: list[Event] = []
    reasons: Counter = Counter()
    seen = set()
    threshold = float(source.positive.split(">=")[1])
    for place, row in enumerate(read_rows(source.events)):
        user, item, value = clean(row["user"]), clean(row["item"]), number(row["value"])
        time: int | None = 0
        if schema.has_time:
            time = int(row["time"]) if str(row["time"]).isdigit() else None
        context = {f.name: parse(f.kind, row[f.name]) for f in static(schema, Side.CONTEXT)}
        bad = [name for name, parsed in context.items() if parsed is None and schema.field(name).kind is Kind.NUMERIC]
        if user is None:
            reasons["user is missing"] += 1
        elif item is None:
            reasons["item is missing"] += 1
        elif time is None:
            reasons["time is not a time between 1970 and 2109 in 'ms'"] += 1
        elif value is None:
            reasons["value is not a number"] += 1
        elif bad:
            reasons[f"{bad[0]} is not a number"] += 1
        elif (user, item, time) in seen and not keep_repeats:
            reasons["duplicate event"] += 1
        else:
            seen.add((user, item, time))
            label = int(value >= threshold)
            accepted.append(Event(user, item, time, value, label, place, row["_key"], context, row.get("split")))
    return accepted, reasons


def static(schema: Schema, side: Side) -> tuple[Field, ...]:
    """Fields with raw values of one side."""
    return schema.of(side, Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC)


def accept_entities(reader: Any, key: str, fields: tuple[Field, ...]) -> tuple[dict[str, dict], Counter]:
    """Accepted rows of the items or users table by raw id, and rejected rows by reason."""
    rows: dict[str, dict] = {}
    reasons: Counter = Counter()
    for row in read_rows(reader):
        parsed = {f.name: parse(f.kind, row[f.name]) for f in fields}
        bad = [f.name for f in fields if f.kind is Kind.NUMERIC and parsed[f.name] is None]
        if bad:
            reasons[f"{bad[0]} is not a number"] += 1
        elif clean(row[key]) in rows:
            reasons[f"duplicate {key}"] += 1
        else:
            available = clean(row.get("available_from"))
            parsed |= {
                "title": clean(row.get("title")),
                "available_from": None if available is None else int(available),
            }
            rows[clean(row[key])] = parsed
    return rows, reasons


def split_by_time(events: list[Event], validation: float, test: float) -> None:
    """By the times at the ranks of the sorted times."""
    times = sorted(event.time for event in events)
    ranks = [round((1 - validation - test) * len(times)), round((1 - test) * len(times))]
    cuts = [times[rank] if rank < len(times) else times[-1] + 1 for rank in ranks]
    for event in events:
        event.split = "train" if event.time < cuts[0] else "validation" if event.time < cuts[1] else "test"


def split_leave_last_out(events: list[Event]) -> None:
    """From a user's last positive on test, from the one before on validation, where there are three."""
    for user in {event.user for event in events}:
        mine = sorted((e for e in events if e.user == user), key=lambda e: (e.time, e.place))
        positives = [index for index, event in enumerate(mine) if event.label]
        if len(positives) >= 3:
            for index, event in enumerate(mine):
                event.split = "train" if index < positives[-2] else "validation" if index < positives[-1] else "test"


def as_of(time: int, lag: int, refresh: int) -> int:
    """The moment whose features an event sees."""
    return (time // refresh * refresh if refresh else time) - max(lag, 1)


def point_in_time(
    events: list[Event], schema: Schema, catalogue: dict[str, dict], lag: int, refresh: int, seed: int
) -> None:
    """Fill each event's point-in-time fields by looking at all other events."""
    for spec in schema.fields:
        if spec.statistic is Statistic.CLUSTER:
            cluster_of = clusters(events, spec, seed)
    for event in events:
        moment = as_of(event.time, lag, refresh)
        for spec in schema.fields:
            if spec.statistic is Statistic.AGE:
                since = catalogue.get(event.item, {}).get("available_from")
                if since is None:
                    since = min(e.time for e in events if e.item == event.item)
                event.features[spec.name] = float(np.float32(max(moment - since, 0) / 3_600_000))
            elif spec.statistic is Statistic.CLICKS:
                event.features[spec.name] = float(
                    sum(
                        e.item == event.item and e.label == 1 and moment - spec.window_ms < e.time <= moment
                        for e in events
                    )
                )
            elif spec.statistic is Statistic.CLUSTER:
                event.features[spec.name] = cluster_of(event.item, moment)


def clusters(events: list[Event], spec: Field, seed: int) -> Any:
    """A function (item, moment) -> cluster id; only the factorisation of training co-clicks is the library's."""
    pairs = []
    for user in {event.user for event in events}:
        mine = sorted((e for e in events if e.user == user and e.label), key=lambda e: (e.time, e.place))
        for one, two in pairwise(mine):
            if one.item != two.item:
                pairs.append((two.time, one.item, two.item, one.split == two.split == "train"))
    names = sorted({event.item for event in events})
    ids = {name: index for index, name in enumerate(names)}
    pairs.sort(key=lambda pair: (pair[0], ids[pair[1]], ids[pair[2]]))
    train = [pair for pair in pairs if pair[3]]
    items = max((max(ids[a], ids[b]) for _, a, b, _ in pairs), default=-1) + 1
    first, second = (np.array([ids[pair[place]] for pair in train], np.int64) for place in (1, 2))
    base = dict(zip(names, base_clusters(first, second, items, spec.clusters, seed).tolist(), strict=False))

    def cluster_of(item: str, moment: int) -> int:
        step = moment // spec.window_ms  # complete steps lie before this one
        current: dict[str, int] = {}
        seen: Counter = Counter()
        votes: dict[str, Counter] = {}
        for now in sorted({pair[0] // spec.window_ms for pair in pairs}):
            if now >= step:
                break
            before = dict(current)
            members = [pair for pair in pairs if pair[0] // spec.window_ms == now]
            for _, one, two, _ in members:
                for a, b in ((one, two), (two, one)):
                    seen[a] += 1
                    if base.get(a, -1) < 0 and b in before:
                        votes.setdefault(a, Counter())[before[b]] += 1
            for name in {n for pair in members for n in pair[1:3]}:
                if seen[name] >= MIN_VOTES:
                    if base.get(name, -1) >= 0:
                        current[name] = base[name]
                    elif name in votes:
                        current[name] = min(votes[name], key=lambda c: (-votes[name][c], c))
        return current[item] + 3 if item in current else 1

    return cluster_of


def histories(events: list[Event], schema: Schema, lag: int) -> dict[str, dict[str, list]]:
    """Fill each event's sequences with raw items or cluster ids; gives each user's as of the end."""
    ends: dict[str, dict[str, list]] = {}

    def shown(past: list[Event], spec: Field) -> list:
        return [e.item if spec.of == "item" else e.features[spec.of] for e in past][-spec.length :]

    for event in events:
        mine = sorted((e for e in events if e.user == event.user and e.label), key=lambda e: (e.time, e.place))
        if schema.has_time:
            past = [e for e in mine if e.time <= event.time - lag and e.time < event.time]
        else:
            mine = sorted((e for e in mine if e.split != "test"), key=lambda e: (e.split == "validation", e.place))
            past = [e for e in mine if (event.split == "test" or e.split == "train") and e is not event]
        for spec in schema.fields:
            if spec.kind is Kind.SEQUENCE:
                event.features[spec.name] = shown(past, spec)
                ends.setdefault(event.user, {})[spec.name] = shown(mine, spec)
    return ends


def vocabulary(counts: Counter, min_count: int = 0, max_size: int | None = None) -> dict[str, int]:
    """Ids by value: most frequent first, ties by value."""
    ordered = sorted((value for value in counts if counts[value] >= min_count), key=lambda v: (-counts[v], v.encode()))
    return {value: index + 3 for index, value in enumerate(ordered[:max_size])}


def counted(events: list[Event], schema: Schema, entities: dict[str, dict[str, dict]]) -> dict[str, Counter]:
    """Training counts of every vocabulary."""
    result: dict[str, Counter] = {}
    for side, key in (("user", lambda e: e.user), ("item", lambda e: e.item)):
        counts = Counter({key(e): 0 for e in events})
        counts.update(dict.fromkeys(entities[side], 0))
        counts.update(key(e) for e in events if e.split == "train" and e.label)
        result[side] = counts
    for spec in schema.fields:
        if spec.kind not in (Kind.CATEGORICAL, Kind.MULTI_VALUED):
            continue
        counts = result.setdefault(spec.vocabulary_name, Counter())
        if spec.side is Side.CONTEXT:
            for event in events:
                if event.split == "train":
                    counts.update(set(values_of(event.context[spec.name])))
        else:
            for name, row in entities[spec.side].items():
                for value in values_of(row[spec.name]):
                    counts[value] += result[spec.side][name]
    return result


def values_of(parsed: Any) -> list[str]:
    """The values of a categorical or multi-valued cell."""
    return parsed if isinstance(parsed, list) else [] if parsed is None else [parsed]


def encode(spec: Field, parsed: Any, ids: dict[str, dict[str, int]]) -> Any:
    """A parsed value as the data set stores it."""
    if spec.kind is Kind.NUMERIC:
        return parsed
    known = ids[spec.vocabulary_name]
    if spec.kind is Kind.CATEGORICAL:
        return 1 if parsed is None else known.get(parsed, 2)
    return sorted({known.get(value, 2) for value in parsed}) or [1]


def tables(source: RawSource, config: Any, seed: int = 1) -> dict[str, Any]:
    """The whole data set: events by split, items, users, ids by vocabulary, rejected rows by reason."""
    schema = source.schema
    events, reasons = accept_events(source, schema, config.duplicates == "keep")
    entities, entity_reasons = {}, {}
    for key, reader in (("item", source.items), ("user", source.users)):
        entities[key], entity_reasons[key] = accept_entities(reader, key, static(schema, Side(key)))
    if config.split.kind == "time":
        split_by_time(events, config.split.validation, config.split.test)
    elif config.split.kind == "leave_last_out":
        split_leave_last_out(events)
    else:
        for event in events:
            event.split = event.given or "train"
        rank = {item: place for place, item in enumerate(sorted({e.item for e in events}))}
        places = np.array([e.key for e in events]), np.array([rank[e.item] for e in events])
        moved = split_random(*places, config.split.validation, 0.0, seed)
        for event, part in zip(events, moved, strict=True):
            event.split = "validation" if event.split == "train" and part == VALIDATION else event.split
    if schema.has_time:
        point_in_time(events, schema, entities["item"], config.lag_ms, config.refresh_ms, seed)
    ends = histories(events, schema, config.lag_ms)
    counts = counted(events, schema, entities)
    ids = {}
    for name in schema.vocabularies:
        owner = next((f for f in schema.fields if f.name == name), None)
        if name in ("user", "item"):
            ids[name] = vocabulary(counts[name])
        else:
            ids[name] = vocabulary(counts[name], max(owner.min_count, 1), owner.max_size)
    result: dict[str, Any] = {"ids": ids, "reasons": reasons, "entity_reasons": entity_reasons, "counts": counts}
    for split in ("train", "validation", "test"):
        mine = sorted((e for e in events if e.split == split), key=lambda e: (e.time, e.place))
        result[split] = [event_row(event, schema, ids) for event in mine]
    result["items"] = [item_row(name, schema, entities["item"].get(name), ids, counts, events) for name in ids["item"]]
    result["users"] = [
        user_row(name, schema, entities["user"].get(name), ids, counts, ends.get(name, {})) for name in ids["user"]
    ]
    return result


def event_row(event: Event, schema: Schema, ids: dict) -> dict[str, Any]:
    """One row of events/*.parquet."""
    row: dict[str, Any] = {
        "user": ids["user"][event.user],
        "item": ids["item"][event.item],
        "time": event.time,
        "label": event.label,
        "value": event.value,
    }
    for spec in schema.fields:
        if spec.side is Side.CONTEXT:
            row[spec.name] = encode(spec, event.context[spec.name], ids)
        elif spec.kind is Kind.SEQUENCE:
            shown = event.features[spec.name]
            row[spec.name] = [ids["item"][value] for value in shown] if spec.of == "item" else shown
        elif spec.kind is Kind.POINT_IN_TIME:
            row[spec.name] = event.features[spec.name]
    return row


def item_row(name: str, schema: Schema, raw: dict | None, ids: dict, counts: dict, events: list[Event]) -> dict:
    """One row of items/*.parquet."""
    seen = [e.time for e in events if e.item == name]
    available = (raw or {}).get("available_from")
    if available is None:
        available = min(seen) if seen and schema.has_time else 0
    row = {
        "item": ids["item"][name],
        "raw": name,
        "title": (raw or {}).get("title"),
        "count": counts["item"][name],
        "available_from": available,
    }
    return row | {f.name: encode(f, missing(f, raw), ids) for f in static(schema, Side.ITEM)}


def user_row(name: str, schema: Schema, raw: dict | None, ids: dict, counts: dict, ends: dict) -> dict:
    """One row of users/*.parquet."""
    row = {"user": ids["user"][name], "raw": name, "count": counts["user"][name]}
    row |= {f.name: encode(f, missing(f, raw), ids) for f in static(schema, Side.USER)}
    for spec in schema.fields:
        if spec.kind is Kind.SEQUENCE:
            shown = ends.get(spec.name, [])
            row[spec.name] = [ids["item"][value] for value in shown] if spec.of == "item" else shown
    return row


def missing(spec: Field, raw: dict | None) -> Any:
    """A field's parsed value, or what stands for none."""
    if raw is not None:
        return raw[spec.name]
    return math.nan if spec.kind is Kind.NUMERIC else [] if spec.kind is Kind.MULTI_VALUED else None
