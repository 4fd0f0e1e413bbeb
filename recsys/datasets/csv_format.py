"""Reading CSV: every column as text, malformed lines set aside with their line number."""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys.datasets.columns import Wanted, rejected, sliced, unreadable
from recsys.datasets.source import RawBatch, RejectedRow
from recsys.errors import UserError

_BLOCK_BYTES = 4 << 20
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class CsvFormat:
    """How a CSV file is written; `header` names its columns where its first line does not."""

    delimiter: str = ","
    header: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    quoted: bool = True
    multiline: bool = False
    missing: tuple[str, ...] = ("",)

    def read(self, path: str, wanted: Wanted) -> Iterator[RawBatch]:
        """The rows of a file in order, all values text or null.

        `rows` are 1-based line numbers (with `multiline`: row numbers, the header being row 1). A line with another
        number of values than the header, or with bytes that are not text in `encoding`, is rejected.
        """
        wanted.check(path, self._columns(path))
        malformed: list[pa_csv.InvalidRow] = []

        def skip(row: pa_csv.InvalidRow) -> str:
            malformed.append(row)
            return "skip"

        try:
            with pa.input_stream(path, compression="detect") as stream:
                reader = pa_csv.open_csv(
                    stream,
                    read_options=pa_csv.ReadOptions(
                        use_threads=False,  # only then are malformed rows numbered
                        block_size=_BLOCK_BYTES,
                        column_names=list(self.header) if self.header else None,
                        encoding=self.encoding,
                    ),
                    parse_options=pa_csv.ParseOptions(
                        delimiter=self.delimiter,
                        quote_char='"' if self.quoted else False,
                        newlines_in_values=self.multiline,
                        ignore_empty_lines=False,  # so that rows are counted as lines
                        invalid_row_handler=skip,
                    ),
                    convert_options=pa_csv.ConvertOptions(
                        include_columns=wanted.sources,
                        # Binary, as one value that is not UTF-8 would fail the whole file.
                        column_types={name: pa.binary() for name in wanted.sources},
                        strings_can_be_null=True,
                        null_values=list(self.missing),
                    ),
                )
                yield from self._batches(path, wanted, reader, malformed)
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            raise unreadable(path, "CSV", error) from None

    def _batches(
        self, path: str, wanted: Wanted, reader: pa_csv.CSVStreamingReader, malformed: list[pa_csv.InvalidRow]
    ) -> Iterator[RawBatch]:
        seen = 0 if self.header else 1  # lines before the next row: the header is line 1
        for batch in reader:
            rows, seen = _line_numbers(len(batch), seen, np.array([row.number for row in malformed], np.int64))
            before = [row for row in malformed if row.number < seen]
            del malformed[: len(before)]
            table, rows, undecodable = _decoded(batch, rows, path)
            columns = {name: table.column(name) for name in wanted.sources}
            rejects = _misshapen(path, before) + undecodable
            yield from sliced(wanted.batch(columns), path, pa.array(rows), rejects)
        if malformed:
            nothing = wanted.batch(dict.fromkeys(wanted.sources, pa.array([], pa.string())))
            yield from sliced(nothing, path, pa.array([], pa.int64()), _misshapen(path, malformed))

    def _columns(self, path: str) -> list[str]:
        """The column names of a file."""
        if self.header:
            return list(self.header)
        try:
            with pa.input_stream(path, compression="detect") as stream:
                head = stream.read(_HEADER_BYTES)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise unreadable(path, "CSV", error) from None
        text = codecs.getincrementaldecoder(self.encoding)("replace").decode(head).removeprefix("\ufeff")
        names = next(csv.reader(text.splitlines(), delimiter=self.delimiter), None)
        if not names:
            raise UserError(
                f"{path}: empty; expected a first line with column names, or 'header' in the configuration."
            )
        return names


def _misshapen(path: str, rows: list[pa_csv.InvalidRow]) -> tuple[RejectedRow, ...]:
    return tuple(
        rejected(path, row.number, f"{row.actual_columns} values, expected {row.expected_columns}", row.text)
        for row in rows
    )


def _line_numbers(count: int, seen: int, skipped: np.ndarray) -> tuple[np.ndarray, int]:
    """Line numbers `[count] int64` of the next rows after line `seen`, stepping over the `skipped` lines, and the last.

    The k-th accepted row stands `j` lines further where `j` skipped lines precede it; a skipped line at sorted position
    j precedes the rows from `skipped[j] - j - seen - 1` on.
    """
    skipped = np.sort(skipped)
    firsts = skipped - np.arange(len(skipped)) - seen - 1
    order = np.arange(count, dtype=np.int64)
    rows = seen + 1 + order + np.searchsorted(firsts, order, side="right")
    return rows, int(rows[-1]) if count else seen


def _decoded(
    batch: pa.RecordBatch, rows: np.ndarray, path: str
) -> tuple[pa.RecordBatch, np.ndarray, tuple[RejectedRow, ...]]:
    """The batch as text; rows with bytes that are not UTF-8 are left out and rejected."""
    text = pa.schema([(name, pa.string()) for name in batch.schema.names])
    try:
        return batch.cast(text), rows, ()
    except pa.ArrowInvalid:
        bad = {index: name for name in batch.schema.names for index in _not_text(batch.column(name))}
    rejects = tuple(
        rejected(
            path, int(rows[index]), f"column '{bad[index]}' is not UTF-8 text", batch.column(bad[index])[index].as_py()
        )
        for index in sorted(bad)
    )
    kept = np.setdiff1d(np.arange(len(batch)), np.fromiter(bad, np.int64))
    return batch.take(pa.array(kept)).cast(text), rows[kept], rejects


def _not_text(column: pa.Array) -> list[int]:
    """Positions of the values that are not UTF-8, found by halving, so only bad values cost time."""
    pending, found = [(0, len(column))], []
    while pending:
        start, stop = pending.pop()
        try:
            column.slice(start, stop - start).cast(pa.string())
        except pa.ArrowInvalid:
            if stop - start == 1:
                found.append(start)
            else:
                middle = (start + stop) // 2
                pending += [(start, middle), (middle, stop)]
    return found
