"""The answers to one question, waited for without a thread: the engine's thread says when they grew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from swift.errors import SwiftError
from swift.inference.answer import Following
from swift.inference.engine import Generation
from swift.inference.service import Service
from swift.log import get_logger
from swift.serving.asking import Question
from swift.serving.measures import Measures
from swift.serving.protocol import ApiError

logger = get_logger()
SECONDS_TO_WAIT = 1


class Growing:
    """What the engine writes for a question, while somebody waits for it.

    Args:
        service: whose engine answers.
        measures: is told how long it took.
        question: what is asked.

    Raises:
        ApiError: the server is ending.
    """

    def __init__(self, service: Service, measures: Measures, question: Question) -> None:
        self.measures, self.question = measures, question
        self.changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.changed.set)

        self.generations: list[Generation] = []
        self.started, self.began, self.counted = time.perf_counter(), False, False
        try:
            for request in question.requests:
                self.generations.append(service.submit(request, tell))
        except SwiftError as error:
            self.cancel()
            raise ApiError(503, error.what, wait=SECONDS_TO_WAIT) from None

    @property
    def num_generated_tokens(self) -> int:
        """Of all answers together."""
        return sum(len(generation.ids) for generation in self.generations)

    async def changes(self) -> AsyncIterator[list[Generation]]:
        """The answers whenever they grew, the last time all finished.

        Raises:
            ApiError: the model failed.
        """
        try:
            while True:
                await self.changed.wait()
                self.changed.clear()
                for generation in self.generations:
                    if (failure := generation.failure) is not None:
                        logger.error(f"an answer failed: {type(failure).__name__}: {failure}")
                        raise ApiError(500, "the model failed at this request; the server's log says more")
                if not self.began and any(generation.ids for generation in self.generations):
                    self.began = True
                    self.measures.began(time.perf_counter() - self.started)
                ended = all(generation.finish_reason for generation in self.generations)
                yield self.generations
                if ended:
                    self._count()
                    self.measures.took(time.perf_counter() - self.started)
                    return
        finally:
            self.cancel()

    async def whole(self) -> list[Generation]:
        """The finished answers."""
        async for _ in self.changes():
            pass
        return self.generations

    async def pieces(self, wait: bool = False) -> AsyncIterator[tuple[int, str, int, bool]]:
        """(number of the answer, what is new of its text, its tokens so far, whether that is all) as they grow.

        With `wait` only whole answers are told. Texts of finished ones are read in a thread: they may be long.
        """
        followed = [Following(generation.request.reader) for generation in self.generations]
        shown = [""] * len(followed)
        open_ones = set(range(len(followed)))
        async for generations in self.changes():
            for k in sorted(open_ones):
                ended, ids = generations[k].finish_reason is not None, list(generations[k].ids)
                if ended:
                    open_ones.discard(k)
                    text = await run_in_threadpool(followed[k].reader.whole, ids)
                else:
                    text = "" if wait else followed[k].so_far(ids)
                if ended or (len(text) > len(shown[k]) and text.startswith(shown[k])):
                    yield k, text[len(shown[k]) :], len(ids), ended
                    shown[k] = text

    def cancel(self) -> None:
        """End the answers with the token at work; what they have is counted, also where nobody reads it."""
        for generation in self.generations:
            generation.cancel()
        self._count()

    def _count(self) -> None:
        if not self.counted and self.num_generated_tokens:
            self.counted = True
            self.measures.wrote(self.question.num_prompt_tokens, self.num_generated_tokens)
