"""A tokenizer as GGUF keeps it: pairs of bytes, or pieces of SentencePiece, with how text is cut before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from swift.errors import ConfigError
from swift.inference.modelfile import starts_alone
from swift.models.source import ModelSource
from swift.templates.template import Template

# How a tokenizer cuts text before it looks for pairs, by what its rule begins with, as llama.cpp calls it.
CUTS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|": "llama-bpe",
}
BLANK = "\u2581"  # SentencePiece's
THEIRS = "llama.cpp's own converter"


def write_tokenizer(gguf: Any, writer: Any, source: ModelSource, template: Template) -> None:
    """Write tokens, pairs or scores, what begins and ends a text, and the chat template.

    Raises:
        ConfigError: llama.cpp would make other tokens of a text.
    """
    tokenizer: Any = template.tokenizer
    spelt = json.loads(tokenizer.backend_tokenizer.to_str())
    model, count = spelt["model"], int(source.config["vocab_size"])
    if model.get("type") != "BPE":
        raise _refused(source, f"a tokenizer of kind {model.get('type')} is not written as GGUF here")
    pieces = bool(model.get("byte_fallback"))
    words, types = _words(gguf, spelt, count, pieces)
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else _cut(source, spelt))
    writer.add_token_list(words)
    writer.add_token_types(types)
    if pieces:
        writer.add_token_scores(_scores(source, words, model))
        writer.add_add_space_prefix(_begins_with_blank(source, spelt))
    else:
        writer.add_token_merges([" ".join(pair) for pair in _pairs(model)])
    _ends(writer, template, count)


def _words(gguf: Any, spelt: Mapping[str, Any], count: int, pieces: bool) -> tuple[list[str], list[int]]:
    """What each id of the model's table is, and of which kind; ids that the table has not are left out."""
    kind, model = gguf.TokenType, spelt["model"]
    words, types = [f"[PAD{index}]" for index in range(count)], [kind.UNUSED] * count
    added = {one["id"]: one for one in spelt["added_tokens"]}
    known = {index: word for word, index in model["vocab"].items()}
    for index, word in {**known, **{index: one["content"] for index, one in added.items()}}.items():
        if index >= count:
            continue
        words[index], types[index] = word, kind.NORMAL
        if pieces and word == model.get("unk_token"):
            types[index] = kind.UNKNOWN
        elif index in added:
            types[index] = kind.CONTROL if added[index]["special"] else kind.USER_DEFINED
        elif pieces and len(word) == 6 and word.startswith("<0x"):
            types[index] = kind.BYTE
    return words, types


def _ends(writer: Any, template: Template, count: int) -> None:
    tokenizer: Any = template.tokenizer
    writer.add_eos_token_id(template.stop_ids[0] if template.stop_ids else tokenizer.eos_token_id)
    named = {
        writer.add_pad_token_id: tokenizer.pad_token_id,
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_unk_token_id: tokenizer.unk_token_id,
    }
    for write, index in named.items():
        if index is not None and index < count:
            write(index)
    writer.add_add_bos_token(starts_alone(template))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for pair in model["merges"]:
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        yield left, right


def _cut(source: ModelSource, spelt: Mapping[str, Any]) -> str:
    """The name that llama.cpp has for how text is cut. Raises ConfigError where it has none."""
    steps = list(_steps(spelt.get("pre_tokenizer"), "pretokenizers"))
    patterns = [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]
    for beginning, name in CUTS.items():
        if any(pattern.startswith(beginning) for pattern in patterns):
            return name
    if not patterns and any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps):
        return "gpt-2"
    raise _refused(source, "llama.cpp has no name for how its tokenizer cuts text")


def _steps(rule: Mapping[str, Any] | None, several: str) -> Iterator[Mapping[str, Any]]:
    if rule:
        yield from rule.get(several, [rule])


def _scores(source: ModelSource, words: list[str], model: Mapping[str, Any]) -> list[float]:
    """How early two pieces become each piece: llama.cpp takes the pair with the best score, whatever its halves are.

    Raises:
        ConfigError: pairs that may become a piece in one place may not in another, which scores cannot say.
    """
    pairs, vocab = set(_pairs(model)), model["vocab"]
    early: dict[str, int] = {}
    for number, (left, right) in enumerate(_pairs(model)):
        early.setdefault(left + right, number)
    for piece in early:
        halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        if any(left in vocab and right in vocab and (left, right) not in pairs for left, right in halves):
            raise _refused(source, "its tokenizer joins bytes like SentencePiece's, but not all pairs of them")
    return [-float(early.get(word, 0)) for word in words]


def _begins_with_blank(source: ModelSource, spelt: Mapping[str, Any]) -> bool:
    """Whether a text is read as if a blank stood before it. Raises ConfigError where more is done to texts."""
    steps = [*_steps(spelt.get("normalizer"), "normalizers"), *_steps(spelt.get("pre_tokenizer"), "pretokenizers")]
    marks, found = False, False
    for step in steps:
        if step["type"] == "Metaspace":
            marks, found = True, found or step.get("prepend_scheme", "always") != "never"
            whole = not step.get("split", True) or not any(BLANK in word[1:] for word in spelt["model"]["vocab"])
        else:
            whole = (step["type"], step.get("prepend"), step.get("content")) in (
                ("Prepend", BLANK, None),
                ("Replace", None, BLANK),
            )
            marks, found = marks or step["type"] == "Replace", found or step["type"] == "Prepend"
        if not whole:
            raise _refused(source, f"llama.cpp knows no {step['type']} before its tokens")
    if not marks:
        raise _refused(source, "its tokenizer has pieces of SentencePiece, and leaves blanks as they are")
    return found


def _refused(source: ModelSource, why: str) -> ConfigError:
    return ConfigError("CONFIG-02", f"{source.name}: {why}", fix=THEIRS)
