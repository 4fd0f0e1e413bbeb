"""The base of every configuration section."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Device = Literal["auto", "cpu", "gpu"]


class Section(BaseModel):
    """A frozen part of the configuration that rejects keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
