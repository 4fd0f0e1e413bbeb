"""Slow, plain float64 definitions that the fast code is held against."""

import math
from collections.abc import Sequence

import numpy as np


def best(scores: Sequence[float], k: int, banned: set[int]) -> list[int]:
    """Columns by falling score, ties by rising column."""
    allowed = [c for c in range(len(scores)) if c not in banned and scores[c] > -math.inf]
    return sorted(allowed, key=lambda c: (-scores[c], c))[:k]


def recall(shown: list[int], targets: set[int], k: int) -> float:
    return len(set(shown[:k]) & targets) / len(targets)


def hit_rate(shown: list[int], targets: set[int], k: int) -> float:
    return float(bool(set(shown[:k]) & targets))


def mrr(shown: list[int], targets: set[int], k: int) -> float:
    for rank, column in enumerate(shown[:k], start=1):
        if column in targets:
            return 1.0 / rank
    return 0.0


def ndcg(shown: list[int], targets: set[int], k: int) -> float:
    gained = sum(1.0 / math.log2(1 + rank) for rank, column in enumerate(shown[:k], start=1) if column in targets)
    ideal = sum(1.0 / math.log2(1 + rank) for rank in range(1, min(len(targets), k) + 1))
    return gained / ideal


def ragged(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists as offsets and columns."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return offsets, np.array([c for row in rows for c in row], np.int64)
