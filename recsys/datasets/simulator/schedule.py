"""Drift on a schedule: what is added to the log-odds of a click, by field value or along the hidden groups."""

import numpy as np

from recsys.config.simulator import Drift, SimulatorData
from recsys.datasets.simulator.catalogue import Catalogue


def profile(drift: Drift, day: np.ndarray) -> np.ndarray:
    """The course of a drift at times in days since the start, any shape: a factor of its strength, in [-1, 1]."""
    if drift.kind == "seasonal":
        assert drift.period_days is not None  # checked by the configuration
        return np.where(day >= drift.day, np.sin(2 * np.pi * (day - drift.day) / drift.period_days), 0.0)
    if drift.kind == "gradual":
        assert drift.until is not None
        return np.clip((day - drift.day) / (drift.until - drift.day), 0.0, 1.0)
    return ((day >= drift.day) & (day < (np.inf if drift.until is None else drift.until))).astype(np.float64)


def members(drift: Drift, catalogue: Catalogue) -> np.ndarray:
    """Which items a drift touches, `[items] bool`."""
    if drift.along == "latent":
        return catalogue.hidden
    return (catalogue.category if drift.along == "category" else catalogue.brand) == drift.value


def field_offset(config: SimulatorData, catalogue: Catalogue, day: float) -> np.ndarray:
    """Sum of the drifts along fields at one time, `[items] float64`; latent drift has no mean effect, so none here."""
    offset = np.zeros(len(catalogue))
    for drift in config.drift:
        if drift.along != "latent":
            offset += drift.strength * float(profile(drift, np.asarray(day))) * members(drift, catalogue)
    return offset


def offsets(
    config: SimulatorData, catalogue: Catalogue, item: np.ndarray, day: np.ndarray, half: np.ndarray
) -> np.ndarray:
    """Sum of all drifts `[n] float32` for shown items, the time in days and the user's hidden half (+1 or -1)."""
    total = np.zeros(len(item), np.float32)
    for drift in config.drift:
        touched = np.flatnonzero(members(drift, catalogue)[item])
        effect = drift.strength * profile(drift, day[touched])
        total[touched] += effect * half[touched] if drift.along == "latent" else effect
    return total
