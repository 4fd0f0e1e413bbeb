"""The ingestion benchmark's peers: the same transformation per row in Beam, in pandas and in Polars.

Each reads the log's Parquet files, rejects rows without user, item, time or a label of 0 or 1 and repeats of (user,
item, time), makes vocabularies by training frequency, encodes, splits by time at 80 and 90 % of the events, adds a
user's last positives and an item's clicks in the last hour and day, all as of the lag before the event, and writes
Parquet by part in time order. Each returns the accepted rows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HISTORY = 10
LAG_MS = 1000
WINDOWS = {"clicks_hour": 3_600_000, "clicks_day": 86_400_000}
CONTEXT = ("device", "hour", "position")
COLUMNS = ("user", "item", "time", "label", *CONTEXT)
FIRST = 3
PARTS = ("train", "validation", "test")


def cuts(times: Any, rows: int) -> tuple[int, int]:
    """The times at 80 and 90 % of sorted times."""
    return int(times[round(0.8 * rows)]), int(times[round(0.9 * rows)])


def with_polars(files: list[Path], output: Path) -> int:
    """Polars on all cores."""
    import polars as pl

    names = ("user", "item", *CONTEXT)
    raw = pl.concat([pl.scan_parquet(file).select(COLUMNS) for file in files]).with_row_index("row")
    frame = (
        raw.filter(pl.all_horizontal(pl.col("user", "item", "time", "label").is_not_null()))
        .filter(pl.col("time").is_between(0, 1 << 42) & pl.col("label").is_in([0, 1]))
        .with_columns([pl.col(name).cast(pl.String) for name in names])
        .unique(["user", "item", "time"], keep="first")
        .sort("time", "row")
        .collect()
    )
    validation, test = cuts(frame["time"], len(frame))
    for name in names:
        training = pl.col("time") < validation
        weight = training & (pl.col("label") == 1) if name in ("user", "item") else training
        counts = frame.lazy().group_by(name).agg(weight.sum().alias("count"))
        counts = counts.sort("count", name, descending=[True, False])
        if name not in ("user", "item"):
            counts = counts.filter(pl.col("count") > 0)
        vocabulary = counts.with_row_index("id", offset=FIRST).collect()
        vocabulary.write_parquet(output / f"{name}.parquet")
        ids = vocabulary.select(name, pl.col("id").cast(pl.Int32))
        joined = frame.lazy().join(ids.lazy(), on=name, how="left", maintain_order="left")
        frame = joined.with_columns(pl.col("id").fill_null(2).alias(name)).drop("id").collect()
    positive = frame.lazy().filter(pl.col("label") == 1)
    shifted = [pl.col("item").shift(step).over("user") for step in range(HISTORY - 1, -1, -1)]
    history = positive.select("user", "time", pl.concat_list(shifted).list.drop_nulls().alias("history"))
    running = pl.int_range(1, pl.len() + 1).over("item").cast(pl.Float32)
    clicks = positive.select("item", "time", running.alias("clicks"))
    result = frame.lazy().with_columns((pl.col("time") - LAG_MS).alias("moment")).sort("moment")
    result = result.join_asof(history, left_on="moment", right_on="time", by="user", check_sortedness=False)
    result = _polars_clicks(result, clicks, "moment", "until")
    for name, window in WINDOWS.items():
        result = result.with_columns((pl.col("moment") - window).alias("since"))
        result = _polars_clicks(result, clicks, "since", "before")
        result = result.with_columns((pl.col("until") - pl.col("before")).alias(name)).drop("before")
    done = result.drop("moment", "since", "until").sort("time", "row").drop("row").collect()
    bounds = [0, *(done["time"].search_sorted(cut, side="left") for cut in (validation, test)), len(done)]
    for part, start, stop in zip(PARTS, bounds, bounds[1:], strict=False):
        done[start:stop].write_parquet(output / f"{part}.parquet", compression="zstd", compression_level=1)
    return len(done)


def _polars_clicks(frame: Any, clicks: Any, moment: str, name: str) -> Any:
    """The item's clicks up to a moment."""
    import polars as pl

    joined = frame.join_asof(
        clicks.rename({"time": "at", "clicks": name}), left_on=moment, right_on="at", by="item", check_sortedness=False
    )
    return joined.with_columns(pl.col(name).fill_null(0)).drop("at", strict=False)


