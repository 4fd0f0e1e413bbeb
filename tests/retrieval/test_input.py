"""Training batches: every positive once an epoch, deterministic, resumable at any step, joined on the right ids."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config.model import ModelConfig
from recsys.config.train import TrainConfig
from recsys.dataset_folder import DatasetFolder
from recsys.errors import UserError
from recsys.retrieval.ahead import Ahead
from recsys.retrieval.input import Batch, drawable_ids, event_reader, training_batches
from recsys.retrieval.shards import EventReader, PositiveEvents, RowGroup, scan_positives
from recsys.retrieval.spec import two_tower_spec
from recsys.schema import SPLITS, Side
from tests.outcomes import with_outcome

ROWS, GROUP = 1000, 70


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> PositiveEvents:
    """1000 events in two files of many row groups, every third one negative; `item` is the event's number."""
    folder = tmp_path_factory.mktemp("events")
    number = np.arange(ROWS, dtype=np.int32)
    label = (number % 3 > 0).astype(np.int8)
    groups = []
    for part, span in enumerate((slice(0, 600), slice(600, ROWS))):
        path = folder / f"train-{part:05d}.parquet"
        table = pa.table({"item": number[span], "user": number[span] % 7, "label": label[span]})
        pq.write_table(table, path, row_group_size=GROUP)
        positives = label[span]
        groups += [
            RowGroup(path, index, int(positives[start : start + GROUP].sum()))
            for index, start in enumerate(range(0, len(positives), GROUP))
        ]
    return PositiveEvents(tuple(groups), {})


def reader(events: PositiveEvents, **options) -> EventReader:
    settings = {"batch_size": 32, "buffer_rows": 200, "in_time_order": False, "seed": 1} | options
    return EventReader(events, ("item",), **settings)


def numbers(batches) -> list[list[int]]:
    return [batch["item"].to_pylist() for batch in batches]


@pytest.mark.parametrize("in_time_order", [False, True])
@pytest.mark.parametrize("buffer_rows", [1, 200, 5000])
def test_an_epoch_has_each_positive_at_most_once_in_full_batches(events, in_time_order, buffer_rows):
    """Only the rest that fills no batch (in time order: of each buffer) is left out, and no negative is in."""
    one = reader(events, in_time_order=in_time_order, buffer_rows=buffer_rows)
    batches = numbers(one.batches(0))
    flat = [number for batch in batches for number in batch]
    positives = {number for number in range(ROWS) if number % 3}
    assert [len(batch) for batch in batches] == [32] * one.steps
    assert len(set(flat)) == len(flat)
    assert set(flat) <= positives
    if not in_time_order or buffer_rows == 5000:
        assert one.steps == len(positives) // 32
    assert len(flat) > 0.6 * len(positives)


@pytest.mark.parametrize("in_time_order", [False, True])
@pytest.mark.parametrize("buffer_rows", [1, 200, 5000])
def test_it_goes_on_at_any_step_as_if_it_had_not_stopped(events, in_time_order, buffer_rows):
    """Also where a batch spans two buffers."""
    options = {"in_time_order": in_time_order, "buffer_rows": buffer_rows}
    whole = numbers(reader(events, **options).batches(3))
    for first in range(len(whole) + 1):
        assert numbers(reader(events, **options).batches(3, first)) == whole[first:]


def test_the_order_depends_on_seed_and_epoch_alone(events):
    """Same again for the same, other for others, and thoroughly mixed."""
    first = numbers(reader(events, buffer_rows=5000).batches(0))
    assert first == numbers(reader(events, buffer_rows=5000).batches(0))
    assert first != numbers(reader(events, buffer_rows=5000).batches(1))
    assert first != numbers(reader(events, buffer_rows=5000, seed=2).batches(0))
    assert np.mean([np.std(batch) for batch in first]) > 200


@pytest.mark.parametrize("buffer_rows", [200, 5000])
def test_batches_in_time_order_hold_neighbours_and_come_shuffled(events, buffer_rows):
    """A batch spans little time; their order does not follow it; cuts move from epoch to epoch."""
    one = reader(events, in_time_order=True, buffer_rows=buffer_rows)
    batches = numbers(one.batches(0))
    assert all(batch == sorted(batch) and batch[-1] - batch[0] < 50 for batch in batches)
    starts = [min(batch) for batch in batches]
    assert starts != sorted(starts)
    assert {min(batch) for batch in numbers(one.batches(1))} != set(starts)


def test_fewer_positives_than_a_batch_make_one_short_batch(events):
    """Tiny data still trains."""
    one = reader(events, batch_size=10_000)
    assert one.steps == 1
    assert [len(batch) for batch in one.batches(0)] == [events.rows]


def batches_of(dataset: DatasetFolder, config: TrainConfig, *, epoch: int = 0, step: int = 0) -> Ahead[Batch]:
    found = scan_positives(dataset, ("train",))
    spec = two_tower_spec(dataset, ModelConfig(), found.counts)
    return training_batches(dataset, spec, event_reader(dataset, spec, found, config, 5), 2, epoch=epoch, step=step)


