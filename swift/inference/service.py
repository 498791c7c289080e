"""One engine for many askers: a thread of its own steps it, and whoever asked is told as their answer grows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from swift.errors import SwiftError, TemporaryError, UnavailableError
from swift.inference.engine import Either, Generation, Request, Stepwise
from swift.log import get_logger

logger = get_logger()
Notify = Callable[[], object]
Given = TypeVar("Given")


class Service:
    """An engine that any thread may ask at any time.

    Args:
        engine: does the work; nobody else may step it.
        max_waiting: with so many requests that wait for a slot there is no room; None is any number.
    """

    def __init__(self, engine: Stepwise, max_waiting: int | None = None) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._notify: dict[Generation, Notify] = {}
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return self.engine.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return self.engine.num_waiting

    def check_room(self) -> None:
        """Refuse whoever comes now, before any of what they ask is queued: who asks much is never let in by half.

        Raises:
            TemporaryError: too many wait.
        """
        if self.max_waiting is not None and self.engine.num_waiting >= self.max_waiting:
            raise TemporaryError("SERVER-05", f"{self.max_waiting} requests wait already", fix="ask again later")

    def submit(self, request: Request, notify: Notify, stop: threading.Event | None = None) -> Generation:
        """Queue a request; `notify` is called in the engine's thread whenever the answer has grown or ended.

        It ends with the token at work once `stop` is set.

        Raises:
            UnavailableError: the service was closed.
            ConfigError: its settings cannot be.
        """
        with self._wake:
            if self._closing:
                raise UnavailableError("SERVER-04", "the engine was closed")
            generation = Generation(request, stop=stop or threading.Event())
            self._notify[generation] = notify  # before the engine's thread can see it
            try:
                self.engine.queue(generation)
            except SwiftError:
                del self._notify[generation]
                raise
            self._wake.notify()
        return generation

    def stream(self, request: Request, stop: threading.Event) -> Iterator[Generation]:
        """The same answer again and again as it grows, the last time finished; it ends once `stop` is set."""
        changes: queue.SimpleQueue[None] = queue.SimpleQueue()
        generation = self.submit(request, lambda: changes.put(None), Either(stop))
        try:
            ended = False
            while not ended:
                changes.get()
                if generation.failure is not None:
                    raise generation.failure
                ended = generation.finish_reason is not None
                yield generation
        finally:
            generation.cancel()

    def run(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The finished answers to `requests`, as they end."""
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        going = [self.submit(request, lambda: ended.put(None)) for request in requests]
        while going:
            ended.get()
            for generation in [each for each in going if each.finish_reason or each.failure]:
                going.remove(generation)
                if generation.failure is not None:
                    raise generation.failure
                yield generation

    def between_steps(self, job: Callable[[], Given]) -> Future[Given]:
        """Do something with the model while no answer is at work on it: what it gives, or its exception."""
        future: Future[Given] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except Exception as error:  # whoever asked for it gets it
                future.set_exception(error)

        with self._wake:
            if self._closing:
                raise UnavailableError("SERVER-04", "the engine was closed")
            self._jobs.put(do)
            self._wake.notify()
        return future

    def cancel_all(self) -> None:
        """End every answer with the token at work."""
        for generation in list(self._notify):
            generation.cancel()

    def close(self) -> None:
        """End every answer with the token at work, and the thread."""
        with self._wake:
            self._closing = True
            self.cancel_all()
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self.engine.busy or not self._jobs.empty())
                if self._closing and not self.engine.busy:
                    return
            while not self._jobs.empty():
                self._jobs.get()()
            try:
                changed = self.engine.step() if self.engine.busy else []
            except Exception as error:  # one bad batch must not end the service
                logger.error(f"the answers at work failed: {type(error).__name__}: {error}")
                changed = self.engine.give_up(error)
                changed += [each for each in list(self._notify) if each.finish_reason or each.failure]  # not told yet
            for generation in changed:
                self._tell(generation)

    def _tell(self, generation: Generation) -> None:
        ended = generation.finish_reason is not None or generation.failure is not None
        notify = self._notify.pop(generation, None) if ended else self._notify.get(generation)
        if notify is not None:
            notify()
