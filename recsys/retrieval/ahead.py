"""Making batches ahead of the step that uses them, in a thread.

Not by tf.data's prefetch: where ops must be deterministic, which training asks for, TensorFlow switches it off for
pipelines that call Python, and then the step waits for its input. One thread that makes one batch after the other is
deterministic by itself.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """An iterator over `source` of which up to `count` elements are made in advance, in order.

    What the source raises, `next` raises. `close` ends the thread; so does letting go of the iterator.
    """

    def __init__(self, source: Iterator[T], count: int) -> None:
        self._made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(count)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=_make, args=(source, self._made, self._closed), name="batches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        element, error = self._made.get()
        if error is not None:
            self.close()
            raise error
        return element  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread and wait for it; what was made in advance is dropped."""
        self._closed.set()
        while not self._made.empty():
            self._made.get_nowait()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __del__(self) -> None:
        self.close()


def _make(source: Iterator[T], made: queue.Queue, closed: threading.Event) -> None:
    """Fill the queue. A function of its own, as a thread that held the iterator would keep it alive."""
    try:
        for element in source:
            if not _put(made, (element, None), closed):
                return
        error: BaseException = StopIteration()
    except BaseException as caught:  # to be raised where the batches are used
        error = caught
    _put(made, (None, error), closed)


def _put(made: queue.Queue, element: tuple, closed: threading.Event) -> bool:
    """Wait for room, unless nobody wants more: then False."""
    while not closed.is_set():
        try:
            made.put(element, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
