"""What answers: requests, answers that grow, and the engines behind them.

`batching.Batching` answers many at once with a transformers model; `whole.Whole` is `model.generate`, for the models
and settings that it does not serve.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from transformers import GenerationConfig

from swift.inference.answer import Reader
from swift.inference.constraint import Constraint

BASE = "__base__"  # what PEFT calls a row without an adapter
Reason = Literal["stop", "length", "stopped"]


@dataclass(frozen=True)
class Request:
    """What to continue, and how.

    `config` is one of `prepare_generation_config`; `seed` None draws one from PyTorch's generator; `adapter` None is
    what is active, BASE none, also where no adapter was ever put on; `logprobs` is how many of the likeliest tokens to
    report beside the chosen one, None not even that one; `presence`, `frequency` and `bias` are those of `Sampler`;
    `constraint` makes what rules tokens out.
    """

    prompt_ids: list[int]
    config: GenerationConfig
    reader: Reader
    seed: int | None = None
    adapter: str | None = None
    logprobs: int | None = None
    presence: float = 0.0
    frequency: float = 0.0
    constraint: Callable[[], Constraint] | None = None
    bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of the probabilities that the model itself gives, before any sampling option."""

    id: int
    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass(eq=False)
class Generation:
    """An answer that grows: `ids` with the one that ends it; `finish_reason` is None until it has ended."""

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: Reason | None = None
    failure: Exception | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Draw a seed where nobody said one, so that an answer depends on when it was asked for alone."""
        self.seed = self.request.seed
        if self.seed is None and self.request.config.do_sample:
            self.seed = int(torch.randint(2**62, ()))

    def cancel(self) -> None:
        """End it with the token at work, from any thread."""
        self.stop.set()

    def add(self, token: int) -> None:
        """One token more, which may end it."""
        self.ids.append(token)
        reader, limit = self.request.reader, self.request.config.max_new_tokens
        if reader.ends(self.ids):
            self.finish_reason = "stop"
        elif len(self.ids) >= limit:
            self.finish_reason = "length"


class Either(threading.Event):
    """An event that is set once it or `other` is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self.other = other

    def is_set(self) -> bool:
        """Whether one of the two is."""
        return super().is_set() or self.other.is_set()


class Engine(Protocol):
    """Continues prompts."""

    def run(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The finished answers to `requests`, as they end; so many are drawn from the iterable as are needed."""
        ...

    def stream(self, request: Request, stop: threading.Event) -> Iterator[Generation]:
        """The same answer again and again as it grows, the last time finished; it ends once `stop` is set."""
        ...


class Stepwise(ABC):
    """An engine that writes a token more for each of its rows at every step; all but `submit` belong to one thread."""

    slots: int
    model: Any  # what it answers with
    knows: Callable[[str | None], bool]  # whether an adapter is still there

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a step would do anything."""

    @property
    @abstractmethod
    def num_running(self) -> int:
        """Requests that are being answered."""

    @property
    @abstractmethod
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""

    @abstractmethod
    def queue(self, generation: Generation) -> None:
        """Queue an answer, from any thread."""

    @abstractmethod
    def step(self) -> list[Generation]:
        """One token more for every row, after new ones came in; the answers that grew or ended."""

    @abstractmethod
    def cancel_adapter(self, adapter: str) -> int:
        """End all answers by an adapter with the next step; how many there are."""

    @abstractmethod
    def forget_adapter(self, adapter: str) -> None:
        """Forget what an adapter computed: another may come with its name."""

    @abstractmethod
    def give_up(self, error: Exception) -> list[Generation]:
        """Forget every answer that is at work because of `error`; those that wait are left."""

    def submit(self, request: Request, stop: threading.Event | None = None) -> Generation:
        """Queue a request, from any thread; once `stop` is set it ends with the token at work."""
        generation = Generation(request, stop=stop or threading.Event())
        self.queue(generation)
        return generation

    def run(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The finished answers to `requests`, as they end; so many are drawn from the iterable as are needed."""
        source, mine = iter(requests), set[Generation]()
        while True:
            while self.num_waiting < 2 * self.slots and (request := next(source, None)) is not None:
                mine.add(self.submit(request))
            if not mine:
                return
            for generation in self.step():
                if generation.failure is not None:
                    raise generation.failure
                if generation.finish_reason and generation in mine:
                    mine.remove(generation)
                    yield generation

    def stream(self, request: Request, stop: threading.Event) -> Iterator[Generation]:
        """The same answer again and again as it grows, the last time finished; it ends once `stop` is set."""
        generation = self.submit(request, Either(stop))
        try:
            while generation.finish_reason is None:
                if generation in self.step():
                    if generation.failure is not None:
                        raise generation.failure
                    yield generation
        finally:
            generation.cancel()
