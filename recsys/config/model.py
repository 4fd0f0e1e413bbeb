"""Configuration of the towers."""

from recsys.config.base import Section


class ModelConfig(Section):
    """The towers."""
