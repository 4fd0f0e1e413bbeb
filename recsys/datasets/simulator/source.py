"""The simulated shop as a raw source."""

from pathlib import Path

from recsys.artifacts import MANIFEST
from recsys.config.data import SimulatorSource
from recsys.datasets.columns import Wanted
from recsys.datasets.fields import field_columns, merged_fields
from recsys.datasets.readers import FileReader, local
from recsys.datasets.simulator.tables import noise_fields
from recsys.datasets.simulator.write import open_simulation, settings_of, write_simulation
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.schema import Field, Kind, Schema, Side


def standard_fields(config: SimulatorSource) -> tuple[Field, ...]:
    """The fields that the logs hold, noise included; the position is one where impressions are the events."""
    fields = [
        Field(name="category", side=Side.ITEM, kind=Kind.CATEGORICAL),
        Field(name="brand", side=Side.ITEM, kind=Kind.CATEGORICAL),
        Field(name="tags", side=Side.ITEM, kind=Kind.MULTI_VALUED),
        Field(name="price", side=Side.ITEM, kind=Kind.NUMERIC),
        Field(name="segment", side=Side.USER, kind=Kind.CATEGORICAL),
        Field(name="budget", side=Side.USER, kind=Kind.NUMERIC),
        Field(name="device", side=Side.CONTEXT, kind=Kind.CATEGORICAL),
        Field(name="hour", side=Side.CONTEXT, kind=Kind.CATEGORICAL),
    ]
    if config.events == "impressions":
        fields.append(Field(name="position", side=Side.CONTEXT, kind=Kind.CATEGORICAL))
    if config.conversions:
        fields.append(Field(name="conversion", side=Side.CONTEXT, kind=Kind.OUTCOME))
    for side, names in noise_fields(config).items():
        fields += [Field(name=name, side=Side(side), kind=Kind.CATEGORICAL) for name in names]
    return tuple(fields)


def simulator_source(config: SimulatorSource, seed: int, workdir: Path) -> RawSource:
    """The logs in `workdir/raw`, written first unless equal settings and seed wrote them before."""
    fields = merged_fields(standard_fields(config), config)
    raw = workdir / "raw"
    if not _is_there(raw, config, seed):
        write_simulation(config, seed, raw)

    def reader(folder: str, columns: dict[str, str | None]) -> FileReader:
        wanted = Wanted(tuple((name, source or name) for name, source in columns.items()))
        return FileReader("data", local(raw, f"{folder}/*.parquet"), wanted, "parquet")

    base = dict.fromkeys(("user", "item", "time") + (("label",) if config.events == "impressions" else ()))
    return RawSource(
        name="simulator",
        schema=Schema(fields=fields),
        events=reader(config.events, base | field_columns(fields, Side.CONTEXT)),
        items=reader("items", dict.fromkeys(("item", "title", "available_from")) | field_columns(fields, Side.ITEM)),
        users=reader("users", dict.fromkeys(("user",)) | field_columns(fields, Side.USER)),
        time_unit="ms",
        notes={"noise_fields": ", ".join(name for names in noise_fields(config).values() for name in names)},
    )


def _is_there(raw: Path, config: SimulatorSource, seed: int) -> bool:
    if not (raw / MANIFEST).is_file():
        return False
    try:
        manifest = open_simulation(raw).manifest
    except UserError:  # damaged or of another version: written again
        return False
    return manifest["settings"] == settings_of(config) and manifest["seed"] == seed
