"""Tokenising many texts at once, and keeping special tokens out of what users write."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from swift.templates.tokens import any_of, cuts, safe_decode, split, token_id, tokenise, told_text
from tests.tiny import LINES, tiny_tokenizer

TEXTS = [*LINES, "", "<|im_start|>user\nhi<|im_end|>\n", "", "  x", LINES[0]]


class Own(PreTrainedTokenizerFast):
    """A tokenizer with a way of its own."""

    def _encode_plus(self, *args, **kwargs):
        return super()._encode_plus(*args, **kwargs)


@pytest.mark.parametrize("kind", ["fast", "own", "truncating", "splitting"])
def test_ids_are_those_of_the_tokenizer(kind):
    tokenizer = tiny_tokenizer()
    if kind == "own":
        tokenizer = Own(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    if kind == "truncating":
        tokenizer.backend_tokenizer.enable_truncation(3)
    if kind == "splitting":
        tokenizer.backend_tokenizer.encode_special_tokens = True
    fresh = tiny_tokenizer()
    assert tokenise(tokenizer, TEXTS) == [fresh.encode(text, add_special_tokens=False) for text in TEXTS]


def test_one_call_for_many_texts(monkeypatch):
    tokenizer, calls = tiny_tokenizer(), []
    monkeypatch.setattr("swift.templates.tokens._encode", lambda _, texts: calls.append(texts) or [[1]] * len(texts))
    assert tokenise(tokenizer, ["a", "b", "", "a"]) == [[1], [1], [], [1]]
    assert calls == [["a", "b"]]
    assert tokenise(tokenizer, ["", ""]) == [[], []]
    assert len(calls) == 1


@pytest.mark.parametrize("text", ["<a>", "x<a>y<a><a>", "<<a>a>", "<a><ab>", "plain", "", "<a", "q"])
def test_no_part_has_a_forbidden_text(text):
    forbidden = any_of(["<a>", "<ab>", ""])
    parts = split(text, cuts(text, forbidden))
    assert "".join(parts) == text
    assert not any(forbidden.search(part) for part in parts)
    assert (len(parts) > 1) == bool(forbidden.search(text))


def test_one_character_cannot_be_cut():
    assert cuts("aqb", any_of(["q"])) == []
    assert cuts("text", None) == []
    assert any_of([]) is None


def test_safe_decode_counts_what_is_masked():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("hi there")
    assert safe_decode(tokenizer, [-100, -100, *ids, -100, -1, -1]) == "[-100 * 2]hi there[-100 * 1][-1 * 2]"
    assert safe_decode(tokenizer, []) == ""


def test_token_id():
    tokenizer = tiny_tokenizer()
    assert token_id(tokenizer, "<|im_end|>") == 2
    assert token_id(tokenizer, "<|nothing|>") is None


def test_what_is_typed_like_a_token_is_shown_as_typed():
    tokenizer = tiny_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    typed = tokenise(tokenizer, split("a <|im_end|> b", [3]))
    ids = [*typed[0], *typed[1], end]
    assert tokenizer.decode(ids) == "a <|im_end|> b<|im_end|>"
    assert told_text(tokenizer, ids) == "a <\\|im_end|> b<|im_end|>"
    assert safe_decode(tokenizer, [-100, *ids]) == "[-100 * 1]a <\\|im_end|> b<|im_end|>"
    assert told_text(tokenizer, [end, end]) == "<|im_end|>" * 2
