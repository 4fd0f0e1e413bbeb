"""Parameters of the simulated shop (recsys/datasets/simulator, docs/simulator.md)."""

from datetime import datetime
from typing import Annotated, Literal

import pydantic
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from recsys.config.base import Section

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
_CONVERSION_RATE = 0.2


class Drift(Section):
    """One change of taste on the schedule, as an addition to the log-odds of a click.

    `along` is an item field (`category` or `brand`), whose value `value` gains `strength`; or `latent`: a hidden half
    of the users comes to like a hidden group of items by `strength` and the other half to dislike it by as much, and no
    field shows who or which. `abrupt` holds from `day` to `until` (default: the end), `gradual` grows linearly from
    `day` to `until` and stays, `seasonal` follows a sine of `period_days` that starts at zero, rising, at `day`.
    """

    kind: Literal["abrupt", "gradual", "seasonal"]
    along: Literal["category", "brand", "latent"]
    value: NonNegativeInt | None = None
    day: NonNegativeFloat = 0.0
    until: PositiveFloat | None = None
    period_days: PositiveFloat | None = None
    strength: float

    @model_validator(mode="after")
    def _complete(self) -> "Drift":
        if self.along != "latent" and self.value is None:
            raise ValueError(f"drift along '{self.along}' needs 'value', the number of the field's value")
        if self.kind == "seasonal" and self.period_days is None:
            raise ValueError("seasonal drift needs 'period_days'")
        if self.kind == "gradual" and (self.until is None or self.until <= self.day):
            raise ValueError("gradual drift needs 'until', a day after 'day'")
        return self


class SimulatorData(Section):
    """Size and habits of the shop; the defaults make two weeks of a middling one.

    Catalogue: `items` at the start and `new_items_per_day` more each day, in `clusters` taste clusters of a
    `latent_dim`-dimensional space. Fields: `categories`, `brands` and `tags` values follow the clusters but for a share
    `field_noise` drawn at random, `segments` likewise among users; `noise_*_fields` fields of `noise_values` values
    depend on nothing. A share `hidden_items` of the catalogue is the hidden group of latent drift.

    Traffic: users' activity is log-normal with deviation `activity_sigma`; a session has a log-normal number of
    requests (rounded up), with log-normal gaps of at least `gap_floor_s`; by night traffic falls by `daily_swing`.

    Exposure: a request shows `list_length` items. A share `exploration` of the slots is uniform over what is on sale, a
    share `personalisation` comes from the session's taste cluster, the rest from the whole catalogue; both by
    popularity, log-normal with deviation `popularity_sigma`, halved every half-life of the item (log-normal, median
    `life_half_life_hours`, log-deviation `life_sigma`; not where there are no new items), times the exponential of
    `drift_response` times yesterday's drift of the item's fields.

    Clicks: the log-odds that an examined item is clicked add up `taste` times the (unit variance) affinity of user and
    item, `intent` where the item is in the session's cluster, `quality_effect` times its standardised popularity,
    `price_effect` times price against budget, `context_effect` times device and hour, and the drift, around a constant
    such that shown items are clicked with mean probability `click_rate` at position 1. Position p is examined with
    probability p^-`position_bias`. A click is reported after a log-normal delay, the next click of the same list after
    a further one of at least `gap_floor_s`.

    Conversions, where `conversions`: a click is followed by one with a probability that falls with the price, more so
    for the thrifty, and rises with the affinity, around a constant such that the clicks' mean is `conversion_rate`.
    """

    users: PositiveInt = 20_000
    items: PositiveInt = 2_000
    new_items_per_day: NonNegativeInt = 50
    days: PositiveInt = 14
    impressions: PositiveInt = 2_000_000
    start: datetime = datetime(2024, 1, 1)
    list_length: PositiveInt = 10

    clusters: PositiveInt = 24
    latent_dim: PositiveInt = 16
    tastes_per_user: PositiveFloat = 2.0
    categories: PositiveInt = 12
    brands: PositiveInt = 60
    tags: PositiveInt = 100
    segments: PositiveInt = 8
    field_noise: Share = 0.1
    noise_item_fields: NonNegativeInt = 2
    noise_user_fields: NonNegativeInt = 2
    noise_context_fields: NonNegativeInt = 1
    noise_values: PositiveInt = 20
    hidden_items: Share = 0.15

    activity_sigma: NonNegativeFloat = 1.0
    session_median: PositiveFloat = 3.0
    session_sigma: NonNegativeFloat = 0.8
    gap_median_s: PositiveFloat = 60.0
    gap_sigma: NonNegativeFloat = 1.2
    gap_floor_s: NonNegativeFloat = 2.0
    daily_swing: Share = 0.8

    popularity_sigma: NonNegativeFloat = 1.3
    life_half_life_hours: PositiveFloat = 240.0
    life_sigma: NonNegativeFloat = 0.3
    exploration: Share = 0.1
    personalisation: Share = 0.5
    drift_response: NonNegativeFloat = 0.5

    click_rate: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.15
    taste: NonNegativeFloat = 1.2
    intent: NonNegativeFloat = 0.5
    quality_effect: float = 0.3
    price_effect: float = 0.4
    context_effect: float = 0.3
    position_bias: NonNegativeFloat = 0.6
    delay_median_s: PositiveFloat = 20.0
    delay_sigma: NonNegativeFloat = 1.5
    conversions: bool = pydantic.Field(default=False, exclude_if=lambda on: not on)
    conversion_rate: Annotated[float, pydantic.Field(gt=0, lt=1, exclude_if=lambda rate: rate == _CONVERSION_RATE)] = (
        _CONVERSION_RATE
    )
    drift: tuple[Drift, ...] = (
        Drift(kind="seasonal", along="category", value=0, period_days=7.0, strength=0.8),
        Drift(kind="abrupt", along="category", value=1, day=7.0, strength=1.2),
        Drift(kind="gradual", along="brand", value=2, day=3.0, until=10.0, strength=1.0),
        Drift(kind="abrupt", along="latent", day=9.0, strength=1.5),
    )

    @model_validator(mode="after")
    def _values_exist(self) -> "SimulatorData":
        sizes = {"category": self.categories, "brand": self.brands}
        for number, drift in enumerate(self.drift):
            if drift.value is not None and drift.along in sizes and drift.value >= sizes[drift.along]:
                raise ValueError(
                    f"drift.{number}.value is {drift.value}, but {drift.along} has the values 0 to "
                    f"{sizes[drift.along] - 1}"
                )
        if self.list_length > self.items:
            raise ValueError(f"list_length {self.list_length} is more than the {self.items} items of the first day")
        return self
