"""How a process that many threads allocate in gives memory back."""

import contextlib
import ctypes
from collections.abc import Iterator

_ARENA_MAX = -8
_ARENAS = 2


@contextlib.contextmanager
def few_arenas() -> Iterator[None]:
    """Arrow on the C library's allocator, and that one (glibc; elsewhere left as it is) with two arenas, in the block.

    Beam's workers allocate in dozens of threads, each by default in an arena of its own whose free memory no other
    thread can use: on 16 million rows up to a third of a Flink worker's peak. The number of arenas stays afterwards.
    """
    import pyarrow as pa

    before = pa.default_memory_pool()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
