"""Where a reply ends: stop ids, stop words, and the text of generated ids without them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

BROKEN = "\ufffd"
MAY_SHOW = re.compile(r"[\s\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")


class Ends(Protocol):
    """What says where a reply begins and ends: a template, or whoever knows more ends than it."""

    tokenizer: PreTrainedTokenizerBase
    lead: str
    end_ids: list[int]
    stop_ids: list[int]
    stop_words: list[str]


def stops(
    tokenizer: PreTrainedTokenizerBase, end_text: str, end_ids: list[int], further: Iterable[str]
) -> tuple[list[int], list[str]]:
    """The ids that end a reply, and the texts that end it where no single id does."""
    ids, words = [], []
    marks = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    if len(end_ids) == 1 or end_ids[-1] in marks:
        ids.append(end_ids[-1])
    if len(end_ids) > 1:
        words.append(end_text)
    for text in further:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += found if len(found) == 1 else []
        words += [text] if len(found) > 1 else []
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(ids)), list(dict.fromkeys(words))


def single_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> frozenset[int]:
    """The ids of those texts that are one token wherever they stand."""
    marks = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
    return frozenset(marks[text] for text in texts if text in marks)


class StopWordsCriteria(StoppingCriteria):
    """Ends each row of a batch at one of `stop_words`: a text in what it wrote, or ids at its end.

    Args:
        tokenizer: decodes.
        stop_words: texts or lists of ids.
        num_prompt_tokens: how many first ids of a row are its prompt.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_words: Sequence[str | Sequence[int]], num_prompt_tokens: int = 0
    ) -> None:
        self.tokenizer, self.num_prompt_tokens = tokenizer, num_prompt_tokens
        self.texts = [word for word in stop_words if isinstance(word, str) and word]
        self.tails = [list(word) for word in stop_words if not isinstance(word, str) and word]
        self.window = max((len(text.encode()) for text in self.texts), default=0) + 8

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """Which rows are done, (B,)."""
        written = input_ids[:, self.num_prompt_tokens :].tolist()
        return torch.tensor([self._done(ids) for ids in written], device=input_ids.device)  # type: ignore[return-value]

    def _done(self, ids: list[int]) -> bool:
        if any(ids[-len(tail) :] == tail for tail in self.tails):
            return True
        text = str(self.tokenizer.decode(ids[-self.window :])) if self.texts else ""
        return any(word in text for word in self.texts)


def get_generate_ids(generate_ids: Any, token_len: int) -> list[int]:
    """The ids of the first sequence after its prompt of `token_len` tokens; takes a tensor (B, T) or lists."""
    first = generate_ids[0]
    ids = first.tolist() if isinstance(first, torch.Tensor) else list(first)
    return ids[token_len:]


def generate_ids_to_response(
    ends: Ends,
    generate_ids: Sequence[int],
    is_finished: bool = True,
    *,
    tokenizer_kwargs: dict[str, Any] | None = None,
    return_delta: bool = False,
    print_idx: list[int] | None = None,
) -> str:
    """The text of a reply without its end, and without what a template itself writes before one.

    Args:
        ends: a template, or what else says where a reply ends and what comes before it.
        generate_ids: the ids written so far, without the prompt.
        is_finished: False while more may come: then only whole words and characters are given.
        tokenizer_kwargs: what `Template.encode` said to decode with.
        return_delta: give what is new since the last call instead of all; needs `print_idx`.
        print_idx: `[0]` at first; remembers between calls how much was given, so that texts only grow.
    """
    ids = list(generate_ids)
    ids = ids[: next((k for k, i in enumerate(ids) if i in ends.stop_ids), len(ids))]
    kwargs = {"clean_up_tokenization_spaces": False, **(tokenizer_kwargs or {})}
    ended = len(ids) < len(generate_ids)
    if ended and ends.end_ids[:-1] and ids[-len(ends.end_ids) + 1 :] == ends.end_ids[:-1]:
        ids = ids[: -len(ends.end_ids) + 1]
    text = str(ends.tokenizer.decode(ids, **kwargs))
    at = min((k for k in map(text.find, ends.stop_words) if k >= 0), default=None)
    text = text[:at]
    if not is_finished and not ended and at is None:
        text = text[: _showable(text, ends.stop_words)]
        text = "" if ends.lead.startswith(text) else text
    text = text.removeprefix(ends.lead)
    given = print_idx or [0]
    start, given[0] = given[0], max(given[0], len(text))
    return text[start:] if return_delta else text


def _showable(text: str, stop_words: Sequence[str]) -> int:
    """How much of `text` no further id can change: up to its last space, newline or CJK character."""
    text = text.rstrip(BROKEN)
    longest = max(map(len, stop_words), default=1) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    half = next((n for n in sizes if any(word.startswith(text[-n:]) for word in stop_words)), 0)
    return max((match.end() for match in MAY_SHOW.finditer(text[: len(text) - half])), default=0)
