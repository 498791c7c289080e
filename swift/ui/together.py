"""Several iterators at once: what each gives, as soon as it gives it."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(streams: Sequence[Iterator[T]]) -> Iterator[tuple[int, T]]:
    """The number of an iterator and what it gave, until all have ended or one has failed, which is raised.

    Each but a lone one runs in a thread of its own. They do not end when this is closed: what they wait for has to be
    ended by whoever closes it.
    """
    if len(streams) == 1:
        for item in streams[0]:
            yield 0, item
        return
    given: queue.SimpleQueue[tuple[int, T] | Future[None]] = queue.SimpleQueue()

    def drain(number: int, stream: Iterator[T]) -> None:
        for item in stream:
            given.put((number, item))

    pool = ThreadPoolExecutor(len(streams), thread_name_prefix="answer")
    try:
        for number, stream in enumerate(streams):
            pool.submit(drain, number, stream).add_done_callback(given.put)
        ended = 0
        while ended < len(streams):
            item = given.get()
            if isinstance(item, Future):
                item.result()  # raises what it raised
                ended += 1
            else:
                yield item
    finally:
        pool.shutdown(wait=False)
