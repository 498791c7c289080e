"""`auto` where the prompt opens a thought that the model's own template leaves out of a finished conversation."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import DataError
from swift.templates.auto import AutoTemplate
from swift.templates.check import ANSWER, CALL, TOOL
from swift.templates.kin import rows_like
from swift.templates.replies import said_after
from swift.templates.template import get_template
from tests.templates.chats import MARKS, said, talk
from tests.templates.own import SHIPPED, own_tokenizer
from tests.templates.test_check import shipped, tokenizer_of

OPENING = ["deepseek_r1_distill", "deepseekv3", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra"]
THOUGHT = "<think>\nHm.\n</think>\n\nYes."
EMPTY = "\n</think>\n\n"


@cache
def tokenizer(name: str):
    return tokenizer_of(shipped(name))


@cache
def template_of(name: str, **kwargs) -> AutoTemplate:
    template = get_template("auto", tokenizer(name), **kwargs)
    assert isinstance(template, AutoTemplate)
    return template


def own(name: str, messages: list[dict], prompt: bool) -> str:
    text = tokenizer(name).apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert isinstance(text, str)
    return text


def spoken(name: str, row: dict) -> list[str]:
    template = template_of(name)
    return [str(template.tokenizer.decode(ids)) for ids in said(template, template.encode(row)[0])]


REPLIES = [(THOUGHT, "Hm.\n</think>\n\nYes."), ("Yes.", EMPTY + "Yes."), ("", EMPTY)]
# nemotron's own template shows these as they are, so that they do not begin as its prompt does
OTHER_THOUGHTS = [("<think>Hm.</think>Yes.", "Hm.</think>Yes."), ("Hm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes.")]


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [(name, *pair) for name in OPENING for pair in (*REPLIES, *(OTHER_THOUGHTS if "deepseek" in name else ()))],
)
def test_what_is_trained_begins_with_the_prompt_of_inference(name, reply, expected):
    row = talk("Q", "Before.", "R", reply)
    inputs, _ = template_of(name).encode(row)
    prompt = own(name, row["messages"][:-1], True)
    end = template_of(name).end_text
    assert str(tokenizer(name).decode(inputs["input_ids"])).rstrip() == (prompt + expected + end).rstrip()
    assert spoken(name, row)[-1] == expected + end
    asked, _ = template_of(name).encode({"messages": row["messages"][:-1]})
    assert asked["input_ids"] == inputs["input_ids"][: len(asked["input_ids"])]
    assert asked["input_ids"] == tokenizer(name).apply_chat_template(
        row["messages"][:-1], return_dict=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("turns", [("Q", THOUGHT), ("Q", "A."), ("Q", THOUGHT, "R", "A."), ("Q", "A.", "R", THOUGHT)])
def test_a_row_of_the_catalog_says_the_same(turns):
    for name in ("deepseek-r1", "deepseek-v3"):
        auto, row = (get_template(template, own_tokenizer(name)) for template in ("auto", "deepseek-r1"))
        assert auto.encode(talk(*turns)) == row.encode(talk(*turns))


def test_an_earlier_thought_is_left_out_as_inference_meets_it():
    for name in OPENING:
        row = talk("Q", THOUGHT, "R", THOUGHT)
        first, last = spoken(name, row)
        assert first.strip() == "Yes." + template_of(name).end_text
        assert last == "Hm.\n</think>\n\nYes." + template_of(name).end_text


def test_an_answer_is_the_reply_without_the_empty_thought():
    for name in OPENING:
        template = template_of(name)
        assert template.lead == EMPTY
        ids = said(template, template.encode(talk("Q", "Yes."))[0])[0]
        assert template.generate_ids_to_response(ids) == "Yes."


def test_calls_of_tools_before_the_last_reply():
    name = "nemotron_3_nano"
    asking = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    messages = [*asking, ANSWER, {"role": "assistant", "content": "It is clear."}]
    called, replied = spoken(name, {"messages": messages, "tools": [TOOL]})
    assert called.lstrip().startswith("<tool_call>\n<function=get_weather>")
    assert "clear" not in called
    assert replied == EMPTY + "It is clear." + template_of(name).end_text
    (last,) = spoken(name, {"messages": asking, "tools": [TOOL]})
    assert last.startswith("\n</think>\n<tool_call>\n<function=get_weather>")


def test_nobody_writes_a_special_token():
    for name in OPENING:
        template, end = template_of(name), template_of(name).end_text
        plain = talk("Q", "A", "R", "B")
        typed = talk(f"Q{end}<s>", f"A{end}", f"{end}R", f"B{end}b")
        counts = [template.encode(row)[0]["input_ids"].count(template.end_ids[-1]) for row in (plain, typed)]
        assert counts[0] == counts[1]
        assert spoken(name, typed)[-1] == f"{EMPTY}B{end}b{end}"


WORDS = st.sampled_from([*"ab \n.é你🙂<>|", *MARKS[:9], "<think>", "<|im_end|>", "</s>"])
TEXT = st.lists(WORDS, max_size=8).map("".join)


@given(turns=st.lists(TEXT, min_size=2, max_size=6), name=st.sampled_from(OPENING), thought=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_text_is_right_or_refused(turns, name, thought):
    row = talk(*turns[: 2 * (len(turns) // 2)])
    if thought:
        row["messages"][-1]["content"] = "<think>\nHm.\n</think>\n\n" + row["messages"][-1]["content"]
    errors: list = []
    (inputs,) = template_of(name).encode_batch([row], errors)
    if errors:
        return
    (asked,) = template_of(name).encode_batch([{"messages": row["messages"][:-1]}])
    count = len(asked["input_ids"])
    assert inputs["input_ids"][:count] == asked["input_ids"]
    assert tokenizer(name).decode(asked["input_ids"]) == own(name, row["messages"][:-1], True)
    assert inputs["labels"][count - 1] == -100
    assert inputs["labels"][count] != -100
    end = template_of(name).end_ids[-1]
    assert inputs["labels"].count(end) == sum(m["role"] == "assistant" for m in row["messages"])


def test_few_texts_are_refused():
    for name in OPENING:
        errors: list = []
        rows = [talk("Q", reply, "R", "x") for reply in ("a ", " b", THOUGHT, "c\n\n", "<|im_end|>", "d </s>")]
        rows += [talk("Q", "x", "R", reply) for reply in ("a ", " b", THOUGHT, "c\n\n", "<|im_end|>", "", "d </s>")]
        template_of(name).encode_batch(rows, errors)
        assert not errors, (name, errors)


def test_a_reply_that_is_changed_is_refused():
    with pytest.raises(DataError, match="changes the last reply"):
        said_after("<think>\n", EMPTY, "Yes.", "No.")


@pytest.mark.parametrize(
    ("content", "shown", "said"),
    [
        (" <think>\nHm.</think>A", "A", "Hm.</think>A"),
        ("\n Hm.</think>A", "A", "\n Hm.</think>A"),
        ("<think>\nHm.\n</think>\n\nA", "A", "Hm.\n</think>\n\nA"),
        ("A", "<think></think>A", EMPTY + "A"),
    ],
)
def test_what_is_said_after_the_prompt(content, shown, said):
    assert said_after("<think>\n", EMPTY, content, shown) == said


def test_a_refusal_says_which_row_to_take():
    with pytest.raises(DataError, match="says that it has no thought") as caught:
        template_of("qwen3_5_nothink").encode(talk("Q", THOUGHT))
    assert "--template_type" in str(caught.value.fix)
    assert "qwen3_5-nothink" in str(caught.value.fix)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in ("deepseek2_5", "deepseek-v3", "gpt-oss")])
def test_the_rows_that_are_like_a_chat_template(name):
    told = "nothink" in name
    assert told or name in rows_like(own_tokenizer(name)) or name in ("llama3_1", "llama3_2", "glm4_5")
