"""Boundaries between tokens, with tokenizers that prepend, swallow and merge."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swift.templates.align import Frame, Marked, align
from swift.templates.template import get_template
from tests.templates.chats import CHATS, MARKS, talk
from tests.tiny import LINES, SPECIAL, tiny_tokenizer

TURNS = ["How are you?", "I am fine, thank you.", "Who are you?", "two  three", "one", "The capital of France"]
KINDS = ("first", "always", "legacy", "swallowing")


@cache
def spaced_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words that begin with a mark for their space, in the manner of sentencepiece."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    if kind == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if kind == "always" else "first")
    backend.decoder = decoders.Metaspace()
    specials = [*SPECIAL, *(AddedToken(m, rstrip=kind == "swallowing", special=True) for m in MARKS)]
    alphabet = [*map(chr, range(32, 127)), "\n", "▁"]
    backend.train_from_iterator(
        [*LINES, *TURNS],
        trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=specials, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<|endoftext|>", unk_token="<unk>"
    )


@pytest.fixture(params=[(kind, name) for kind in KINDS for name in CHATS if name != "generation"], ids="-".join)
def template(request: pytest.FixtureRequest):
    kind, name = request.param
    tokenizer = spaced_tokenizer(kind)
    tokenizer.chat_template = CHATS[name]
    return get_template("auto", tokenizer)


def prompt_text(messages: list[dict], template) -> str:
    return template.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_ids_are_those_of_the_tokenizer(template, count):
    messages = talk(*TURNS[:count])["messages"]
    own = template.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    inputs, _ = template.encode({"messages": messages})
    prompt, _ = template.encode({"messages": messages[:-1]})
    length = len(prompt["input_ids"])
    assert inputs["input_ids"][:length] == prompt["input_ids"]
    # "ASSISTANT: " ends in a space that belongs to the first word of a reply when it is there
    if not prompt_text(messages, template).endswith(" "):
        assert inputs["input_ids"] in (own, own + template.end_ids)
    assert inputs["labels"][length - 1] == -100
    assert inputs["labels"][length] == inputs["input_ids"][length]


@pytest.mark.parametrize("count", [2, 4, 6])
def test_every_reply_has_its_end(template, count):
    inputs, _ = template.encode(talk(*TURNS[:count]))
    assert inputs["labels"].count(template.end_ids[-1]) == count // 2


def test_a_boundary_inside_a_token_is_made():
    tokenizer = tiny_tokenizer()

    def tokenise(texts):
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    text = "<|im_start|>you<|im_end|>"
    whole = tokenizer.encode(text)
    assert len(whole) == 3
    frame = Frame({"<|im_start|>": 1, "<|im_end|>": 2})
    start, middle, end = 12, 13, 15
    (aligned,) = align([Marked(text, [start, middle, end])], frame, tokenise)
    assert aligned.ids == [1, *tokenizer.encode("y"), *tokenizer.encode("ou"), 2]
    assert aligned.positions == [1, 2, len(aligned.ids) - 1]
    (aligned,) = align([Marked(text, [0, start, end, len(text)])], frame, tokenise)
    assert aligned.ids == whole
    assert aligned.positions == [0, 1, 2, 3]


def test_marks_that_the_tokenizer_does_not_read_are_cut():
    tokenizer = tiny_tokenizer()
    text = "<|no|>you<|no|>"
    (aligned,) = align([Marked(text, [6, 9])], Frame({"<|no|>": 2}), lambda texts: [tokenizer.encode(t) for t in texts])
    assert aligned.ids == [i for part in ("<|no|>", "you", "<|no|>") for i in tokenizer.encode(part)]
    assert tokenizer.decode(aligned.ids[slice(*aligned.positions)]) == "you"


def test_no_texts():
    assert align([], Frame({}), list) == []
