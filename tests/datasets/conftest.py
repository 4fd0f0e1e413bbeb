"""A simulated shop, run once, with drift strong enough to see in few impressions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config.simulator import Drift, SimulatorData
from recsys.datasets.simulator.write import write_simulation

DRIFT = (
    Drift(kind="seasonal", along="category", value=0, period_days=8.0, strength=1.2),
    Drift(kind="abrupt", along="category", value=1, day=4.0, strength=1.5),
    Drift(kind="gradual", along="category", value=2, day=2.0, until=6.0, strength=-1.2),
    Drift(kind="abrupt", along="latent", day=4.0, strength=1.5),
)
SHOP = SimulatorData(
    users=4000, items=500, new_items_per_day=20, days=8, impressions=400_000, clusters=12, categories=6, brands=24
).model_copy(update={"drift": DRIFT})


@dataclass(frozen=True)
class Shop:
    """A simulation as NumPy arrays: impressions joined with the truth, items and users."""

    path: Path
    config: SimulatorData
    manifest: Any
    log: dict[str, np.ndarray]
    items: pa.Table
    users: pa.Table
    item_truth: pa.Table
    user_truth: pa.Table


def read_shop(path: Path, config: SimulatorData) -> Shop:
    """What `write_simulation` wrote."""
    from recsys.datasets.simulator.write import open_simulation

    tables = {
        folder: pa.concat_tables([pq.read_table(file) for file in sorted((path / folder).glob("impressions-*"))])
        for folder in ("impressions", "truth")
    }
    log = {name: table[name].to_numpy() for table in tables.values() for name in table.column_names}
    return Shop(
        path,
        config,
        open_simulation(path).manifest,
        log,
        pq.read_table(path / "items"),
        pq.read_table(path / "users"),
        pq.read_table(path / "truth" / "items.parquet"),
        pq.read_table(path / "truth" / "users.parquet"),
    )


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The shop; do not alter it."""
    path = tmp_path_factory.mktemp("shop") / "raw"
    write_simulation(SHOP, 7, path, quiet=True)
    return read_shop(path, SHOP)
