"""Configuration of the HTTP endpoint."""

from recsys.config.base import Section


class ServeConfig(Section):
    """The HTTP endpoint."""
