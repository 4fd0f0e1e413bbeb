"""Making batches ahead: same order, really ahead, errors where they are used, no thread left behind."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from recsys._tensorflow import tf
from recsys.errors import UserError
from recsys.retrieval.ahead import Ahead


def wait_for(reached) -> bool:
    deadline = time.monotonic() + 10
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.005)
    return reached()


def numbers(made: list[int], stop: int = 1000) -> Iterator[int]:
    for number in range(stop):
        made.append(number)
        yield number


def test_all_elements_come_in_order_and_then_it_ends():
    assert list(Ahead(numbers([], 50), 3)) == list(range(50))


def test_a_bounded_number_is_made_before_it_is_asked_for():
    """Also where ops are deterministic, which switches tf.data's prefetch off."""
    tf.config.experimental.enable_op_determinism()
    made: list[int] = []
    batches = Ahead(numbers(made), 3)
    assert next(batches) == 0
    # Three wait in the queue and one at its door.
    assert wait_for(lambda: len(made) == 5)
    time.sleep(0.05)
    assert len(made) == 5
    batches.close()


def test_what_the_source_raises_is_raised_where_it_is_used():
    def broken() -> Iterator[int]:
        yield 1
        raise UserError("events/train-00000.parquet: not readable")

    batches = Ahead(broken(), 2)
    assert next(batches) == 1
    with pytest.raises(UserError, match="train-00000"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_no_thread_outlives_its_iterator():
    before = threading.active_count()
    batches = Ahead(numbers([]), 1)
    next(batches)
    assert threading.active_count() == before + 1
    del batches
    gc.collect()
    assert wait_for(lambda: threading.active_count() == before)
