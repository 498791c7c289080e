"""What the page does, without the page: a person's conversation, its answers as they are written, and how to stop."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig

from swift.arguments.app_ui import AppUIArguments
from swift.errors import DataError, SwiftError
from swift.inference.answer import Reader
from swift.inference.engine import Engine, Generation, Request
from swift.inference.generate import shared_engine
from swift.inference.prompt import make_turn
from swift.inference.service import Service
from swift.inference.settings import max_model_length, prepare_generation_config
from swift.inference.whole import Whole
from swift.templates.calls import read_calls
from swift.templates.conversation import Tool
from swift.templates.encoding import Template
from swift.templates.tools import Call
from swift.ui.running import Running
from swift.ui.talk import Facts, Reply, Round, Talk, View, read_talk
from swift.ui.together import together
from swift.ui.words import ENGLISH, Words

SECONDS_BETWEEN_VIEWS = 0.05
LONGEST_MESSAGE = 200_000  # characters; beyond any model's reach, and cheap to look at
SHARE_FOR_ANSWER = 4  # at least this part of the model's length, or the longest answer, is kept free of history
COLUMNS = 2  # models that can answer side by side


@dataclass(frozen=True)
class Person:
    """Whose page it is: an open tab, not an account; and the language that it speaks."""

    tab: str
    words: Words = ENGLISH


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


class Answers:
    """Answers everybody's messages with one model, with or without adapters.

    Args:
        args: decided options; their sampling is what the page begins with.
        model: a causal language model, with or without tuners.
        template: its chat template, without a limit of its own: `args.max_length` is held here.
        models: what answers, as the page calls it, and the adapter that it means; the first is what is asked at first.
        tools: what the model may call.
    """

    def __init__(
        self,
        args: AppUIArguments,
        model: Any,
        template: Template,
        models: Mapping[str, str | None] | None = None,
        tools: Sequence[Tool] = (),
    ) -> None:
        self.args, self.model, self.template, self.tools = args, model, template, list(tools)
        self.models = dict(models or {"": None})
        self.running = Running()
        plain = prepare_generation_config(model, template, GenerationConfig())
        slots = args.concurrency * min(COLUMNS, len(self.models))
        engine = shared_engine(model, plain, slots)
        self.service = None if engine is None else Service(engine)
        self.engine: Engine = self.service or Whole(model, 1)
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

    def ask(self, text: str, talk: Talk, person: Person) -> View:
        """The view at once after a message was sent; an empty one changes nothing."""
        if talk.going is not None or not text.strip():
            return View(talk, busy=talk.going is not None)
        waited = self.awaited(talk)
        return self._begin(Talk(talk.rounds, Round(text, tool=waited[0].name if waited else None)), person, "")

    def retry(self, talk: Talk, person: Person, number: int = -1) -> View:
        """The view with a message, the last one unless said, asked once more; what came after it is gone."""
        return self._again(talk, person, number, None)

    def edit(self, talk: Talk, person: Person, number: int, text: str) -> View:
        """The view with a message in other words, asked once more; what came after it is gone."""
        return self._again(talk, person, number, text) if text.strip() else View(talk)

    def undo(self, talk: Talk) -> View:
        """The view without the last round, whose message is back in the box."""
        if talk.going is not None or not talk.rounds:
            return View(talk, busy=talk.going is not None)
        return View(talk.until(-1), box=talk.rounds[-1].asked)

    def delete(self, talk: Talk, number: int) -> View:
        """The view without one round, if there is one of this number; the others are as they were."""
        if talk.going is not None or not 0 <= number < len(talk.rounds):
            return View(talk, busy=talk.going is not None)
        return View(talk.without(number))

    def open(self, text: str, talk: Talk, words: Words) -> tuple[View, str | None]:
        """The view of a conversation from a file, and its system prompt; None where the file holds none."""
        if talk.going is not None:
            return View(talk, busy=True), None
        try:
            found, system = read_talk(text)
        except DataError as error:
            return View(talk, words.not_a_talk.format(why=error.what)), None
        return View(found), system

    def answer(self, talk: Talk, settings: Settings, person: Person, models: Sequence[str] = ()) -> Generator[View]:
        """Views while the message that was asked is answered; the last is at rest, also when there is no answer.

        Args:
            talk: the conversation with the message.
            settings: how to answer it.
            person: who asked.
            models: what answers, of the names in `models`, one or two; none is the first there.
        """
        if talk.going is None:
            return
        words, asked = person.words, talk.going
        stop, before = self.running.begin(person.tab), Talk(talk.rounds)
        replies = [Reply(name) for name in dict.fromkeys(models or [next(iter(self.models))])][:COLUMNS]
        stopped = True
        try:
            if not stop.is_set():
                yield View(_going(talk, replies), words.working, busy=True)
                yield from self._grow_all(talk, settings, replies, stop, words)
            stopped = stop.is_set()
        except SwiftError as error:
            yield View(before, error.what, asked.asked)
            return
        finally:
            stop.set()  # an answer beside one that failed, or that nobody reads any more
            self.running.end(person.tab, stop)
        if not any(reply.text for reply in replies):
            yield View(before, words.stopped if stopped else words.nothing, asked.asked)
        else:
            yield View(Talk((*talk.rounds, replace(asked, replies=tuple(replies)))))

    def recover(self, talk: Talk, words: Words) -> View | None:
        """The view after an answer that ended in an error nobody expected; None after one that ended well."""
        return None if talk.going is None else View(Talk(talk.rounds), words.failed, talk.going.asked)

    def read_calls(self, text: str) -> tuple[str, list[Call]]:
        """What an answer says beside its calls of tools, and those."""
        names = [str(tool["function"]["name"]) for tool in self.tools]
        return read_calls(text, self.template.tools_name, names) if names else (text, [])

    def awaited(self, talk: Talk) -> list[Call]:
        """The calls of tools that the last answer waits for."""
        return self.read_calls(talk.rounds[-1].reply(0).text)[1] if talk.rounds else []

    def _begin(self, talk: Talk, person: Person, box: str | None = None) -> View:
        self.running.begin(person.tab)
        return View(talk, person.words.waiting, box, busy=True)

    def _again(self, talk: Talk, person: Person, number: int, text: str | None) -> View:
        if talk.going is not None or not -1 <= number < len(talk.rounds) or not talk.rounds:
            return View(talk, busy=talk.going is not None)
        turn = talk.rounds[number]
        again = Round(turn.asked if text is None else text, tool=turn.tool)
        return self._begin(replace(talk.until(number), going=again), person)

    def _grow_all(
        self, talk: Talk, settings: Settings, replies: list[Reply], stop: threading.Event, words: Words
    ) -> Iterator[View]:
        """Views with all answers as they grow, a few times a second at most; `replies` has the whole of them."""
        sampled = settings.temperature > 0
        seed = (secrets.randbelow(2**32) if settings.seed is None else settings.seed) if sampled else None
        streams = [self._grow(talk, k, reply.model, settings, seed, stop, words) for k, reply in enumerate(replies)]
        shown = time.monotonic()
        for k, reply in together(streams):
            replies[k] = reply
            if self.args.stream and not stop.is_set() and time.monotonic() - shown > SECONDS_BETWEEN_VIEWS:
                yield View(_going(talk, replies), words.working, busy=True)
                shown = time.monotonic()

    def _grow(
        self, talk: Talk, column: int, model: str, settings: Settings, seed: int | None, stop: threading.Event,
        words: Words,
    ) -> Iterator[Reply]:  # fmt: skip
        """One model's answer as it grows; the last has its facts."""
        rounds = self._fitting(talk, column, settings, words)
        turn = make_turn(self.template, self._row(talk, rounds, column, settings))
        said, length = settings.generation_config(), len(turn.prompt_ids)
        said.prompt_lookup_num_tokens = self.args.prompt_lookup_num_tokens
        config = prepare_generation_config(self.model, self.template, said, num_prompt_tokens=length)
        if not length or config.max_new_tokens < 1:
            raise DataError("DATA-06", words.too_long.format(tokens=length, limit=self.model_length))
        reader = Reader(
            self.template, config.eos_token_id, self.args.stop_words, turn.tokenizer_kwargs, turn.stop_after
        )
        request = Request(turn.prompt_ids, config, reader, seed, self.models[model])
        started, last = time.perf_counter(), Generation(request)
        for last in self.engine.stream(request, stop):
            if last.finish_reason is None:
                yield Reply(model, reader.so_far(last.ids))
        assert last.finish_reason
        new, dropped = len(last.ids), len(talk.rounds) - len(rounds)
        speed = new / (time.perf_counter() - started)
        facts = Facts(length, new, speed, seed, last.finish_reason, dropped, len(talk.rounds))
        yield Reply(model, reader.whole(last.ids), facts)

    def _row(self, talk: Talk, rounds: Sequence[Round], column: int, settings: Settings) -> dict[str, Any]:
        """What the model is asked, as a row of a data set."""
        assert talk.going
        system = self.args.system if settings.system == self.own_system else settings.system
        messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
        for turn in rounds:
            messages += [turn.message, {"role": "assistant", "content": turn.reply(column).text}]
        return {"messages": [*messages, talk.going.message], "tools": self.tools or None}

    def _fitting(self, talk: Talk, column: int, settings: Settings, words: Words) -> Sequence[Round]:
        """The rounds that the model sees: the latest, as many as leave room for the message and an answer."""
        assert talk.going

        def tokens(groups: Sequence[Sequence[Round]]) -> int:
            rounds = [turn for group in groups for turn in group]
            return len(self.template.encode(self._row(talk, rounds, column, settings))[0]["input_ids"])

        limits = [self.args.max_length] if self.args.max_length > 0 else []
        if self.model_length is not None:
            limits.append(self.model_length - min(settings.max_new_tokens, self.model_length // SHARE_FOR_ANSWER))
        if len(talk.going.asked) > LONGEST_MESSAGE:
            raise DataError("DATA-06", words.too_long.format(tokens=f"> {LONGEST_MESSAGE}", limit="…"))
        if not limits:
            return talk.rounds
        *groups, kept = _with_their_calls(talk)
        fitting = fit_history(lambda rest: tokens([*rest, kept]), groups, min(limits))
        if fitting is None:
            raise DataError("DATA-06", words.too_long.format(tokens=tokens([kept]), limit=min(limits)))
        return [turn for group in [*fitting, kept] for turn in group]


def fit_history(tokens: Callable[[Sequence[Any]], int], rounds: Sequence[Any], limit: int) -> Sequence[Any] | None:
    """The longest end of `rounds` with at most `limit` tokens, found by halving; None when not even none fits."""
    low, high = 0, len(rounds) + 1  # rounds[high:] fits, or high is beyond; rounds[:low] are known not to
    while low < high:
        middle = (low + high) // 2
        if middle > len(rounds) or tokens(rounds[middle:]) <= limit:
            high = middle
        else:
            low = middle + 1
    return None if low > len(rounds) else rounds[low:]


def _with_their_calls(talk: Talk) -> list[list[Round]]:
    """The rounds in groups that may not be parted: what a tool answered stays with its call; the last goes on now."""
    groups: list[list[Round]] = []
    for turn in talk.rounds:
        if turn.tool and groups:
            groups[-1].append(turn)
        else:
            groups.append([turn])
    assert talk.going
    return groups if talk.going.tool and groups else [*groups, []]


def _going(talk: Talk, replies: Sequence[Reply]) -> Talk:
    assert talk.going
    return replace(talk, going=replace(talk.going, replies=tuple(replies)))
