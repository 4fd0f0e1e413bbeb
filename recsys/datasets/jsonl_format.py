"""Reading JSON Lines: every value as text (lists as lists of text), broken lines set aside with their number."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from recsys.datasets.columns import Wanted, line_blocks, rejected, sliced
from recsys.datasets.source import RawBatch, RejectedRow

_BLOCK_BYTES = 8 << 20


def read_jsonl(path: str, wanted: Wanted) -> Iterator[RawBatch]:
    """The rows of a file in order; a key that a line lacks is null there.

    Raises UserError where the first block of the file has a wanted key in no line at all. A line that is not a JSON
    object, or that holds an object where a plain value or a list is wanted, is rejected.
    """
    line = 1
    for number, block in enumerate(line_blocks(path, "JSON Lines", _BLOCK_BYTES)):
        count = block.count(b"\n") + (not block.endswith(b"\n"))
        lines = np.arange(line, line + count, dtype=np.int64)
        line += count
        parsed = _parse(block)
        rejects: tuple[RejectedRow, ...] = ()
        if parsed is not None and parsed.num_rows == count:
            found, columns = (
                parsed.column_names,
                {name: _as_text(parsed[name]) for name in wanted.sources if name in parsed.column_names},
            )
        else:
            objects, lines, rejects = _line_by_line(block, lines, path, wanted.sources)
            found = list(dict.fromkeys(key for row in objects for key in row))
            columns = {name: _column(objects, name) for name in wanted.sources}
        if number == 0 and (len(lines) or not rejects):
            wanted.check(path, found)
        nulls = pa.nulls(len(lines), pa.string())
        table = wanted.batch({name: columns.get(name, nulls) for name in wanted.sources})
        yield from sliced(table, path, pa.array(lines), rejects)


def _parse(block: bytes) -> pa.Table | None:
    """A block of well-formed lines as a table; None where some line is not, or where lines disagree on a type."""
    read = pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1)
    try:
        table = pa_json.read_json(io.BytesIO(block), read_options=read)
        # Arrow reads text that looks like a time as a time; ingestion wants it as it was written.
        times = [pa.field(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
        if times:
            parse = pa_json.ParseOptions(explicit_schema=pa.schema(times))
            table = pa_json.read_json(io.BytesIO(block), read_options=read, parse_options=parse)
    except pa.ArrowException:
        return None
    return None if any(_has_no_text(field.type) for field in table.schema) else table


def _has_no_text(kind: pa.DataType) -> bool:
    """Whether values of this type must be looked at one by one: objects, lists of lists, times inside lists."""
    if pa.types.is_list(kind):
        kind = kind.value_type
        return pa.types.is_nested(kind) or pa.types.is_timestamp(kind)
    return pa.types.is_nested(kind)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Scalars as text, lists as lists of text."""
    array = column.combine_chunks()
    return array.cast(pa.list_(pa.string()) if pa.types.is_list(array.type) else pa.string())


def _line_by_line(
    block: bytes, lines: np.ndarray, path: str, names: list[str]
) -> tuple[list[dict[str, Any]], np.ndarray, tuple[RejectedRow, ...]]:
    """The good lines of a block that Arrow refused, as objects, their line numbers, and the rejected lines."""
    objects, numbers, rejects = [], [], []
    for line, text in zip(lines.tolist(), block.removesuffix(b"\n").split(b"\n"), strict=True):
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, found {type(row).__name__}")
            for name in names:
                _check_plain(name, row.get(name))
        except ValueError as error:
            reason = "empty line" if not text.strip() else f"not a JSON object with plain values ({error})"
            rejects.append(rejected(path, line, reason, text))
        else:
            objects.append(row)
            numbers.append(line)
    return objects, np.array(numbers, np.int64), tuple(rejects)


def _check_plain(name: str, value: Any) -> None:
    inner = value if isinstance(value, list) else [value]
    if any(isinstance(part, dict | list) for part in inner):
        raise ValueError(f"'{name}' holds an object or a list of lists")


def _column(objects: list[dict[str, Any]], name: str) -> pa.Array:
    """One key of all objects as text; as lists of text where any object has a list there."""
    values = [row.get(name) for row in objects]
    if any(isinstance(value, list) for value in values):
        lists = [None if value is None else value if isinstance(value, list) else [value] for value in values]
        texts = [None if value is None else [_text(part) for part in value] for value in lists]
        return pa.array(texts, pa.list_(pa.string()))
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
