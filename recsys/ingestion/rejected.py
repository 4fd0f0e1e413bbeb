"""Rows that are rejected after reading: repeats of an event or of an item's or user's id."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from recsys.ingestion.elements import column, pack, unpack
from recsys.ingestion.encode import Provisional
from recsys.ingestion.validation import ROW, ROW_BITS, rejected_table
from recsys.ingestion.vocabularies import entity_table
from recsys.schema import ITEM, TIME, USER, Schema

DUPLICATE_EVENT = "duplicate event"
_LINE = (1 << ROW_BITS) - 1


def describe_duplicates(
    message: bytes, values: list[tuple[str, bytes]], places: dict[int, str], schema: Schema, names: Mapping[str, str]
) -> Iterator[tuple[str, bytes]]:
    """(name of the file in rejected/, packed rejected rows) of packed keys of repeated events.

    `names`: the file's own names of the columns, by canonical name.
    """
    table = unpack(message)
    provisional = Provisional(values, (USER, ITEM))
    columns: dict[str, list] = {
        names.get(key, key): provisional.values[key].take(table[key].combine_chunks()).to_pylist()
        for key in (USER, ITEM)
    }
    if schema.has_time:
        columns["time_ms"] = table[TIME].to_pylist()
    raw = [
        json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
        for row in zip(*columns.values(), strict=True)
    ]
    yield from _by_shard("events", column(table, ROW).tolist(), raw, DUPLICATE_EVENT, places)


def describe_repeats(
    _: None, messages: list[bytes], key: str, places: dict[int, str], names: Mapping[str, str]
) -> Iterator[tuple[str, bytes]]:
    """The same for rows of the items or users table whose id stood before."""
    _, repeats = entity_table(messages, key)
    if repeats is None or not repeats.num_rows:
        return
    repeats = repeats.rename_columns([names.get(name, name) for name in repeats.column_names])
    raw = [json.dumps(row, ensure_ascii=False) for row in repeats.drop_columns([ROW]).to_pylist()]
    yield from _by_shard(f"{key}s", column(repeats, ROW).tolist(), raw, f"duplicate {key}", places)


def _by_shard(
    table: str, rows: list[int], raw: list[str], reason: str, places: dict[int, str]
) -> Iterator[tuple[str, bytes]]:
    by_shard: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        by_shard.setdefault(row >> ROW_BITS, []).append(place)
    for shard, chosen in by_shard.items():
        lines = [rows[place] & _LINE for place in chosen]
        described = rejected_table(
            [places[shard]] * len(chosen), lines, [reason] * len(chosen), [raw[p] for p in chosen]
        )
        yield f"{table}-{shard:05d}", pack(described)


def lines(messages: Iterable[bytes]) -> tuple[list[str], dict[str, int]]:
    """JSON lines of packed rejected rows by file and row, and how many rows had each reason."""
    rows = [row for message in messages for row in unpack(message).to_pylist()]
    rows.sort(key=lambda row: (row["file"], row["row"], row["reason"]))
    reasons: dict[str, int] = {}
    for row in rows:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return [json.dumps(row, ensure_ascii=False) for row in rows], reasons


def examples(folder: Path, table: str, reasons: set[str]) -> dict[str, tuple[str, int]]:
    """(file, row) of the first row listed in `folder` for each reason, for one of events, items and users."""
    wanted = {json.dumps(reason, ensure_ascii=False): reason for reason in reasons}
    found: dict[str, tuple[str, int]] = {}
    for path in sorted(folder.glob(f"{table}-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if len(found) == len(wanted):
                    return found
                # There may be millions of lines: only one that can be the first of its reason is parsed.
                if any(text in line for text, reason in wanted.items() if reason not in found):
                    row = json.loads(line)
                    if row["reason"] in reasons:
                        found.setdefault(row["reason"], (row["file"], row["row"]))
    return found
