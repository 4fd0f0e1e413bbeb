"""What travels between the stages: Arrow record batches as compressed IPC messages.

Beam sees plain bytes, which every runner copies, groups and spills without decoding them.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

_OPTIONS = ipc.IpcWriteOptions(compression="lz4")


def pack(table: pa.Table | pa.RecordBatch) -> bytes:
    """A table or batch as one IPC stream."""
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write(table)
    return sink.getvalue().to_pybytes()


def unpack(message: bytes) -> pa.Table:
    """The table of one IPC stream."""
    return ipc.open_stream(message).read_all()


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
