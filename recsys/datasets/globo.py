"""Globo.com news clicks: one gzip CSV an hour, six context fields, no article metadata."""

import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.data import GloboData
from recsys.datasets.columns import Wanted
from recsys.datasets.fields import field_columns, merged_fields
from recsys.datasets.readers import FileReader, local
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


_HOUR = "hour"
_MIDNIGHT_MS = 3 * 3_600_000  # in Brasilia, UTC-3


def globo_source(config: GloboData) -> RawSource:
    """The clicks of the chosen hours as events, all positive; raises UserError where an hour's file is missing.

    Context fields are the file's six and `hour`, the local hour of day of the click.
    """
    standard = tuple(
        Field(name=name, side=Side.CONTEXT, kind=Kind.CATEGORICAL, column=column) for name, column in _CONTEXT.items()
    )
    fields = merged_fields((*standard, Field(name=_HOUR, side=Side.CONTEXT, kind=Kind.CATEGORICAL)), config)
    if not config.folder.is_dir():
        raise UserError(
            f"data.folder: {config.folder} is no folder; expected the one with clicks_hour_000.csv.gz and so on."
        )
    if config.hours is None:
        names = ["clicks_hour_*.csv.gz"]
    else:
        names = [f"clicks_hour_{hour:03d}.csv.gz" for hour in range(*config.hours)]
    context = field_columns(fields, Side.CONTEXT)
    has_hour = context.pop(_HOUR, None) is not None
    base = {"user": "user_id", "item": "click_article_id", "time": "click_timestamp"}
    return RawSource(
        name="globo-news",
        schema=Schema(fields=fields),
        events=FileReader(
            "data.folder",
            local(config.folder, *names),
            Wanted(tuple((name, source or name) for name, source in (base | context).items())),
            transform=_with_hour if has_hour else None,
        ),
        time_unit="ms",
        notes={"licence": "research use only, not to be redistributed"},
    )


def _with_hour(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the local hour of day; null where the time is not a number, which ingestion rejects."""
    time = batch.column("time")
    time = pc.cast(pc.if_else(pc.match_substring_regex(time, r"^\d{1,18}$"), time, None), pa.int64())
    days = pc.divide(pc.subtract(time, _MIDNIGHT_MS), 86_400_000)
    of_day = pc.subtract(pc.subtract(time, _MIDNIGHT_MS), pc.multiply(days, 86_400_000))
    return batch.append_column(_HOUR, pc.cast(pc.divide(of_day, 3_600_000), pa.string()))
