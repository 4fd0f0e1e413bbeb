"""Configuration of how they are trained."""

from recsys.config.base import Section


class TrainConfig(Section):
    """How they are trained."""
