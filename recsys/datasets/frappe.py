"""Frappe app usage in the form of the BARS benchmark (Frappe_x1): labelled rows of ten categorical fields, no time."""

from recsys.config.data import FrappeData
from recsys.datasets.columns import Wanted
from recsys.datasets.fields import field_columns, merged_fields
from recsys.datasets.readers import FileReader
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.schema import SPLITS, Field, Kind, Schema, Side

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


def frappe_source(config: FrappeData) -> RawSource:
    """Used apps (label 1) and apps drawn as negatives (label 0) with the context of use, in their given split.

    The negatives of the benchmark's training part are drawn anew here and those of its validation and test parts are
    its own; figures must say so. Raises UserError where a file is missing.
    """
    if not config.folder.is_dir():
        raise UserError(f"data.folder: {config.folder} is no folder; expected the one with {config.train} and so on.")
    standard = tuple(Field(name=name, side=Side.CONTEXT, kind=Kind.CATEGORICAL) for name in CONTEXT)
    fields = merged_fields(standard, config)
    names = dict.fromkeys(("user", "item", "label")) | field_columns(fields, Side.CONTEXT)
    paths = (config.train, config.validation, config.test)
    return RawSource(
        name="frappe",
        schema=Schema(fields=fields, has_time=False),
        events=FileReader(
            "data.folder",
            tuple((str(config.folder / name), split) for name, split in zip(paths, SPLITS, strict=True)),
            Wanted(tuple((name, source or name) for name, source in names.items())),
            "csv",
        ),
        given_split=True,
        notes={"licence": "research use only", "negatives": "train negatives resampled"},
    )
