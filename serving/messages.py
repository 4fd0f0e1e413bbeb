"""What goes over the wire: requests and answers of the HTTP endpoint, checked by pydantic."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Scalar = str | int | float | bool | None
"""A raw value; null means that it is missing."""

RawId = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""A raw user or item id: text, or a whole number that stands for its digits."""


class RecommendRequest(BaseModel):
    """Whom to recommend to: a known user, or what is known of a stranger, or both."""

    model_config = ConfigDict(extra="forbid")

    user: RawId | None = Field(default=None, description="Raw user id.")
    features: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Raw user features by field name; they replace the stored ones."
    )
    context: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="Raw context fields by name, such as the device."
    )
    history: list[RawId] | None = Field(
        default=None, description="Raw item ids, oldest first; they replace the stored history."
    )
    k: int | None = Field(default=None, ge=1, strict=True, description="How many items; default: serve.default_k.")
    exclude_seen: bool = Field(default=True, strict=True, description="Leave out what the user already chose.")

    @model_validator(mode="after")
    def _someone(self) -> "RecommendRequest":
        if self.user is None and not self.features and not self.context and self.history is None:
            raise ValueError("expected a user, or features, context or history of someone unknown")
        return self


class RecommendedItem(BaseModel):
    """One recommended item, best first."""

    item: str
    title: str | None
    score: float = Field(description="Cosine of the query's and the item's vector.")


class RecommendResponse(BaseModel):
    """The answer; `bundle` says which bundle gave it, `known_user` whether that bundle holds the user."""

    bundle: str
    known_user: bool
    known_history: int | None = Field(
        description="How many items of the request's history the catalogue holds; null without one."
    )
    items: list[RecommendedItem]
    timings_ms: dict[str, float] = Field(description="Milliseconds of each step and of all together.")


class Health(BaseModel):
    """State of the server; `bundle` once it is ready."""

    status: str
    bundle: str | None = None
