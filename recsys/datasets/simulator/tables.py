"""The shop's logs as Arrow tables: what a real shop would have written, and the truth that it would not know."""

from datetime import UTC

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config.simulator import SimulatorData
from recsys.datasets.simulator.catalogue import Catalogue
from recsys.datasets.simulator.clicks import Impressions
from recsys.datasets.simulator.people import People
from recsys.datasets.simulator.traffic import DAY_MS, DEVICES, Requests

_HOUR_MS = 3_600_000


def start_ms(config: SimulatorData) -> int:
    """The first moment of the simulation, ms since 1970 (a start without zone is UTC)."""
    start = config.start if config.start.tzinfo else config.start.replace(tzinfo=UTC)
    return round(start.timestamp() * 1000)


def noise_fields(config: SimulatorData) -> dict[str, list[str]]:
    """Names of the fields that depend on nothing, by side."""
    counts = {
        "item": config.noise_item_fields,
        "user": config.noise_user_fields,
        "context": config.noise_context_fields,
    }
    return {side: [f"noise_{side}_{number + 1}" for number in range(count)] for side, count in counts.items()}


def impression_table(
    config: SimulatorData, requests: Requests, first: int, shown: Impressions, noise: list[np.ndarray]
) -> pa.Table:
    """One row an impression; `first` is the number of the first request, `noise` one `[requests]` array a field."""
    at = pa.array(shown.request)
    start = start_ms(config)
    hour = requests.time % DAY_MS // _HOUR_MS
    time = start + requests.time[shown.request]
    by_request = {
        "session": pa.array(requests.session),
        "user": pa.array(requests.user),
        "device": pa.DictionaryArray.from_arrays(requests.device.astype(np.int8), pa.array(DEVICES)),
        "hour": pa.array(hour.astype(np.int8)),
    } | {
        name: pa.array(values.astype(np.int16))
        for name, values in zip(noise_fields(config)["context"], noise, strict=True)
    }
    columns = {
        "request": pa.array(first + shown.request),
        "position": pa.array(shown.position),
        "item": pa.array(shown.item),
        "time": pa.array(time),
        "label": pa.array(shown.label),
        "feedback_time": pa.array(time + shown.delay, mask=shown.label == 0),
    }
    if shown.converted is not None:
        columns["conversion"] = pa.array(shown.converted.astype(np.int8), mask=shown.label == 0)
    return pa.table(columns | {name: values.take(at) for name, values in by_request.items()})


def click_table(impressions: pa.Table) -> pa.Table:
    """The clicks alone, `time` being when the click was reported, in the order of the impressions."""
    clicks = impressions.filter(pc.equal(impressions["label"], 1)).drop_columns(["label"])
    names = {"time": "impression_time", "feedback_time": "time"}
    return clicks.rename_columns([names.get(name, name) for name in clicks.column_names])


def truth_table(shown: Impressions) -> pa.Table:
    """Row by row beside the impressions: the click probability and its factors, and P(conversion | click)."""
    columns = {
        "probability": shown.examination * shown.relevance,
        "relevance": shown.relevance,
        "examination": shown.examination,
    }
    if shown.conversion_chance is not None:
        columns["conversion"] = shown.conversion_chance
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _names(prefix: str, values: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(values), pa.string()), "_")


def item_table(config: SimulatorData, catalogue: Catalogue) -> pa.Table:
    """One row an item, in order of appearance."""
    count = len(catalogue)
    kept = catalogue.tags >= 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    title = pc.binary_join_element_wise(
        _names("Item", np.arange(count)),
        _names("of category", catalogue.category),
        _names("brand", catalogue.brand),
        ", ",
    )
    columns = {
        "item": pa.array(np.arange(count)),
        "title": pc.replace_substring(title, "_", " "),
        "available_from": pa.array(start_ms(config) + (catalogue.born * _HOUR_MS).astype(np.int64)),
        "category": _names("category", catalogue.category),
        "brand": _names("brand", catalogue.brand),
        "tags": pa.ListArray.from_arrays(pa.array(offsets), _names("tag", catalogue.tags[kept])),
        "price": pa.array(catalogue.price),
    }
    return pa.table(columns | _noise(config, "item", catalogue.noise))


def user_table(config: SimulatorData, people: People) -> pa.Table:
    """One row a user."""
    columns = {
        "user": pa.array(np.arange(len(people))),
        "segment": _names("segment", people.segment),
        "budget": pa.array(people.budget),
    }
    return pa.table(columns | _noise(config, "user", people.noise))


def _noise(config: SimulatorData, side: str, noise: tuple[np.ndarray, ...]) -> dict[str, pa.Array]:
    return {name: _names("value", values) for name, values in zip(noise_fields(config)[side], noise, strict=True)}


def item_truth(catalogue: Catalogue) -> pa.Table:
    """What the shop does not know of its items."""
    columns = {"item": np.arange(len(catalogue)), "cluster": catalogue.cluster, "quality": catalogue.quality}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table(arrays | {"hidden": pa.array(catalogue.hidden), "vector": _vectors(catalogue.vector)})


def user_truth(people: People) -> pa.Table:
    """What the shop does not know of its users."""
    return pa.table(
        {
            "user": pa.array(np.arange(len(people))),
            "hidden": pa.array(people.hidden > 0),
            "thrift": pa.array(people.thrift),
            "tastes": _vectors(people.tastes),
            "vector": _vectors(people.vector),
        }
    )


def _vectors(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
