"""The base of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the configuration that rejects keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
