"""What travels between the stages: Arrow record batches as compressed IPC messages.

Beam sees plain bytes, which every runner copies, groups and spills without decoding them.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

_OPTIONS = ipc.IpcWriteOptions(compression="lz4")
_BASE = b"base"
_STEPS = pa.uint16()


def pack(table: pa.Table | pa.RecordBatch) -> bytes:
    """A table or batch as one IPC stream, its int64 columns narrowed where that loses nothing."""
    narrow = _narrowed(table)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, narrow.schema, options=_OPTIONS) as writer:
        writer.write(narrow)
    return sink.getvalue().to_pybytes()


def unpack(message: bytes) -> pa.Table:
    """The table of one IPC stream."""
    table = ipc.open_stream(message).read_all()
    for place, field in enumerate(table.schema):
        if field.metadata and _BASE in field.metadata:
            values = table.column(place).to_numpy().astype(np.int64)
            if field.type == _STEPS:
                np.cumsum(values, out=values)
            values += int(field.metadata[_BASE])
            table = table.set_column(place, field.name, pa.array(values))
    return table


def _narrowed(table: pa.Table | pa.RecordBatch) -> pa.Table:
    """Times and row keys as steps from row to row (uint16) where they rise slowly, else as offsets (uint32).

    Two thirds of what the shuffles hold would be these two columns. The base goes into the column's metadata.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    for place, field in enumerate(table.schema):
        if field.type != pa.int64() or not table.num_rows or table.column(place).null_count:
            continue
        values = table.column(place).to_numpy()
        steps = np.diff(values, prepend=values[:1])
        base = int(values[0])
        if steps.min() >= 0 and steps.max() <= np.iinfo(np.uint16).max:
            narrow = pa.array(steps.astype(np.uint16))
        else:
            base = int(values.min())
            if int(values.max()) - base > np.iinfo(np.uint32).max:
                continue
            narrow = pa.array((values - base).astype(np.uint32))
        table = table.set_column(place, pa.field(field.name, narrow.type, metadata={_BASE: str(base)}), narrow)
    return table


def gather(messages: Iterable[bytes]) -> pa.Table | None:
    """All rows of many messages in one table without chunks, in arrival order; None where there is no message."""
    tables = [unpack(message) for message in messages]
    if not tables:
        return None
    return pa.concat_tables(tables).combine_chunks()


def column(table: pa.Table | pa.RecordBatch, name: str) -> np.ndarray:
    """A column without nulls as a NumPy array."""
    return table[name].to_numpy()


def take(table: pa.Table, order: np.ndarray) -> pa.Table:
    """Rows in another order, without chunks."""
    return table.take(pa.array(order)).combine_chunks()
