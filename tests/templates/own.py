"""The chat templates that other packages ship for models of our rows, and tokenizers that have them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from swift.templates import TEMPLATES
from tests.templates.chats import MARKS, THINK
from tests.tiny import tiny_tokenizer

# what a row leaves to its tokenizer
TOKENS = {
    "qwen": {"eos_token": "<|im_end|>"},
    "deepseek": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama4": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<end_of_turn>"},
    "phi": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    "glm": {"eos_token": "<|endoftext|>"},
    "command": {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    "gpt": {"eos_token": "<|return|>"},
    "lfm": {"bos_token": "<s>", "eos_token": "<|im_end|>"},
}
DAY = "26 Jul 2024"
SHIPPED = [name for name in TEMPLATES if TEMPLATES[name].checked.startswith(("trl:", "transformers:"))]


@cache
def source(checked: str) -> str:
    """The chat template that a row's `checked` names."""
    package, _, file = checked.partition(":")
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    if package == "trl":
        return (folder / "chat_templates" / file).read_text()
    module = ".".join(["transformers", *Path(file).with_suffix("").parts])
    return __import__(module, fromlist=["chat_template"]).chat_template


@cache
def own_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the marks of every family, the special tokens of row `name` and its model's own template."""
    tokenizer = tiny_tokenizer(600, MARKS)
    tokenizer.add_tokens(list(THINK))
    for attribute, token in next(v for k, v in TOKENS.items() if name.startswith(k)).items():
        setattr(tokenizer, attribute, token)
    tokenizer.chat_template = source(TEMPLATES[name].checked)
    return tokenizer


def told(name: str) -> dict[str, Any]:
    """What makes the model's own template write as row `name` does."""
    return {"date_string": DAY, **TEMPLATES[name].variables}


def own_text(name: str, messages: list[dict], prompt: bool = False) -> str:
    """What the model's own template writes."""
    text = own_tokenizer(name).apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **told(name))
    assert isinstance(text, str)
    return text


def own_ids(name: str, messages: list[dict], prompt: bool = False) -> list[int]:
    """The same as ids."""
    ids = own_tokenizer(name).apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=prompt, **told(name)
    )
    assert isinstance(ids, list)
    return ids
