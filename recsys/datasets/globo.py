"""Globo.com news clicks: one gzip CSV an hour, six context fields, no article metadata."""

import glob

from recsys.config.data import GloboData
from recsys.datasets.columns import Wanted
from recsys.datasets.fields import READ_KINDS, merged_fields
from recsys.datasets.readers import FileReader
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.schema import Field, Kind, Schema, Side

_CONTEXT = {
    "environment": "click_environment",
    "device_group": "click_deviceGroup",
    "os": "click_os",
    "country": "click_country",
    "region": "click_region",
    "referrer_type": "click_referrer_type",
}


def globo_source(config: GloboData) -> RawSource:
    """The clicks of the chosen hours as events, all positive; raises UserError where an hour's file is missing."""
    standard = tuple(
        Field(name=name, side=Side.CONTEXT, kind=Kind.CATEGORICAL, column=column) for name, column in _CONTEXT.items()
    )
    fields = merged_fields(standard, config)
    folder = str(config.folder)
    if config.hours is None:
        paths = [f"{glob.escape(folder)}/clicks_hour_*.csv.gz"]
    else:
        paths = [f"{glob.escape(folder)}/clicks_hour_{hour:03d}.csv.gz" for hour in range(*config.hours)]
    if not config.folder.is_dir():
        raise UserError(f"data.folder: {folder} is no folder; expected the one with clicks_hour_000.csv.gz and so on.")
    context = tuple((f.name, f.column or f.name) for f in fields if f.side is Side.CONTEXT and f.kind in READ_KINDS)
    columns = (("user", "user_id"), ("item", "click_article_id"), ("time", "click_timestamp"), *context)
    events = FileReader("data.folder", tuple((path, None) for path in paths), Wanted(columns))
    return RawSource(
        name="globo-news",
        schema=Schema(fields=fields),
        events=events,
        time_unit="ms",
        notes={"licence": "research use only, not to be redistributed"},
    )
