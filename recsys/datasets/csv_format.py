"""Reading CSV: every column as text, malformed lines set aside with their line number."""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys.datasets.columns import Wanted, line_blocks, rejected, sliced, unreadable
from recsys.datasets.source import RawBatch, RejectedRow
from recsys.errors import UserError

_BLOCK_BYTES = 4 << 20
_HEADER_BYTES = 1 << 20
_OPEN = "a quote opens a value and is not closed on the line ('multiline' is for values with line ends)"


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
        number of values than the header, with bytes that are not text in `encoding`, or (without `multiline`) with a
        quote that it does not close, is rejected. No line is lost: each is a row or rejected.
        """
        names = self._columns(path)
        wanted.check(path, names)
        yield from self._multiline(path, wanted) if self.multiline else self._lines(path, wanted, names)

    def _lines(self, path: str, wanted: Wanted, names: list[str]) -> Iterator[RawBatch]:
        """Every line is a row."""
        before = 0  # lines before the block
        for block in line_blocks(path, "CSV", _BLOCK_BYTES, self.encoding):
            if not before:
                block = block.removeprefix(codecs.BOM_UTF8)
                if not self.header:
                    before, block = 1, block[len(block.splitlines(keepends=True)[0]) :]
            if not block:
                continue
            parsed, count, broken = self._parse(path, block, wanted, names)
            numbers = np.arange(before + 1, before + 1 + count, dtype=np.int64)
            numbers = np.delete(numbers, list(broken)) if broken else numbers
            before += count
            skipped = [row.number - 1 for row in parsed.malformed]
            rejects = [rejected(path, before - count + 1 + line, _OPEN, text) for line, text in broken.items()]
            rejects += _misshapen(path, numbers[skipped].tolist(), parsed.malformed)
            rows = np.delete(numbers, skipped) if skipped else numbers
            table, rows, undecodable = _decoded(parsed.rows, rows, path)
            columns = {name: table.column(name) for name in wanted.sources}
            yield from sliced(wanted.batch(columns), path, pa.array(rows), (*rejects, *undecodable))

    def _parse(
        self, path: str, block: bytes, wanted: Wanted, names: list[str]
    ) -> tuple["_Parsed", int, dict[int, bytes]]:
        """A block's rows, how many lines it has, and by place those whose quote they do not close.

        Such a quote makes the parser read on over line ends, which shows in its having found fewer rows than lines:
        only then are lines looked at one by one.
        """
        parsed = self._parse_rows(path, block, wanted, names)
        if not self.quoted or b'"' not in block:
            return parsed, len(parsed), {}
        lines = block.count(b"\n") + (not block.endswith((b"\n", b"\r")))
        if b"\r" in block:
            lines += block.count(b"\r") - block.count(b"\r\n")
        closed = _closed_line(self.delimiter)
        last = block[block.rfind(b"\n", 0, len(block) - 1) + 1 :].splitlines()[-1]
        if len(parsed) == lines and closed.fullmatch(last):
            return parsed, lines, {}
        texts = block.splitlines()
        broken = {line: text for line, text in enumerate(texts) if b'"' in text and not closed.fullmatch(text)}
        whole = b"".join(text + b"\n" for line, text in enumerate(texts) if line not in broken)
        parsed = self._parse_rows(path, whole, wanted, names)
        if len(parsed) + len(broken) != lines:
            raise unreadable(path, "CSV", ValueError(f"{lines} lines gave {len(parsed) + len(broken)} rows"))
        return parsed, lines, broken

    def _parse_rows(self, path: str, block: bytes, wanted: Wanted, names: list[str]) -> "_Parsed":
        malformed: list[pa_csv.InvalidRow] = []
        if not block:
            return _Parsed(_no_rows(wanted), malformed)
        read = pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names)
        try:
            table = pa_csv.read_csv(pa.BufferReader(block), read, self._parsing(malformed), self._conversion(wanted))
        except pa.ArrowException as error:
            raise unreadable(path, "CSV", error) from None
        batches = table.to_batches() if table[0].num_chunks == 1 else table.combine_chunks().to_batches()
        return _Parsed(batches[0] if batches else _no_rows(wanted), malformed)

    def _parsing(self, malformed: list[pa_csv.InvalidRow]) -> pa_csv.ParseOptions:
        def skip(row: pa_csv.InvalidRow) -> str:
            malformed.append(row)
            return "skip"

        return pa_csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.multiline,
            ignore_empty_lines=False,  # so that rows are counted as lines
            invalid_row_handler=skip,
        )

    def _conversion(self, wanted: Wanted) -> pa_csv.ConvertOptions:
        return pa_csv.ConvertOptions(
            include_columns=wanted.sources,
            # Binary, as one value that is not UTF-8 would fail the whole file.
            column_types={name: pa.binary() for name in wanted.sources},
            strings_can_be_null=True,
            null_values=list(self.missing),
        )

    def _multiline(self, path: str, wanted: Wanted) -> Iterator[RawBatch]:
        """Rows may go over line ends inside of quotes, so they are numbered, not lines."""
        malformed: list[pa_csv.InvalidRow] = []
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
                    parse_options=self._parsing(malformed),
                    convert_options=self._conversion(wanted),
                )
                yield from self._batches(path, wanted, reader, malformed)
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            raise unreadable(path, "CSV", error) from None

    def _batches(
        self, path: str, wanted: Wanted, reader: pa_csv.CSVStreamingReader, malformed: list[pa_csv.InvalidRow]
    ) -> Iterator[RawBatch]:
        seen = 0 if self.header else 1  # rows before the next one: the header is row 1
        for batch in reader:
            rows, seen = _row_numbers(len(batch), seen, np.array([row.number for row in malformed], np.int64))
            before = [row for row in malformed if row.number < seen]
            del malformed[: len(before)]
            table, rows, undecodable = _decoded(batch, rows, path)
            columns = {name: table.column(name) for name in wanted.sources}
            rejects = _misshapen(path, [row.number for row in before], before)
            yield from sliced(wanted.batch(columns), path, pa.array(rows), (*rejects, *undecodable))
        if malformed:
            nothing = wanted.batch(dict.fromkeys(wanted.sources, pa.array([], pa.string())))
            rejects = _misshapen(path, [row.number for row in malformed], malformed)
            yield from sliced(nothing, path, pa.array([], pa.int64()), tuple(rejects))

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
        lines = text.splitlines() if self.multiline else text.splitlines()[:1]
        names = next(csv.reader(lines, delimiter=self.delimiter), None)
        if not names:
            raise UserError(
                f"{path}: empty; expected a first line with column names, or 'header' in the configuration."
            )
        return names


@dataclass(frozen=True)
class _Parsed:
    """The rows of a block, and those that have another number of values."""

    rows: pa.RecordBatch
    malformed: list[pa_csv.InvalidRow]

    def __len__(self) -> int:
        return len(self.rows) + len(self.malformed)


def _no_rows(wanted: Wanted) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array([], pa.binary()) for name in wanted.sources})


@cache
def _closed_line(delimiter: str) -> re.Pattern[bytes]:
    """A line that ends outside of quotes; as the parser has it, a quote counts only where a value begins with it."""
    other = rb"[^%s]*+" % re.escape(delimiter.encode())
    value = rb'(?:"(?:[^"]++|"")*+"%s|(?!")%s)' % (other, other)
    return re.compile(rb"%s(?:%s%s)*+" % (value, re.escape(delimiter.encode()), value))


def _misshapen(path: str, places: list[int], rows: list[pa_csv.InvalidRow]) -> list[RejectedRow]:
    return [
        rejected(
            path, place, f"{row.actual_columns} values{_over(row.text)}, expected {row.expected_columns}", row.text
        )
        for place, row in zip(places, rows, strict=True)
    ]


def _over(text: str) -> str:
    """How many lines a row goes over: with `multiline`, a quote that is not closed swallows what follows."""
    lines = len(text.splitlines())
    return f" over {lines} lines (is a quote not closed?)" if lines > 1 else ""


def _row_numbers(count: int, seen: int, skipped: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers `[count] int64` of the next rows after row `seen`, stepping over the `skipped` ones, and the last.

    The k-th accepted row stands `j` rows further where `j` skipped ones precede it; a skipped row at sorted position
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
