"""Whom to ask: a model that is loaded here, or one behind a server's API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any, Protocol, TypeVar

from transformers import GenerationConfig

from swift.errors import TemporaryError, UsageError
from swift.evaluation.answers import Kept, key_of
from swift.evaluation.items import Item, fitted, flat
from swift.evaluation.likelihood import Given, Likelihood, given, given_answer, likelihoods
from swift.inference.client import XRequestConfig, ask_server
from swift.inference.generate import generate_batch
from swift.inference.prompt import make_turn
from swift.inference.settings import max_model_length
from swift.templates.encoding import Template

Answer = dict[str, Any]
"""`text` and `finish_reason`, as `swift.inference.generate.Answer` has them, and `num_generated_tokens`."""


T = TypeVar("T")
TRIES, FIRST_WAIT_SECONDS = 5, 1.0


class Asked(Protocol):
    """A model that answers."""

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
        """The answer to each row, in order."""
        ...


class Local:
    """A model in this process, which also tells how likely it finds answers.

    Args:
        model: a causal language model, with or without tuners.
        template: its chat template.
        config: how it answers.
        kept: answers that are known.
        batch_size: rows that are read or answered at once.
        stop_words: texts that end an answer, besides the template's.
        seed: of sampling.
    """

    def __init__(
        self,
        model: Any,
        template: Template,
        config: GenerationConfig,
        kept: Kept,
        *,
        batch_size: int = 16,
        stop_words: Sequence[str] = (),
        seed: int = 42,
    ) -> None:
        self.model, self.template, self.config, self.kept = model, template, config, kept
        self.batch_size, self.stop_words, self.seed = batch_size, list(stop_words), seed

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
        """The answer to each row, in order; a sampled one depends on its row's number."""
        asked = [fitted(row, self.template.generation) for row in rows]
        keys = [self._key(number, row) for number, row in enumerate(asked)]
        missing = [number for number, key in enumerate(keys) if self.kept.get(key) is None]
        coming = self._generate(asked, missing)
        for key in keys:
            while (found := self.kept.get(key)) is None:
                number, answer = next(coming)
                self.kept.put(keys[number], answer)
            yield found

    def _key(self, number: int, row: Mapping[str, Any]) -> str:
        turn = make_turn(self.template, row)
        said = self.config.to_diff_dict()
        drawn = [self.seed, number] if self.config.do_sample else None
        return key_of(turn.prompt_ids, said, self.stop_words, list(turn.stop_after), drawn)

    def _generate(self, rows: Sequence[Mapping[str, Any]], missing: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Answers to the rows of these numbers; sampled ones run by run, so that each is drawn by its own number."""
        for numbers in _runs(missing) if self.config.do_sample else [list(missing)]:
            answers = generate_batch(
                self.model,
                self.template,
                [rows[number] for number in numbers],
                self.config,
                self.batch_size,
                stop_words=self.stop_words,
                seed=self.seed,
                first=numbers[0] if numbers and self.config.do_sample else 0,
            )
            for number, (_, answer) in zip(numbers, answers, strict=True):
                tokens = answer.num_generated_tokens
                yield (
                    number,
                    {"text": answer.text, "finish_reason": answer.finish_reason, "num_generated_tokens": tokens},
                )

    def labels(self, items: Sequence[Item]) -> list[list[Likelihood]]:
        """The likelihood of each label with the end of its turn; one that does not fit has no token."""
        rows = [given(self.template, self._answered(item)) for item in items]
        return [[found or Likelihood(0.0, 0)] for found in self._likelihoods(rows)]

    def _answered(self, item: Item) -> dict[str, Any]:
        if not self.template.generation:
            return {**item.row, "messages": [*item.messages, item.last]}
        return {**item.row, "messages": [*fitted(item.row, True)["messages"], item.last]}

    def choices(self, items: Sequence[Item]) -> list[list[Likelihood]]:
        """The likelihood of every choice of each item; one that does not fit is impossible."""
        lead = " " if self.template.generation else ""  # between a text and what goes on
        rows = [
            given_answer(self.template, fitted(item.row, self.template.generation), f"{lead}{choice}")
            for item in items
            for choice in item.choices
        ]
        found = iter(self._likelihoods(rows))
        return [[next(found) or Likelihood(float("-inf"), 0) for _ in item.choices] for item in items]

    def _likelihoods(self, rows: Sequence[Given | None]) -> list[Likelihood | None]:
        """Those of each row, in batches of like length made of the rows alone: each is known or read whole."""
        limit = max_model_length(self.model)
        rows = [row if row is not None and (limit is None or len(row.ids) <= limit) else None for row in rows]
        keys = [None if row is None else key_of(row.ids, row.labels) for row in rows]
        different = {key: row for key, row in zip(keys, rows, strict=True) if key is not None and row is not None}
        ordered = sorted(different, key=lambda key: (-len(different[key].ids), key))
        self.model.eval()
        for batch in _pieces(ordered, self.batch_size):
            if any(self.kept.get(key) is None for key in batch):
                found = likelihoods(self.model, [different[key] for key in batch])
                for key, each in zip(batch, found, strict=True):
                    self.kept.put(key, {"sum": each.sum, "tokens": each.tokens})
        return [None if key is None else Likelihood(**(self.kept.get(key) or {})) for key in keys]


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Rising numbers as runs without gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


class Remote:
    """A model of a server with the OpenAI API.

    Args:
        url: up to `/v1`.
        name: of the model there.
        key: that the server asks for; None is that of SWIFT_API_KEY.
        config: how to answer.
        kept: answers that are known.
        is_chat: whether it takes conversations; else plain text, rounds with a blank line between.
        at_once: how many requests are under way at once.
        system: of rows that say none; None says nothing of it.
    """

    def __init__(
        self,
        url: str,
        name: str,
        key: str | None,
        config: XRequestConfig,
        kept: Kept,
        *,
        is_chat: bool = True,
        at_once: int = 16,
        system: str | None = None,
    ) -> None:
        self.url, self.name, self.key, self.config, self.kept = url, name, key, config, kept
        self.is_chat, self.at_once, self.system = is_chat, at_once, system

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
        """The answer to each row, in order; those of a window are asked for at the same time."""
        bodies = [self._body(row) for row in rows]
        keys = [key_of(body) for body in bodies]
        with ThreadPoolExecutor(self.at_once, "ask") as pool:
            for numbers in _pieces(range(len(bodies)), 4 * self.at_once):
                missing = [number for number in numbers if self.kept.get(keys[number]) is None]
                for number, found in zip(missing, pool.map(self._ask, [bodies[k] for k in missing]), strict=True):
                    self.kept.put(keys[number], found)
                for number in numbers:
                    yield self.kept.values[keys[number]]

    def _body(self, row: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, **self.config.said()}
        messages = [{k: v for k, v in message.items() if k != "loss"} for message in row["messages"]]
        if self.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        if not self.is_chat:
            return {**body, "prompt": flat(messages)}
        if row.get("tools"):
            raise UsageError("USAGE-02", "rows with tools cannot be asked of a server", fix="--model_id_or_path")
        return {**body, "messages": messages}

    def _ask(self, body: dict[str, Any]) -> Answer:
        said = self._patiently(body)
        choice = said["choices"][0]
        text = (choice["message"]["content"] if self.is_chat else choice["text"]) or ""
        tokens = (said.get("usage") or {}).get("completion_tokens", 0)
        return {"text": text, "finish_reason": choice.get("finish_reason"), "num_generated_tokens": tokens}

    def _patiently(self, body: dict[str, Any]) -> Any:
        """What the server says, which is asked again, ever later, while it has too much to do."""
        for number in range(TRIES):
            try:
                return ask_server(self.url, "chat/completions" if self.is_chat else "completions", self.key, body)
            except TemporaryError:
                if number == TRIES - 1:
                    raise
                sleep(FIRST_WAIT_SECONDS * 2**number)


def _pieces(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`values` in pieces of at most `size`."""
    return (values[start : start + size] for start in range(0, len(values), size))
