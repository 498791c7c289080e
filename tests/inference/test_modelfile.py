"""Ollama's Modelfile: what its template writes, rendered as Go does, is what the registry's row writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from swift.errors import ConfigError
from swift.inference.modelfile import starts_alone, write_modelfile
from swift.templates import TEMPLATES
from swift.templates.template import RecordTemplate, get_template
from tests.inference.go_template import render
from tests.templates.chats import MARKS, ROUNDS_ONE, WITH_SYSTEM, marked_tokenizer
from tests.tiny import tiny_tokenizer

NUMBERED = [name for name in TEMPLATES if "ROUND" in str(vars(TEMPLATES[name]))]
TALKS = (["Hi"], ["Who are you?", "A test.", "Since when?"], ["a", "b", "c", "d", "e"])


def talk(texts: list[str], system: str) -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]
    return [*([{"role": "system", "content": system}] if system else []), *said]


def in_go(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name.capitalize(): text for name, text in message.items()} for message in messages]


def sections(file: Path) -> tuple[str, str, list[str]]:
    """The template, the system text and the stop words in a Modelfile."""
    text = file.read_text()
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    system = text.partition('SYSTEM """')[2].partition('"""')[0]
    return template, system, [line[16:-1] for line in text.splitlines() if line.startswith("PARAMETER stop")]


@pytest.mark.parametrize(
    "name", [name for name in TEMPLATES if name not in NUMBERED and not TEMPLATES[name].generation]
)
def test_it_writes_what_the_row_writes(name: str, tmp_path: Path) -> None:
    template = get_template(name, marked_tokenizer())
    assert isinstance(template, RecordTemplate)
    write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    written, default, stops = sections(tmp_path / "Modelfile")
    assert default == template.pieces.default_system
    assert template.end_text.strip() in stops or not template.end_text.strip()
    for texts in TALKS[:1] if name in ROUNDS_ONE else TALKS:
        for system in ("", "Be brief.") if name in WITH_SYSTEM else ("",):
            messages = talk(texts, system)
            ids = template.encode({"messages": messages})[0]["input_ids"]
            found = render(written, System=system or default, Messages=in_go(messages))
            assert found == template.tokenizer.decode(ids[starts_alone(template) :])


def test_numbered_rounds_are_refused(tmp_path: Path) -> None:
    for name in NUMBERED:
        with pytest.raises(ConfigError, match="cannot number rounds"):
            write_modelfile(tmp_path / "Modelfile", "model.gguf", get_template(name, marked_tokenizer()))


@pytest.mark.parametrize(("name", "start"), [("llama3", "<|begin_of_text|>"), ("gemma", "<bos>"), ("qwen", "<s>")])
def test_the_first_token_is_left_to_an_engine_that_writes_it(name: str, start: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(600, MARKS)
    tokenizer.bos_token = start
    pair = (start, tokenizer.convert_tokens_to_ids(start))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[pair])
    template = get_template(name, tokenizer)
    write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    messages = talk(["Who are you?"], "Be brief.")
    found = render(
        sections(tmp_path / "Modelfile")[0], System="Be brief." * (name != "gemma"), Messages=in_go(messages)
    )
    if name == "gemma":
        messages = messages[1:]
    ids = template.encode({"messages": messages})[0]["input_ids"]
    assert starts_alone(template) is (name != "qwen")  # whose training has none, whatever its tokenizer begins with
    assert [pair[1]] * starts_alone(template) + tokenizer(found, add_special_tokens=False).input_ids == ids
