"""Slow, plain definitions that the fast metrics are held against."""

import math
from itertools import pairwise, permutations


def auc(scores, labels, weights) -> float:
    """Every pair of a positive and a negative row, one after the other."""
    won = pairs = 0.0
    for s, y, w in zip(scores, labels, weights, strict=True):
        for other, z, v in zip(scores, labels, weights, strict=True):
            if y == 1 and z == 0:
                pairs += w * v
                won += w * v * (1.0 if s > other else 0.5 if s == other else 0.0)
    return won / pairs if pairs else math.nan


def log_loss(probabilities, labels, weights) -> float:
    """The definition, row by row."""
    total = 0.0
    for p, y, w in zip(probabilities, labels, weights, strict=True):
        total -= w * math.log(p if y == 1 else 1 - p)
    return total / sum(weights)


def calibration_error(probabilities, labels, weights, bins) -> float:
    """Bins of equal width, one after the other."""
    total = 0.0
    for number in range(bins):
        rows = [
            row
            for row, p in enumerate(probabilities)
            if number <= p * bins < number + 1 or (number == bins - 1 and p >= 1)
        ]
        total += abs(sum(weights[row] * (probabilities[row] - labels[row]) for row in rows))
    return total / sum(weights)


def expected_ndcg(scores, labels, k) -> float:
    """Mean over all orders of the list that its scores allow, of at most 6 rows."""
    rows = range(len(scores))
    found = []
    for order in permutations(rows):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            found.append(sum(labels[row] / math.log2(rank + 2) for rank, row in enumerate(order) if rank < k))
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(int(sum(labels)), k)))
    return sum(found) / len(found) / ideal if ideal else math.nan


def isotonic(values, weights) -> list[float]:
    """Pool adjacent violators, block by block."""
    blocks: list[list[float]] = []  # sum, weight, rows
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, mass, rows = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + mass, blocks[-1][2] + rows]
    return [total / mass for total, mass, rows in blocks for _ in range(int(rows))]
