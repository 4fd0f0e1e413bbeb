"""From configuration to a raw source."""

from pathlib import Path

from recsys.config.data import DataConfig, FilesData, FrappeData, GloboData, GowallaData, MovieLensData
from recsys.datasets.source import RawSource
from recsys.errors import UserError
from recsys.schema import check_references


def load_source(config: DataConfig, seed: int, workdir: Path) -> RawSource:
    """The raw source that `data` describes, its files found.

    The simulator first writes its logs to `workdir/raw`, unless the same settings and seed wrote them before. Raises
    UserError for a missing file or folder.
    """
    match config:
        case FilesData():
            from recsys.datasets.files import files_source

            source = files_source(config)
        case MovieLensData():
            from recsys.datasets.movielens import movielens_source

            source = movielens_source(config)
        case GloboData():
            from recsys.datasets.globo import globo_source

            source = globo_source(config)
        case GowallaData():
            from recsys.datasets.gowalla import gowalla_source

            source = gowalla_source(config)
        case FrappeData():
            from recsys.datasets.frappe import frappe_source

            source = frappe_source(config)
        case _:
            from recsys.datasets.simulator.source import simulator_source

            source = simulator_source(config, seed, workdir)
    try:
        check_references(source.schema.fields)
    except ValueError as error:
        raise UserError(f"data.fields: {error}.") from None
    for table in (source.events, source.items, source.users):
        if table is not None:
            table.shards()  # finds every file now, before hours of work
    return source
