"""Statistics of numeric columns, mergeable."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.schema import Field, Kind, Schema, Side, Statistic


@dataclass(frozen=True)
class Moments:
    """Count, missing, sums (of the values and of their log1p) and extremes of a numeric column."""

    count: int
    missing: int
    sums: tuple[float, float]
    log_sums: tuple[float, float]
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of `[n] float32`, NaN where missing; log1p of what is below 0 counts as 0."""
        known = values[~np.isnan(values)].astype(np.float64)
        logs = np.log1p(np.maximum(known, 0))
        return cls(
            len(known),
            len(values) - len(known),
            (float(known.sum()), float((known**2).sum())),
            (float(logs.sum()), float((logs**2).sum())),
            float(known.min(initial=math.inf)),
            float(known.max(initial=-math.inf)),
        )

    @classmethod
    def merge(cls, parts: Iterable["Moments"]) -> "Moments":
        """Together, in the given order: sums of floats depend on it."""
        parts = list(parts)
        return cls(
            sum(p.count for p in parts),
            sum(p.missing for p in parts),
            (sum(p.sums[0] for p in parts), sum(p.sums[1] for p in parts)),
            (sum(p.log_sums[0] for p in parts), sum(p.log_sums[1] for p in parts)),
            min((p.low for p in parts), default=math.inf),
            max((p.high for p in parts), default=-math.inf),
        )

    def summary(self, with_log: bool) -> dict[str, Any]:
        """For statistics.json: mean, std, min, max, missing; `log1p` with mean and std for counts and ages."""
        mean, std = self._mean_std(self.sums)
        known = self.count > 0
        result: dict[str, Any] = {
            "mean": mean,
            "std": std,
            "min": self.low if known else 0.0,
            "max": self.high if known else 0.0,
            "missing": self.missing,
        }
        if with_log:
            mean, std = self._mean_std(self.log_sums)
            result["log1p"] = {"mean": mean, "std": std}
        return result

    def _mean_std(self, sums: tuple[float, float]) -> tuple[float, float]:
        if not self.count:
            return 0.0, 1.0
        mean = sums[0] / self.count
        return mean, math.sqrt(max(sums[1] / self.count - mean * mean, 0.0))


def event_numbers(schema: Schema) -> tuple[Field, ...]:
    """The numeric columns of events: numeric context, ages and clicks."""
    measured = [f for f in schema.fields if f.kind is Kind.POINT_IN_TIME and f.statistic is not Statistic.CLUSTER]
    return (*schema.of(Side.CONTEXT, Kind.NUMERIC), *measured)