def with_pandas(files: list[Path], output: Path) -> int:
    """pandas with its own joins and groups."""
    import pandas as pd

    names = ("user", "item", *CONTEXT)
    frame = pd.concat([pd.read_parquet(file, columns=list(COLUMNS)) for file in files], ignore_index=True)
    frame = frame.dropna(subset=["user", "item", "time", "label"])
    frame = frame[frame["time"].between(0, 1 << 42) & frame["label"].isin([0, 1])]
    frame = frame.drop_duplicates(["user", "item", "time"])
    frame = frame.sort_values("time", kind="stable", ignore_index=True)
    validation, test = cuts(frame["time"].to_numpy(), len(frame))
    training = frame["time"] < validation
    for name in names:
        values = frame[name].astype(str)
        weight = training & (frame["label"] == 1) if name in ("user", "item") else training
        counts = weight.groupby(values).sum().rename("count").rename_axis("value").reset_index()
        if name not in ("user", "item"):
            counts = counts[counts["count"] > 0]
        counts = counts.sort_values(["count", "value"], ascending=[False, True], ignore_index=True)
        counts["id"] = np.arange(FIRST, FIRST + len(counts), dtype=np.int32)
        counts.to_parquet(output / f"{name}.parquet")
        frame[name] = values.map(counts.set_index("value")["id"]).fillna(2).astype(np.int32)
    frame["moment"] = frame["time"] - LAG_MS
    positive = frame.loc[frame["label"] == 1, ["user", "item", "time"]]
    by_user = positive.sort_values(["user", "time"], kind="stable")
    place = pd.Series(np.arange(1, len(by_user) + 1), by_user.index, name="stop")
    stops = by_user.assign(stop=place, start=place - by_user.groupby("user").cumcount() - 1).sort_index()
    frame = pd.merge_asof(
        frame, stops.drop(columns="item").rename(columns={"time": "at"}), left_on="moment", right_on="at", by="user"
    )
    stop = frame.pop("stop").fillna(0).astype(int).to_numpy()
    start = np.maximum(frame.pop("start").fillna(0).astype(int).to_numpy(), stop - HISTORY)
    items = by_user["item"].to_numpy()
    frame["history"] = [items[a:b] for a, b in zip(start, stop, strict=True)]
    clicks = positive.assign(clicks=positive.groupby("item").cumcount() + 1)[["item", "time", "clicks"]]
    clicks = clicks.rename(columns={"time": "at"})

    def up_to(moment: Any) -> Any:
        query = pd.DataFrame({"item": frame["item"], "moment": moment})
        found = pd.merge_asof(query, clicks, left_on="moment", right_on="at", by="item")
        return found["clicks"].fillna(0).to_numpy(np.float32)

    until = up_to(frame["moment"])
    for name, window in WINDOWS.items():
        frame[name] = until - up_to(frame["moment"] - window)
    frame = frame.drop(columns=["moment", "at"])
    bounds = [0, *np.searchsorted(frame["time"], [validation, test]), len(frame)]
    for part, begin, end in zip(PARTS, bounds, bounds[1:], strict=False):
        frame[begin:end].to_parquet(output / f"{part}.parquet", compression="zstd", compression_level=1, index=False)
    return len(frame)


