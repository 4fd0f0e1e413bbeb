"""The fields of a source: its own, as the configuration changes them, and the columns that hold them."""

from typing import Protocol

from recsys.errors import UserError
from recsys.schema import Field, Kind, Side

READ_KINDS = (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC, Kind.OUTCOME)
"""Kinds that stand in the raw tables; the others are computed from the events."""


class FieldChanges(Protocol):
    """The part of a source's configuration that changes its fields."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields to add, or to put in the place of one of the same name."""
        ...

    @property
    def drop_fields(self) -> tuple[str, ...]:
        """Names of standard fields to leave out."""
        ...


def merged_fields(standard: tuple[Field, ...], config: FieldChanges) -> tuple[Field, ...]:
    """The standard fields less the dropped ones, changed ones in their place, added ones at the end.

    Raises UserError where a field to drop is not there.
    """
    names = [field.name for field in standard]
    for position, name in enumerate(config.drop_fields):
        if name not in names:
            raise UserError(
                f"data.drop_fields.{position}: no field '{name}'; this source has {', '.join(names) or 'none'}."
            )
    changed = {field.name: field for field in config.fields}
    kept = tuple(changed.pop(field.name, field) for field in standard if field.name not in config.drop_fields)
    return kept + tuple(changed.values())


def field_columns(fields: tuple[Field, ...], side: Side) -> dict[str, str | None]:
    """Canonical name to source column of the fields of one side that raw tables hold."""
    return {
        field.name: field.column or field.name for field in fields if field.side is side and field.kind in READ_KINDS
    }
