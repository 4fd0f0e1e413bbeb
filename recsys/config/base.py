"""The base of every configuration section."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python

Device = Literal["auto", "cpu", "gpu"]


class Section(BaseModel):
    """A frozen part of the configuration that rejects keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def every_setting(self) -> dict[str, Any]:
        """All settings as JSON values, for people: those too that a dump leaves out at their default.

        A dump, by which runs are told apart, leaves newer settings out at their default so that older runs stay the
        same.
        """
        dumped = self.model_dump(mode="json")
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                dumped[name] = value.every_setting()
            elif name not in dumped:
                dumped[name] = to_jsonable_python(value)
        return {name: dumped[name] for name in type(self).model_fields}