def test_features_are_those_of_the_row_s_own_user_and_item(tiny_dataset: Path):
    """Joined by id; histories row by row."""
    dataset = DatasetFolder.open(tiny_dataset)
    batch = next(iter(batches_of(dataset, TrainConfig(batch_size=50))))
    items, users = batch["item"]["item"].numpy(), batch["query"]["user"].numpy()
    for name, values in dataset.features(Side.ITEM).items():
        np.testing.assert_array_equal(batch["item"][name], values[items])
    np.testing.assert_array_equal(batch["query"]["club"], dataset.features(Side.USER)["club"][users])
    # In the tiny data a user's club is its block, and so is its items' colour.
    np.testing.assert_array_equal(batch["query"]["club"], batch["item"]["colour"])
    table = dataset.events("train").to_pylist()
    history = {(row["user"], row["item"]): row["history"] for row in table}
    for user, item, found in zip(users, items, batch["query"]["history"].to_list(), strict=True):
        assert found == history[user, item]


def test_weights_stand_in_their_rows(tiny_dataset: Path, tmp_path: Path):
    """Read as asked for, beside the query's inputs, and no input of any tower."""
    plain = DatasetFolder.open(tiny_dataset)
    values = {split: np.arange(plain.events(split).num_rows) / 8 for split in SPLITS}
    dataset = with_outcome(plain, tmp_path / "told", "watched", values)
    config = TrainConfig.model_validate({"batch_size": 50, "loss": {"weight_field": "watched"}})
    found = scan_positives(dataset, ("train",))
    spec = two_tower_spec(dataset, ModelConfig(), found.counts)
    assert all("watched" not in [one.name for one in tower.inputs] for tower in (spec.query, spec.item))
    reader = event_reader(dataset, spec, found, config, 5)
    batch = next(training_batches(dataset, spec, reader, 2, epoch=0, step=0, weight="watched"))
    table = dataset.events("train").to_pylist()
    of_row = {(row["user"], row["item"]): row["watched"] for row in table}
    pairs = zip(batch["query"]["user"].numpy(), batch["item"]["item"].numpy(), strict=True)
    assert batch["query"]["watched"].numpy().tolist() == [of_row[pair] for pair in pairs]


def test_the_stream_resumes_across_epochs(tiny_dataset: Path):
    """(epoch, step) names a batch, whatever came before."""
    dataset, config = DatasetFolder.open(tiny_dataset), TrainConfig(batch_size=64)
    whole = [batch["item"]["item"].numpy().tolist() for batch in islice(batches_of(dataset, config), 10)]
    steps = dataset.events("train").num_rows // 64
    later = islice(batches_of(dataset, config, epoch=1, step=1), 3)
    assert [batch["item"]["item"].numpy().tolist() for batch in later] == whole[steps + 1 : steps + 4]


def test_the_scan_counts_positives_by_user_and_item(tiny_dataset: Path):
    """As the vocabulary says for the training part."""
    dataset = DatasetFolder.open(tiny_dataset)
    found = scan_positives(dataset, ("train",))
    np.testing.assert_array_equal(found.counts["item"], dataset.vocabulary("item").counts)
    np.testing.assert_array_equal(found.counts["user"], dataset.vocabulary("user").counts)
    both = scan_positives(dataset, ("train", "validation"))
    assert both.rows == found.rows + dataset.events("validation").num_rows


def test_a_truncated_event_file_is_a_user_error(tmp_path: Path):
    """Named, not a traceback of Arrow."""
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.table({"item": pa.array([3], pa.int32()), "label": pa.array([1], pa.int8())}), path)
    path.write_bytes(path.read_bytes()[:-8])
    broken = reader(PositiveEvents((RowGroup(path, 0, 1),), {}))
    with pytest.raises(UserError, match=r"train-00000\.parquet"):
        list(broken.batches(0))


def test_nothing_is_drawn_that_came_after_what_is_trained_on() -> None:
    """An item counts from the moment it appeared; without times, and for users, who have none, all do."""
    items = pa.table({"item": [3, 4, 5, 6], "available_from": [0, 99, 100, 250]})
    users = pa.table({"user": [3, 4]})
    times = {"validation": 100, "test": 200}
    timed, untimed = (
        SimpleNamespace(items=items, users=users, manifest={"split": {"kind": "time", "times": one}})
        for one in (times, None)
    )
    assert drawable_ids(timed, Side.ITEM, ("train",)).tolist() == [3, 4]
    assert drawable_ids(timed, Side.ITEM, ("train", "validation")).tolist() == [3, 4, 5]
    assert drawable_ids(timed, Side.USER, ("train",)).tolist() == [3, 4]
    assert drawable_ids(untimed, Side.ITEM, ("train",)).tolist() == [3, 4, 5, 6]
