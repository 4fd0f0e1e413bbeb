"""Configuration of where raw data comes from."""

from recsys.config.base import Section


class DataConfig(Section):
    """Where raw data comes from."""
