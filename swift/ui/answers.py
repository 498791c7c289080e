"""What the page does, without the page: a person's conversation, its answers as they are written, and how to stop."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import GenerationConfig

from swift.arguments.app_ui import AppUIArguments
from swift.errors import DataError, SwiftError
from swift.inference.batching import Batching, serves
from swift.inference.generate import inference_stream
from swift.inference.prefixes import Prefixes
from swift.inference.prompt import History
from swift.inference.service import Service
from swift.inference.settings import max_model_length, prepare_generation_config
from swift.templates.encoding import Template
from swift.ui.words import Words

SECONDS_BETWEEN_VIEWS = 0.05
LONGEST_MESSAGE = 200_000  # characters; beyond any model's reach, and cheap to look at
SHARE_FOR_ANSWER = 4  # at least this part of the model's length, or the longest answer, is kept free of history


@dataclass(frozen=True)
class Settings:
    """What a person chose beside the conversation; `seed` None is a new one for each answer."""

    system: str
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    repetition_penalty: float
    seed: int | None

    def generation_config(self) -> GenerationConfig:
        """These settings for transformers."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
            do_sample=self.temperature > 0,
            **(sampling if self.temperature > 0 else {}),
        )


@dataclass(frozen=True)
class Talk:
    """One person's conversation: all rounds so far, the message that is being answered, and the answer so far."""

    rounds: History = field(default_factory=list)
    asked: str | None = None
    answer: str = ""

    def messages(self) -> list[dict[str, str]]:
        """Role and content of every message, the one being answered included."""
        pairs = [*self.rounds, *([[self.asked, self.answer]] if self.asked is not None else [])]
        said = [{"role": role, "content": text} for pair in pairs for role, text in zip(ROLES, pair, strict=True)]
        return [message for message in said if message["role"] == "user" or message["content"]]


ROLES = ("user", "assistant")


@dataclass(frozen=True)
class View:
    """What one person sees: the conversation, one line below it, what stands in the box (None leaves it).

    While it is `busy` an answer can be stopped, and nothing else be done.
    """

    talk: Talk
    status: str = ""
    box: str | None = None
    busy: bool = False


class Running:
    """The answers that are being written, by whom they are for."""

    def __init__(self) -> None:
        self.stops: dict[str, threading.Event] = {}

    def begin(self, person: str) -> threading.Event:
        """The event that stops this person's next answer; it may be set before the answer has begun."""
        return self.stops.setdefault(person, threading.Event())

    def stop(self, person: str) -> None:
        """End this person's answer with the token at work."""
        if person in self.stops:
            self.stops[person].set()

    def end(self, person: str, stop: threading.Event) -> None:
        """Forget an answer that has ended, unless this person waits for another one by now."""
        if self.stops.get(person) is stop:
            del self.stops[person]

    def leave(self, person: str) -> None:
        """End this person's answer; there will be no other."""
        self.stop(person)
        self.stops.pop(person, None)

    def stop_all(self) -> None:
        """End every answer."""
        for stop in list(self.stops.values()):
            stop.set()


