"""Configuration of the HTTP endpoint."""

from pydantic import Field

from recsys.config.base import Section


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which is printed."""
    default_k: int = Field(default=10, ge=1)
    """Items in an answer where the request does not say."""
    max_k: int = Field(default=1000, ge=1)
    """The most items that one request may ask for."""
    max_history: int = Field(default=1000, ge=1)
    """The most history items that one request may bring."""
    shutdown_seconds: int = Field(default=10, ge=0)
    """How long requests in flight may still run after SIGTERM."""
