"""Ask a model: one question at a time, whole or as it is written, or many questions in batches.

`inference`, `inference_stream` and `generate_batch` give the same answer to the same question when nothing is sampled:
token for token the one of `model.generate`.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from swift.errors import DataError, UsageError
from swift.inference.answer import Reader, StopWhen
from swift.inference.prompt import History, Turn, make_turn, require_fit
from swift.inference.sampling import take_over
from swift.inference.settings import max_model_length, prepare_generation_config
from swift.log import get_logger
from swift.templates.encoding import Template
from swift.templates.stop import StopWordsCriteria
from swift.tuners.model import SwiftModel

logger = get_logger()
WINDOW_BATCHES = 16


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
) -> Iterator[tuple[str, History]]:
    """The answer so far and the history with it, again and again; the last is what `inference` returns.

    Only whole words and characters are shown, and nothing that could be the beginning of a stop word. Closing the
    iterator ends the generation. Arguments are those of `inference`, and two more: `seed`, to sample from it alone,
    whoever else samples meanwhile (None draws from PyTorch's own generator), and `stop`: once it is set, by whatever
    thread, the answer ends with the token at work, and `finish_reason` is "stopped".

    Raises:
        UsageError: more than one beam.
        DataError: the prompt leaves no room for an answer.
    """
    row = {"query": query, "history": history, "system": system, "tools": tools}
    question = _Question(model, template, make_turn(template, row), generation_config, stop_words, adapter_names, seed)
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
    """
    numbered = enumerate(rows)
    while window := list(islice(numbered, batch_size * WINDOW_BATCHES if batch_size > 1 else 1)):
        turns = [(number, make_turn(template, row)) for number, row in window]
        answers: dict[int, Answer] = {}
        for config, batch in _batches(model, template, turns, generation_config, batch_size):
            first = batch[0][1]
            reader = Reader(template, config.eos_token_id, stop_words or (), first.tokenizer_kwargs, first.stop_after)
            outputs = _generate(model, [turn.prompt_ids for _, turn in batch], config, reader)
            answers |= {n: _answer(reader, turn, ids) for (n, turn), ids in zip(batch, outputs, strict=True)}
        for number, turn in turns:
            yield number, answers.get(number, Answer("", len(turn.prompt_ids), 0, "too_long"))


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
        if self.config.max_new_tokens < 1:
            raise DataError(
                "DATA-06",
                f"the prompt of {len(turn.prompt_ids)} tokens leaves no room for an answer",
                why=f"the model reads at most {max_model_length(model)} tokens",
                fix="shorten the conversation, or clear the history",
            )
        self.reader = Reader(
            template, self.config.eos_token_id, stop_words or (), turn.tokenizer_kwargs, turn.stop_after
        )
        self.extra: dict[str, Any] = {"adapter_names": adapter_names} if adapter_names else {}
        if draws := take_over(self.config, seed):
            self.extra["logits_processor"] = LogitsProcessorList(draws)
        self.active = model.active_adapters if isinstance(model, SwiftModel) else None

    def generate(self, *criteria: Any, **kwargs: Any) -> list[int]:
        """The new ids, in whatever thread, with the adapters that run where the question was asked."""
        if self.active is not None and self.model.active_adapters != self.active:
            self.model.set_active_adapters(sorted(self.active))
        (ids,) = _generate(
            self.model, [self.turn.prompt_ids], self.config, self.reader, criteria, **self.extra, **kwargs
        )
        return ids


def _answer(reader: Reader, turn: Turn, ids: list[int]) -> Answer:
    reason = "stop" if reader.stopped(ids) else "length"
    return Answer(reader.whole(ids), len(turn.prompt_ids), reader.num_ids(ids), reason)


def _batches(
    model: Any, template: Template, turns: Sequence[tuple[int, Turn]], said: GenerationConfig | None, batch_size: int
) -> Iterator[tuple[GenerationConfig, list[tuple[int, Turn]]]]:
    """Batches of similar length, longest first, each of one limit of new tokens; what does not fit is left out.

    One limit each, because a longer neighbour must not shorten an answer; and one kind of end, that with tools or that
    without.
    """
    batch: list[tuple[int, Turn]] = []
    limit: GenerationConfig | None = None
    for number, turn in sorted(turns, key=lambda item: (item[1].stop_after, -len(item[1].prompt_ids))):
        config = prepare_generation_config(model, template, said, num_prompt_tokens=len(turn.prompt_ids))
        if not turn.prompt_ids or config.max_new_tokens < 1:
            continue
        full = len(batch) == batch_size or bool(batch and batch[0][1].stop_after != turn.stop_after)
        if limit is not None and (full or config.max_new_tokens != limit.max_new_tokens):
            yield limit, batch
            batch = []
        batch.append((number, turn))
        limit = config
    if limit is not None:
        yield limit, batch


@torch.inference_mode()
def _generate(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    reader: Reader,
    criteria: Sequence[Any] = (),
    **kwargs: Any,
) -> list[list[int]]:
    """New ids of each prompt, the end of the turn and padding included."""
    model.eval()
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    input_ids = [[config.pad_token_id] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
    attention_mask = [[0] * pad + [1] * (width - pad) for pad in pads]
    inputs = {"input_ids": torch.tensor(input_ids), "attention_mask": torch.tensor(attention_mask)}
    words = [StopWordsCriteria(reader.tokenizer, reader.ending_texts, width)] if reader.ending_texts else []
    output = model.generate(
        **to_device(inputs, model.device),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([*words, *criteria]),
        **kwargs,
    )
    return output[:, width:].tolist()


def _whole(question: _Question, info: dict[str, Any]) -> str:
    started = time.perf_counter()
    answer = _answer(question.reader, question.turn, question.generate())
    _fill_info(info, answer, started)
    return answer.text


class _Ids(BaseStreamer):
    """Hands each new id of the only row to a queue; None comes after the last."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.queue.put(int(value.flatten()[-1]))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing yet: the last is told when `generate` has returned or failed."""


def _stream(question: _Question, info: dict[str, Any], stop: threading.Event) -> Iterator[str]:
    """The answer as it grows; `generate` runs in a thread, and stops when `stop` is set or this iterator closed."""
    if (question.config.num_beams or 1) > 1:
        beams = question.config.num_beams
        raise UsageError("USAGE-02", f"beam search (num_beams={beams}) cannot stream", fix="do not stream")
    reader, ids, closed, seen, shown = question.reader, _Ids(), threading.Event(), list[int](), ""
    started = time.perf_counter()
    with ThreadPoolExecutor(1, "generate") as pool:
        work = pool.submit(question.generate, StopWhen(closed), StopWhen(stop), streamer=ids)
        work.add_done_callback(lambda _: ids.queue.put(None))
        try:
            while (new := ids.queue.get()) is not None:
                seen.append(new)
                longer = reader.so_far(seen)
                if len(longer) > len(shown) and longer.startswith(shown):
                    shown = longer
                    info["num_generated_tokens"] = len(seen)
                    yield shown
        finally:
            closed.set()
    answer = _answer(reader, question.turn, work.result())
    if stop.is_set() and answer.finish_reason == "length":
        answer = replace(answer, finish_reason="stopped")
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
