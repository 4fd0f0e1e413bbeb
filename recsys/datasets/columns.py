"""Shared by the file formats: which columns are wanted, files in blocks of lines, and what was read as batches."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from recsys.datasets.source import RawBatch, RejectedRow
from recsys.errors import UserError

MAX_ROWS = 131_072
"""Rows of a batch at most: enough that the work by batch is vectorised, few enough that batches stay in a few MB."""

RAW_CHARACTERS = 1_000
"""A rejected row is kept up to this length."""


@dataclass(frozen=True)
class Wanted:
    """Canonical name and source column of every column to read; several names may read one column."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def sources(self) -> list[str]:
        """The distinct source columns."""
        return list(dict.fromkeys(source for _, source in self.pairs))

    def check(self, path: str, found: list[str]) -> None:
        """Raise UserError naming the first wanted column that is not among those found in a file."""
        for name, source in self.pairs:
            if source not in found:
                raise UserError(
                    f"{path}: column '{source}' (wanted as '{name}') is missing; the file has "
                    f"{', '.join(map(repr, found)) or 'no columns'}."
                )
            if found.count(source) > 1:
                raise UserError(f"{path}: column '{source}' (wanted as '{name}') appears {found.count(source)} times.")

    def batch(self, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
        """A record batch under canonical names from arrays by source column."""
        return pa.record_batch({name: columns[source] for name, source in self.pairs})


def rejected(path: str, row: int, reason: str, raw: str | bytes) -> RejectedRow:
    """A rejected row; its text is shortened and undecodable bytes are shown as escapes."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return RejectedRow(path, row, reason, text[:RAW_CHARACTERS])


def sliced(
    table: pa.RecordBatch, path: str, rows: pa.Array, rejects: tuple[RejectedRow, ...] = ()
) -> Iterator[RawBatch]:
    """A batch in pieces of at most `MAX_ROWS`; the first one carries the rejected rows, even where it has no row."""
    for start in range(0, max(len(table), 1), MAX_ROWS):
        if start == 0 and not len(table) and not rejects:
            return
        yield RawBatch(table.slice(start, MAX_ROWS), path, rows.slice(start, MAX_ROWS), rejects if start == 0 else ())


def line_blocks(path: str, form: str, block_bytes: int, encoding: str = "utf-8") -> Iterator[bytes]:
    """A file's bytes, as UTF-8, in blocks of about `block_bytes` that end at line ends.

    Raises UserError where the file cannot be read to its end.
    """
    try:
        with pa.input_stream(path, compression="detect") as stream:
            source = stream
            if codecs.lookup(encoding).name != "utf-8":
                source = pa.transcoding_input_stream(stream, encoding, "utf-8")
            rest = b""
            while data := source.read(block_bytes):
                # A carriage return alone ends lines in some old files; the last byte may be the first of a pair.
                end = (data.rfind(b"\n") + 1) or (data.rfind(b"\r", 0, len(data) - 1) + 1)
                if end:
                    yield rest + data[:end]
                    rest = data[end:]
                else:
                    rest += data
            if rest:
                yield rest
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise unreadable(path, form, error) from None


def unreadable(path: str, form: str, error: Exception) -> UserError:
    """The error for a file that breaks while it is read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"{path}: not readable as {form} to its end ({reason}); the file is truncated, damaged or in another format."
    )
