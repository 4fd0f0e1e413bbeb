"""A seed of its own for each named part of a model or job."""

import zlib


def named_seed(seed: int, name: str) -> int:
    """The same in every process, in [0, 2^31)."""
    return (seed * 1_000_003 + zlib.crc32(name.encode())) % (1 << 31)
