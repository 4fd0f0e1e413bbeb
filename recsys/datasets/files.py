"""A user's own files, as the configuration describes them."""

from recsys.config.data import FilesData
from recsys.datasets.fields import field_columns
from recsys.datasets.readers import file_reader
from recsys.datasets.source import RawSource
from recsys.schema import Schema, Side


def files_source(config: FilesData) -> RawSource:
    """The events, and where given the items and users, of a user's files."""
    columns = config.events.columns.model_dump()
    has_time, has_value = columns["time"] is not None, columns["value"] is not None
    schema = Schema(fields=config.fields, has_time=has_time, has_value=has_value)
    events = file_reader(
        "data.events",
        config.events.splits or config.events.paths,
        columns | field_columns(config.fields, Side.CONTEXT),
        config.events,
    )
    items = users = None
    if config.items:
        names = config.items.columns.model_dump() | field_columns(config.fields, Side.ITEM)
        items = file_reader("data.items", config.items.paths, names, config.items)
    if config.users:
        names = config.users.columns.model_dump() | field_columns(config.fields, Side.USER)
        users = file_reader("data.users", config.users.paths, names, config.users)
    return RawSource(
        name="files",
        schema=schema,
        events=events,
        items=items,
        users=users,
        time_unit=config.time_unit,
        positive=config.positive,
        given_split=columns["split"] is not None or bool(config.events.splits),
    )
