"""Ask a model: one question at a time, whole or as it is written, or many questions in batches.

`inference`, `inference_stream` and `generate_batch` give the same answer to the same question when nothing is sampled:
token for token the one of `model.generate`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from swift.inference.answer import Following, Reader
from swift.inference.batching import Batching, serves
from swift.inference.engine import Engine, Generation, Request, Stepwise
from swift.inference.prefixes import Prefixes
from swift.inference.prompt import History, Turn, make_turn, require_fit
from swift.inference.settings import prepare_generation_config, require_room
from swift.inference.vllm_engine import VllmModel, check_settings
from swift.inference.whole import Whole
from swift.log import get_logger
from swift.templates.encoding import Template

logger = get_logger()
ROWS = 1_000_003  # more than a data set has, so that the rows of two seeds have no seed in common
BATCHES = 4  # whose rows are sorted by length together: as many answers may wait for an earlier one


@dataclass(frozen=True)
class Answer:
    """What a model said to one row, and why it ended.

    `finish_reason` is "stop", "length", "stopped" by whoever asked, or "too_long" when the prompt does not fit.
    """

    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: Literal["stop", "length", "stopped", "too_long"]


def inference(
    model: Any,
    template: Template,
    query: str | None,
    history: Sequence[Sequence[str]] | None = None,
    system: str | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    stop_words: Sequence[str] | None = None,
    stream: bool = False,
    verbose: bool = False,
    prompt_prefix: str = "[PROMPT]",
    output_prefix: str = "[OUTPUT]",
    generation_info: dict[str, Any] | None = None,
    adapter_names: list[str] | None = None,
    tools: Sequence[Mapping[str, Any]] | str | None = None,
) -> tuple[str, History]:
    """The answer to `query`, and `history` with this turn added; nothing that is given is changed.

    An answer that ended in `Observation:`, as one that calls a tool in words does, goes on after the query, in the same
    turn.

    Args:
        model: a causal language model, with or without tuners.
        template: its chat template.
        query: the question.
        history: earlier [query, answer] pairs, oldest first.
        system: None is the template's own, "" is none.
        generation_config: None is the model's own.
        stop_words: texts that end the answer, besides the template's.
        stream: print the answer while it is written; only with `verbose`.
        verbose: print the prompt and the answer.
        prompt_prefix: printed before the prompt.
        output_prefix: printed before the answer.
        generation_info: receives num_prompt_tokens, num_generated_tokens, finish_reason, runtime (seconds), tokens/s.
        adapter_names: the PEFT adapter to use, in a list of one.
        tools: what the model may call, as a row of a data set has it.

    Raises:
        DataError: the prompt leaves no room for an answer.
    """
    row = {"query": query, "history": history, "system": system, "tools": tools}
    question = _Question(model, template, make_turn(template, row), generation_config, stop_words, adapter_names)
    info = {} if generation_info is None else generation_info
    if stream and not verbose:
        logger.warning("stream shows nothing without verbose; inference_stream gives an answer as it is written")
    if not verbose:
        text = _whole(question, info)
        return text, question.turn.history_with(text)
    _print(f"{prompt_prefix}{template.tokenizer.decode(question.turn.prompt_ids)}{output_prefix}")
    text = ""
    for longer in _stream(question, info, threading.Event()) if stream else [_whole(question, info)]:
        _print(longer[len(text) :])
        text = longer
    _print("\n")
    return text, question.turn.history_with(text)


def inference_stream(
    model: Any,
    template: Template,
    query: str | None,
    history: Sequence[Sequence[str]] | None = None,
    system: str | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    stop_words: Sequence[str] | None = None,
    generation_info: dict[str, Any] | None = None,
    adapter_names: list[str] | None = None,
    seed: int | None = None,
    stop: threading.Event | None = None,
    tools: Sequence[Mapping[str, Any]] | str | None = None,
    engine: Engine | None = None,
) -> Iterator[tuple[str, History]]:
    """The answer so far and the history with it, again and again; the last is what `inference` returns.

    Only whole words and characters are shown, and nothing that could be the beginning of a stop word. Closing the
    iterator ends the generation. Arguments are those of `inference`, and three more: `seed`, to sample from it alone
    (None draws one from PyTorch's own generator), `stop`: once it is set, by whatever thread, the answer ends with the
    token at work, and `finish_reason` is "stopped", and `engine`: what generates, when others are answered by the same
    one (None makes one for this answer).

    Raises:
        UsageError: more than one beam.
        DataError: the prompt leaves no room for an answer.
    """
    row = {"query": query, "history": history, "system": system, "tools": tools}
    question = _Question(model, template, make_turn(template, row), generation_config, stop_words, adapter_names, seed)
    question.engine = engine or question.engine
    for text in _stream(question, {} if generation_info is None else generation_info, stop or threading.Event()):
        yield text, question.turn.history_with(text)


def generate_batch(
    model: Any,
    template: Template,
    rows: Iterable[Mapping[str, Any]],
    generation_config: GenerationConfig | None = None,
    batch_size: int = 16,
    *,
    stop_words: Sequence[str] | None = None,
    seed: int | None = None,
    first: int = 0,
) -> Iterator[tuple[int, Answer]]:
    """The number of each row and its answer, in the order of the rows.

    Rows of similar length are padded to the left and answered together. A prompt that does not fit gets the
    answer "" with `finish_reason` "too_long".

    Args:
        model: a causal language model, with or without tuners.
        template: its chat template.
        rows: what `template.encode` takes, without the answer.
        generation_config: None is the model's own.
        batch_size: how many rows are answered at once.
        stop_words: texts that end an answer, besides the template's.
        seed: of sampling; each row has its own from this and its number. None draws from PyTorch's own generator.
        first: the number of the first of `rows`.
    """
    engine = choose_engine(model, prepare_generation_config(model, template, generation_config), batch_size)
    numbers: dict[int, tuple[int, Turn]] = {}
    answers: dict[int, Answer] = {}
    following = first
    numbered = enumerate(rows, first)
    window = BATCHES * batch_size
    asked = _requests(model, template, numbered, window, generation_config, stop_words, seed, numbers, answers)
    for generation in engine.run(asked):
        number, turn = numbers.pop(id(generation.request))
        answers[number] = _answer(generation, turn)
        while following in answers:
            yield following, answers.pop(following)
            following += 1
    yield from sorted(answers.items())


def choose_engine(model: Any, config: GenerationConfig, slots: int = 1) -> Engine:
    """What continues prompts with `model` as `config` says, so many at once."""
    if isinstance(model, VllmModel):
        check_settings(config)
        return model.engine
    return Batching(model, slots) if serves(model, config) else Whole(model, slots)


def shared_engine(model: Any, config: GenerationConfig, slots: int) -> Stepwise | None:
    """What answers many who come and go, and does not read again what it knows; None when `model` cannot so."""
    if isinstance(model, VllmModel):
        return model.engine
    return Batching(model, slots, prefixes=Prefixes()) if serves(model, config) else None


def to_device(value: Any, device: torch.device | str) -> Any:
    """`value` with every tensor in it, through mappings, lists and tuples, on `device`; the rest as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


class _Question:
    """One turn with the settings that its answer is generated with."""

    def __init__(
        self,
        model: Any,
        template: Template,
        turn: Turn,
        said: GenerationConfig | None,
        stop_words: Sequence[str] | None,
        adapter_names: list[str] | None,
        seed: int | None = None,
    ) -> None:
        require_fit(turn, template.max_length)
        self.model, self.turn = model, turn
        self.config = prepare_generation_config(model, template, said, num_prompt_tokens=len(turn.prompt_ids))
        require_room(model, self.config, len(turn.prompt_ids))
        reader = Reader(template, self.config.eos_token_id, stop_words or (), turn.tokenizer_kwargs, turn.stop_after)
        adapter = adapter_names[0] if adapter_names else None
        self.request = Request(turn.prompt_ids, self.config, reader, seed, adapter)
        self.engine = choose_engine(model, self.config)


def _answer(generation: Generation, turn: Turn) -> Answer:
    assert generation.finish_reason
    text = generation.request.reader.whole(generation.ids)
    return Answer(text, len(turn.prompt_ids), len(generation.ids), generation.finish_reason)


def _requests(
    model: Any,
    template: Template,
    numbered: Iterator[tuple[int, Mapping[str, Any]]],
    size: int,
    said: GenerationConfig | None,
    stop_words: Sequence[str] | None,
    seed: int | None,
    numbers: dict[int, tuple[int, Turn]],
    answers: dict[int, Answer],
) -> Iterator[Request]:
    """Requests for the rows, the longest first of each `size` of them; what does not fit is answered at once."""
    while window := list(islice(numbered, size)):
        turns = [(number, make_turn(template, row)) for number, row in window]
        for number, turn in sorted(turns, key=lambda item: -len(item[1].prompt_ids)):
            length = len(turn.prompt_ids)
            config = prepare_generation_config(model, template, said, num_prompt_tokens=length)
            if not length or config.max_new_tokens < 1:
                answers[number] = Answer("", length, 0, "too_long")
                continue
            kwargs = turn.tokenizer_kwargs
            reader = Reader(template, config.eos_token_id, stop_words or (), kwargs, turn.stop_after)
            own = None if seed is None else (seed * ROWS + number) % 2**63
            request = Request(turn.prompt_ids, config, reader, own)
            numbers[id(request)] = number, turn
            yield request


def _whole(question: _Question, info: dict[str, Any]) -> str:
    started = time.perf_counter()
    (generation,) = question.engine.run([question.request])
    answer = _answer(generation, question.turn)
    _fill_info(info, answer, started)
    return answer.text


def _stream(question: _Question, info: dict[str, Any], stop: threading.Event) -> Iterator[str]:
    """The answer as it grows, until it ends or `stop` is set."""
    following, shown, last = Following(question.request.reader), "", None
    started = time.perf_counter()
    for last in question.engine.stream(question.request, stop):
        longer = "" if last.finish_reason else following.so_far(last.ids)
        if len(longer) > len(shown) and longer.startswith(shown):
            shown = longer
            info["num_generated_tokens"] = len(last.ids)
            yield shown
    assert last
    answer = _answer(last, question.turn)
    _fill_info(info, answer, started)
    yield answer.text


def _fill_info(info: dict[str, Any], answer: Answer, started: float) -> None:
    runtime = time.perf_counter() - started
    info |= {
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_generated_tokens": answer.num_generated_tokens,
        "finish_reason": answer.finish_reason,
        "runtime": runtime,
        "tokens/s": answer.num_generated_tokens / runtime,
    }


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
