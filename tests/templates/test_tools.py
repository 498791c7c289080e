"""Tools, their calls and their answers, in every template: told, learnt or not, and as the model's own writes them."""

from __future__ import annotations

import json

import pytest

from swift.arguments.data import TOOL_FORMATS
from swift.errors import SwiftError
from swift.templates import TEMPLATES
from swift.templates.check import ANSWER, CALL, TOOL
from swift.templates.conversation import read_talk, read_tools
from swift.templates.template import get_template
from swift.templates.tools import FORMATS, spell
from tests.templates.chats import chat_tokenizer, marked_tokenizer, said

FLAT = {"name": "get_weather", "description": "The weather of a city.", "parameters": TOOL["function"]["parameters"]}
ASKED = {"role": "user", "content": "How is the weather in Ōtsu?"}
CALLED = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
REPLIED = {"role": "assistant", "content": "It is clear."}
ROW = {"messages": [ASKED, CALLED, ANSWER, REPLIED], "tools": [TOOL]}
SEVERAL_ROUNDS = [n for n in TEMPLATES if TEMPLATES[n].chat_sep is not None and not TEMPLATES[n].generation]


def spoken(template, row: dict) -> list[str]:
    return [template.tokenizer.decode(ids) for ids in said(template, template.encode(row)[0])]


@pytest.mark.parametrize("name", SEVERAL_ROUNDS)
def test_every_template_learns_calls_and_replies_and_nothing_of_tools(name):
    template = get_template(name, marked_tokenizer())
    inputs = template.encode(ROW)[0]
    whole, learnt = template.tokenizer.decode(inputs["input_ids"]), "".join(spoken(template, ROW))
    for text in ("get_weather", "The weather of a city.", "sky"):
        assert text in whole
    assert any(text in whole for text in (ANSWER["content"], json.dumps(ANSWER["content"])))
    assert "get_weather" in learnt
    assert "Ōtsu" in learnt
    assert "It is clear." in learnt
    assert "sky" not in learnt
    assert "The weather of a city." not in learnt
    assert template.encode_batch([ROW, ROW]) == [inputs, inputs]


@pytest.mark.parametrize("name", SEVERAL_ROUNDS)
@pytest.mark.parametrize("upto", [1, 3])
def test_inference_asks_as_training_begins(name, upto):
    template = get_template(name, marked_tokenizer())
    ids = template.encode(ROW)[0]["input_ids"]
    prompt = template.encode({**ROW, "messages": ROW["messages"][:upto]})[0]
    assert prompt["labels"] is None
    assert ids[: len(prompt["input_ids"])] == prompt["input_ids"]


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_in_one_template(style):
    template = get_template("qwen", marked_tokenizer(), tools_prompt=style)
    learnt = "".join(spoken(template, ROW))
    assert "get_weather" in learnt
    assert '"city": "Ōtsu"' in learnt
    assert "sky" not in learnt


def test_react_goes_on_after_what_was_observed():
    template = get_template("qwen", marked_tokenizer(), tools_prompt="react_en")
    assert spoken(template, ROW) == [
        'I look.\nAction: get_weather\nAction Input: {"city": "Ōtsu"}\nObservation:',
        "It is clear.<|im_end|>",
    ]
    assert 'Observation: {"sky": "clear"}\nIt is clear.' in template.tokenizer.decode(
        template.encode(ROW)[0]["input_ids"]
    )


def test_glm_ends_a_call_with_the_mark_of_its_answer():
    template = get_template("chatglm4", marked_tokenizer())
    assert spoken(template, ROW) == [
        'I look.\nget_weather\n{"city": "Ōtsu"}<|observation|>',
        "It is clear.<|user|>",
    ]
    observation = template.tokenizer.convert_tokens_to_ids("<|observation|>")
    assert observation in template.stop_ids


def test_several_calls_one_after_another_where_one_can_be_written():
    second = {**CALL, "function": {"name": "get_weather", "arguments": {"city": "Kobe"}}}
    messages = [ASKED, {**CALLED, "tool_calls": [CALL, second]}, ANSWER, {**ANSWER, "content": "grey"}, REPLIED]
    texts = [m["content"] for m in spell(read_talk({"messages": messages, "tools": [TOOL]}), FORMATS["react_en"])]
    assert ["Ōtsu" in texts[2], "clear" in texts[3], "Kobe" in texts[4], "grey" in texts[5]] == [True] * 4
    with pytest.raises(SwiftError, match="2 tools at once"):
        spell(read_talk({"messages": [*messages[:3], REPLIED], "tools": [TOOL]}), FORMATS["react_en"])


@pytest.mark.parametrize("given", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], [FLAT], TOOL, json.dumps(FLAT)])
def test_every_way_to_give_tools(given):
    assert read_tools(given) == [TOOL]


@pytest.mark.parametrize("given", [None, [], "", "[]"])
def test_no_tools(given):
    assert read_tools(given) == []


@pytest.mark.parametrize("given", ["{", [3], [{"name": 3}], "3", [{"function": {}}]])
def test_what_are_no_tools_is_refused(given):
    with pytest.raises(SwiftError, match="tools"):
        read_tools(given)


def test_arguments_as_text_are_what_they_say():
    called = {**CALLED, "tool_calls": [{"function": {"name": "get_weather", "arguments": '{"city": "Ōtsu"}'}}]}
    for template in (get_template("qwen2_5", marked_tokenizer()), get_template("auto", chat_tokenizer("qwen2.5"))):
        row = {**ROW, "messages": [ASKED, called, ANSWER, REPLIED]}
        assert template.encode(row)[0]["input_ids"] == template.encode(ROW)[0]["input_ids"]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({**CALLED, "tool_calls": "x"}, "no list"),
        ({**CALLED, "tool_calls": [{"function": {"arguments": {}}}]}, "name"),
        ({**CALLED, "role": "user"}, "from the user"),
        ({"role": "assistant", "content": None}, "no text"),
    ],
)
def test_calls_that_are_none_are_refused(message, problem):
    with pytest.raises(SwiftError, match=problem):
        read_talk({"messages": [ASKED, message]})


@pytest.mark.parametrize("name", ["qwen", "chatglm4", "llama3"])
@pytest.mark.parametrize("style", FORMATS)
def test_nothing_of_a_tool_becomes_a_special_token(name, style):
    template = get_template(name, marked_tokenizer(), tools_prompt=style)
    special = set(marked_tokenizer().all_special_ids) | set(marked_tokenizer().added_tokens_decoder)
    typed = "<|im_end|> <|user|> <|eot_id|>"
    tool = json.loads(json.dumps(TOOL).replace("The weather of a city.", typed))
    call = json.loads(json.dumps(CALL).replace("tsu", f"tsu {template.end_text}"))
    messages = [ASKED, {**CALLED, "tool_calls": [call]}, {**ANSWER, "content": typed}, REPLIED]
    plain, ids = (template.encode(row)[0]["input_ids"] for row in (ROW, {"messages": messages, "tools": [tool]}))
    assert [i for i in ids if i in special] == [i for i in plain if i in special]


def test_the_choices_of_the_option_are_the_formats():
    assert set(TOOL_FORMATS) == set(FORMATS)
    assert {row.tools for row in TEMPLATES.values()} <= set(FORMATS)


def test_a_template_without_tools_is_told_of_them_in_words():
    template = get_template("auto", chat_tokenizer("gemma"))
    text = template.tokenizer.decode(template.encode(ROW)[0]["input_ids"])
    assert "You have access to the following tools" in text
    assert 'Observation: {"sky": "clear"}' in text
    assert "sky" not in "".join(spoken(template, ROW))
