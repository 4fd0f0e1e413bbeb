"""Configuration of how raw data becomes a data set."""

from recsys.config.base import Section


class IngestConfig(Section):
    """How raw data becomes a data set."""
