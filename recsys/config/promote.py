"""Configuration of what a bundle must prove before it becomes current."""

from typing import Annotated

from pydantic import Field, model_validator

from recsys.config.base import Section


class CalibrationConfig(Section):
    """How well calibrated a ranker must be that stands behind another retrieval model than it was trained beside."""

    predicted_over_observed: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (0.9, 1.1)
    """Predicted clicks over observed ones, from, to."""
    calibration_error: float = Field(default=0.02, ge=0.0)
    """The most that the expected calibration error may exceed what chance alone would show on as many rows."""

    @model_validator(mode="after")
    def _ordered(self) -> "CalibrationConfig":
        low, high = self.predicted_over_observed
        if low > high:
            raise ValueError(f"'predicted_over_observed: [{low}, {high}]' is no range from low to high")
        return self


class PromoteConfig(Section):
    """The gate before `promote`."""

    calibration: CalibrationConfig | None = CalibrationConfig()
    """None: no check. Measured by `recsys evaluate` on the impressions of its split, on the bundle's own towers."""