class Answers:
    """Answers everybody's messages with one model.

    Args:
        args: decided options; their sampling is what the page begins with.
        model: a causal language model, with or without tuners.
        template: its chat template, without a limit of its own: `args.max_length` is held here.
        words: the language to speak.
    """

    def __init__(self, args: AppUIArguments, model: Any, template: Template, words: Words) -> None:
        self.args, self.model, self.template, self.words = args, model, template, words
        self.running = Running()
        plain = prepare_generation_config(model, template, GenerationConfig())
        self.service = Service(Batching(model, args.concurrency, prefixes=Prefixes())) if serves(model, plain) else None
        self.own_system = args.system or template.default_system or ""
        self.model_length = max_model_length(model)

    def close(self) -> None:
        """End every answer."""
        self.running.stop_all()
        if self.service is not None:
            self.service.close()

    def settings(self) -> Settings:
        """What the page begins with."""
        args, limit = self.args, self.model_length
        longest = args.max_new_tokens if limit is None else min(args.max_new_tokens, limit)
        temperature = args.temperature if args.do_sample else 0.0
        return Settings(
            self.own_system, temperature, args.top_p, args.top_k, longest, args.repetition_penalty, args.seed
        )

    def ask(self, text: str, talk: Talk, person: str) -> View:
        """The view at once after a message was sent; an empty one changes nothing."""
        if not text.strip():
            return View(talk)
        self.running.begin(person)
        return View(replace(talk, asked=text), self.words.waiting, "", busy=True)

    def retry(self, talk: Talk, person: str) -> View:
        """The view with the last message asked once more."""
        if not talk.rounds:
            return View(talk)
        self.running.begin(person)
        return View(Talk(talk.rounds[:-1], talk.rounds[-1][0]), self.words.waiting, busy=True)

    def undo(self, talk: Talk) -> View:
        """The view without the last round, whose message is back in the box."""
        return View(Talk(talk.rounds[:-1]), box=talk.rounds[-1][0]) if talk.rounds else View(talk)

    def answer(self, talk: Talk, settings: Settings, person: str) -> Iterator[View]:
        """Views while the message that was asked is answered; the last is at rest, also when there is no answer."""
        if talk.asked is None:
            return
        stop, before = self.running.begin(person), Talk(talk.rounds)
        info: dict[str, Any] = {}
        rounds: History = []
        try:
            if not stop.is_set():
                yield View(talk, self.words.working, busy=True)
                for rounds in self._rounds(talk.asked, talk.rounds, settings, stop, info):
                    yield View(replace(talk, answer=rounds[-1][1]), self.words.working, busy=True)
        except SwiftError as error:
            yield View(before, error.what, talk.asked)
            return
        finally:
            self.running.end(person, stop)
        if not rounds or not rounds[-1][1]:
            yield View(before, self.words.stopped if stop.is_set() else self.words.nothing, talk.asked)
        else:
            yield View(Talk(rounds), self.describe(info, len(talk.rounds)))

    def recover(self, talk: Talk) -> View | None:
        """The view after an answer that ended in an error nobody expected; None after one that ended well."""
        return None if talk.asked is None else View(Talk(talk.rounds), self.words.failed, talk.asked)

    def complete(self, text: str, settings: Settings, person: str) -> Iterator[tuple[str, str]]:
        """The continuation of a text so far and the line below it."""
        for view in self.answer(Talk(asked=text), settings, person):
            yield view.talk.rounds[-1][1] if view.talk.rounds else view.talk.answer, view.status

    def describe(self, info: dict[str, Any], rounds: int) -> str:
        """The line below a finished answer: its tokens, its seed, why it ended, what of the history was left out."""
        words = self.words
        facts = [
            words.done.format(
                prompt=info["num_prompt_tokens"], new=info["num_generated_tokens"], speed=info["tokens/s"]
            )
        ]
        facts += [words.seeded.format(seed=info["seed"])] if info["seed"] is not None else []
        facts += [words.cut] if info["finish_reason"] == "length" else []
        facts += [words.stopped] if info["finish_reason"] == "stopped" else []
        facts += [words.dropped.format(count=info["dropped"], all=rounds)] if info["dropped"] else []
        return " · ".join(facts)

    def _rounds(
        self, asked: str, rounds: History, settings: Settings, stop: threading.Event, info: dict[str, Any]
    ) -> Iterator[History]:
        """All rounds with the answer as it grows, a few times a second at most; the last has the whole of it."""
        if len(asked) > LONGEST_MESSAGE:
            raise DataError("DATA-06", self.words.too_long.format(tokens=f"> {LONGEST_MESSAGE}", limit="…"))
        system = None if settings.system == self.own_system else settings.system
        sampled = settings.temperature > 0
        info["seed"] = (secrets.randbelow(2**32) if settings.seed is None else settings.seed) if sampled else None
        fitting = self._fitting(asked, rounds, system, settings.max_new_tokens)
        info["dropped"] = len(rounds) - len(fitting)
        before, shown, latest = rounds[: info["dropped"]], time.monotonic(), None
        for _, history in inference_stream(
            self.model,
            self.template,
            asked,
            fitting,
            self.args.system if system is None else system,
            generation_config=settings.generation_config(),
            stop_words=self.args.stop_words,
            generation_info=info,
            seed=info["seed"],
            stop=stop,
            engine=self.service,
        ):
            latest = [*before, *history]
            if self.args.stream and not stop.is_set() and time.monotonic() - shown > SECONDS_BETWEEN_VIEWS:
                yield latest
                shown = time.monotonic()
        if latest is not None:
            yield latest

    def _fitting(self, asked: str, rounds: History, system: str | None, new_tokens: int) -> History:
        """The rounds that the model sees: the latest, as many as leave room for the message and an answer."""

        def tokens(history: History) -> int:
            row = {"query": asked, "history": history, "system": self.args.system if system is None else system}
            return len(self.template.encode(row)[0]["input_ids"])

        limits = [self.args.max_length] if self.args.max_length > 0 else []
        if self.model_length is not None:
            limits.append(self.model_length - min(new_tokens, self.model_length // SHARE_FOR_ANSWER))
        if not limits:
            return rounds
        fitting = fit_history(tokens, rounds, min(limits))
        if fitting is None:
            raise DataError("DATA-06", self.words.too_long.format(tokens=tokens([]), limit=min(limits)))
        return fitting


def fit_history(tokens: Callable[[History], int], rounds: History, limit: int) -> History | None:
    """The longest end of `rounds` with at most `limit` tokens, found by halving; None when not even none fits."""
    low, high = 0, len(rounds) + 1  # rounds[high:] fits, or high is beyond; rounds[:low] are known not to
    while low < high:
        middle = (low + high) // 2
        if middle > len(rounds) or tokens(rounds[middle:]) <= limit:
            high = middle
        else:
            low = middle + 1
    return None if low > len(rounds) else rounds[low:]