def with_rows_in_beam(files: list[Path], output: Path) -> int:
    """A pipeline whose elements are rows, as Beam's own examples have them, on the Direct runner."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.pvalue import AsDict, AsSingleton

    from recsys.ingestion.runner import DIRECT

    names = ("user", "item", *CONTEXT)
    options = PipelineOptions(flags=[], runner=DIRECT)
    with beam.Pipeline(options=options) as pipeline:
        rows = (
            pipeline
            | beam.Create([str(file) for file in files])
            | beam.FlatMap(_read_rows)
            | beam.Filter(_valid)
            | "Key" >> beam.Map(lambda row: ((str(row["user"]), str(row["item"]), row["time"]), row))
            | "Repeats" >> beam.GroupByKey()
            | "First" >> beam.Map(lambda pair: min(pair[1], key=lambda row: row["row"]))
        )
        split = AsSingleton(
            rows | "Times" >> beam.Map(lambda row: row["time"]) | beam.combiners.ToList() | "Cuts" >> beam.Map(_cuts)
        )
        ids = {}
        for name in names:
            counts = rows | f"Count {name}" >> beam.Map(_weight, name, split) | f"Sum {name}" >> beam.CombinePerKey(sum)
            ids[name] = AsDict(
                counts
                | f"All {name}" >> beam.combiners.ToList()
                | f"Ids {name}" >> beam.FlatMap(_ids, name, str(output))
            )
        encoded = rows | "Encode" >> beam.Map(_encode, split, **ids)
        clicked = (
            encoded
            | "By item" >> beam.Map(lambda row: (row["item"], row))
            | "Items" >> beam.GroupByKey()
            | "Clicks" >> beam.FlatMap(_clicks)
        )
        written = (
            clicked
            | "By user" >> beam.Map(lambda row: (row["user"], row))
            | "Users" >> beam.GroupByKey()
            | "Histories" >> beam.FlatMap(_histories)
            | "By part" >> beam.Map(lambda row: (row["part"], row))
            | "Parts" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write, str(output))
        )
        written | "Together" >> beam.CombineGlobally(sum) | "Count" >> beam.Map(_note, str(output / "rows"))
    return int((output / "rows").read_text(encoding="utf-8"))


def _read_rows(file: str) -> Iterator[dict]:
    import pyarrow.parquet as pq

    for number, row in enumerate(pq.read_table(file, columns=list(COLUMNS)).to_pylist()):
        yield {**row, "row": (file, number)}


def _valid(row: dict) -> bool:
    known = all(row[name] is not None for name in ("user", "item", "time", "label"))
    return known and 0 <= row["time"] < 1 << 42 and row["label"] in (0, 1)


def _cuts(times: list[int]) -> tuple[int, int]:
    return cuts(sorted(times), len(times))


def _weight(row: dict, name: str, split: tuple[int, int]) -> tuple[str, int]:
    counts = row["time"] < split[0] and (row["label"] == 1 or name not in ("user", "item"))
    return str(row[name]), int(counts)


def _ids(counts: list[tuple[str, int]], name: str, folder: str) -> Iterator[tuple[str, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = [pair for pair in counts if pair[1] > 0 or name in ("user", "item")]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    pq.write_table(pa.table({"value": [v for v, _ in kept], "count": [c for _, c in kept]}), f"{folder}/{name}.parquet")
    for place, (value, _) in enumerate(kept):
        yield value, FIRST + place


def _encode(row: dict, split: tuple[int, int], **ids: dict[str, int]) -> dict:
    encoded = {name: known.get(str(row[name]), 2) for name, known in ids.items()}
    part = sum(row["time"] >= cut for cut in split)
    return {**row, **encoded, "part": part}


def _clicks(group: tuple[int, Iterable[dict]]) -> Iterator[dict]:
    from bisect import bisect_right

    rows = sorted(group[1], key=lambda row: row["time"])
    times = [row["time"] for row in rows if row["label"] == 1]
    for row in rows:
        moment = row["time"] - LAG_MS
        until = bisect_right(times, moment)
        for name, window in WINDOWS.items():
            row[name] = float(until - bisect_right(times, moment - window))
        yield row


def _histories(group: tuple[int, Iterable[dict]]) -> Iterator[dict]:
    from bisect import bisect_right

    rows = sorted(group[1], key=lambda row: (row["time"], row["row"]))
    clicked = [row for row in rows if row["label"] == 1]
    times = [row["time"] for row in clicked]
    for row in rows:
        stop = bisect_right(times, row["time"] - LAG_MS)
        row["history"] = [past["item"] for past in clicked[max(stop - HISTORY, 0) : stop]]
        yield row


def _write(group: tuple[int, Iterable[dict]], folder: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(group[1], key=lambda row: (row["time"], row["row"]))
    names = [name for name in rows[0] if name not in ("row", "part")]
    table = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])
    pq.write_table(table, f"{folder}/{PARTS[group[0]]}.parquet", compression="zstd", compression_level=1)
    return len(rows)


def _note(rows: int, path: str) -> None:
    Path(path).write_text(str(rows), encoding="utf-8")
