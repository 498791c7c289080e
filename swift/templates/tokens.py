"""Text to ids: many texts in one call, with text from users kept from turning into special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

LONGEST, AROUND, TRIED = 1 << 20, 256, 20
"""Characters of a stretch, those around its end that are looked at, and how many ends are tried."""
LINE_END = re.compile(r"\n(?=\S)")


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of every text, without special tokens of the tokenizer's own; equal texts are tokenised once."""
    unique = list(dict.fromkeys(text for text in texts if text))
    if not unique:
        return [[] for _ in texts]
    ids = dict(zip(unique, _encode(tokenizer, unique), strict=True))
    return [ids[text] if text else [] for text in texts]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """The ids of texts; long ones go through the tokenizer in stretches, which takes it a fraction of the memory."""
    if max(map(len, texts)) <= LONGEST:
        return _encode_whole(tokenizer, texts)
    return [[i for ids in _encode_whole(tokenizer, _stretches(tokenizer, text)) for i in ids] for text in texts]


def _stretches(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """A long text cut after line breaks where that changes no token, as its surroundings show."""
    at, start = [], 0
    while len(text) - start > LONGEST:
        breaks = [match.end() for match in LINE_END.finditer(text, start + LONGEST // 2, start + LONGEST)]
        good = next((k for k in breaks[-TRIED:][::-1] if _parts(tokenizer, text, k)), None)
        if good is None:
            break
        at.append(good)
        start = good
    return split(text, at)


def _parts(tokenizer: PreTrainedTokenizerBase, text: str, at: int) -> bool:
    """Whether the tokens around a place are those of what stands before it and after it."""
    before, after = text[at - AROUND : at], text[at : at + AROUND]
    whole, one, other = _encode_whole(tokenizer, [before + after, before, after])
    return whole == one + other


def _encode_whole(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    backend = _plain_backend(tokenizer)
    if backend is None:
        return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """The Rust tokenizer, twice as fast when asked directly, if it would give what the Python one gives."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    if type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:
        return None
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None or backend.encode_special_tokens:
        return None
    return backend


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of a token by its text; None when the tokenizer has no such token."""
    found = tokenizer.convert_tokens_to_ids(text)
    return found if isinstance(found, int) and found != tokenizer.unk_token_id else None


def special_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The texts that the tokenizer reads as special tokens."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def added_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The texts that the tokenizer reads as one token wherever they stand, special or not."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)


def any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of these texts, the longest first; None without texts."""
    longest_first = sorted((text for text in set(texts) if text), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def cuts(text: str, forbidden: re.Pattern[str] | None) -> list[int]:
    """Where to cut `text` so that no part has a forbidden text: one character into each one found."""
    found: list[int] = []
    while forbidden and (match := forbidden.search(text, found[-1] if found else 0)):
        if len(match[0]) == 1:
            return found
        found.append(match.start() + 1)
    return found


def split(text: str, at: Sequence[int]) -> list[str]:
    """The parts of `text` between the positions `at`, which ascend."""
    if not at:
        return [text]
    edges = [0, *at, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def told_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids for a reader; a backslash is in what somebody typed and only looks like a special token."""
    text, special = str(tokenizer.decode(list(ids))), special_texts(tokenizer)
    find = any_of(special)
    numbers = {number for number, token in tokenizer.added_tokens_decoder.items() if str(token) in special}
    numbers |= set(tokenizer.all_special_ids)
    if find is None or len(find.findall(text)) <= sum(number in numbers for number in ids):
        return text
    return "".join(
        part if is_one else find.sub(lambda match: f"{match[0][0]}\\{match[0][1:]}", part)
        for is_one, group in groupby(ids, numbers.__contains__)
        for part in [str(tokenizer.decode(list(group)))]
    )


def safe_decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids or labels; a run of n equal negative ids shows as `[-100 * n]`."""
    text, start = "", 0
    while start < len(ids):
        end = start + 1
        masked = ids[start] < 0
        while end < len(ids) and (ids[end] == ids[start] if masked else ids[end] >= 0):
            end += 1
        text += f"[{ids[start]} * {end - start}]" if masked else told_text(tokenizer, ids[start:end])
        start = end
    return text
