"""Laws of `auto` over chat templates of several families, and its refusals."""

from __future__ import annotations

import copy
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import DataError
from swift.templates.auto import AutoTemplate, has_chat_template
from swift.templates.template import RecordTemplate, get_template
from swift.templates.tokens import special_texts
from tests.templates.chats import CHATS, ENDS, MARKS, QWEN2_5, chat_tokenizer, said, talk
from tests.tiny import tiny_tokenizer

NAMES = list(CHATS)
WITH_SYSTEM = [name for name in NAMES if name not in ("gemma", "llama2", "mistral")]
TURNS = ["How are you?", "Fine, thanks.", "你是谁？", "我是一个小模型。", "And\n\nnow?", "Now  nothing."]
THOUGHT = "<think>\nLet me see.\n</think>\n\nIt is two."
TRIMMING = ("llama3", "gemma", "mistral", "llama2")
# what a template writes between the prompt for a reply and the reply
LEADS = {"mistral": " ", "llama2": " "}
# what a template writes for the thought that the last reply does not have, from the end of the prompt on
NO_THOUGHT = {"qwen3": "<think>\n\n</think>\n\n", "qwen3.6": "\n</think>\n\n"}


def template_of(name: str, **kwargs) -> AutoTemplate:
    template = get_template("auto", chat_tokenizer(name), **kwargs)
    assert isinstance(template, AutoTemplate)
    return template


def own_ids(name: str, row: dict, prompt: bool = False) -> list[int]:
    """What the tokenizer itself makes of the conversation."""
    tokenizer = chat_tokenizer(name)
    return tokenizer.apply_chat_template(
        row["messages"], tokenize=True, return_dict=False, add_generation_prompt=prompt
    )


def spoken(template: AutoTemplate, inputs: dict) -> list[str]:
    return [template.tokenizer.decode(ids) for ids in said(template, inputs)]


def shows_last_end(name: str) -> bool:
    return name != "glm4"


def expected(name: str, replies: list[str]) -> list[str]:
    """What has to be supervised: every reply, with what the template adds to it, and its end."""
    texts = [f"{LEADS.get(name, '')}{reply.strip() if name in TRIMMING else reply}{ENDS[name]}" for reply in replies]
    if name in NO_THOUGHT and "</think>" not in replies[-1]:
        texts[-1] = NO_THOUGHT[name] + texts[-1]
    return texts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [2, 4, 6])
def test_ids_are_those_of_the_tokenizer(name, count):
    row = talk(*TURNS[:count])
    template = template_of(name)
    own = own_ids(name, row)
    inputs, kwargs = template.encode(row)
    assert kwargs == {}
    assert inputs["input_ids"] == (own if shows_last_end(name) else own + template.end_ids)


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_text_is_shown(name):
    row = talk(*TURNS[:4], system="Be short.")
    inputs, _ = template_of(name).encode(row)
    assert inputs["input_ids"][: len(own_ids(name, row))] == own_ids(name, row)
    assert template_of(name, default_system="Be short.").encode(talk(*TURNS[:4]))[0] == inputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [2, 4, 6])
def test_said_are_the_replies_and_their_ends(name, count):
    template = template_of(name)
    inputs, _ = template.encode(talk(*TURNS[:count]))
    assert len(inputs["labels"]) == len(inputs["input_ids"])
    assert spoken(template, inputs) == expected(name, TURNS[1:count:2])
    assert [ids[-len(template.end_ids) :] for ids in said(template, inputs)] == [template.end_ids] * (count // 2)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "words"])
def test_labels_are_the_ids(name):
    inputs, _ = template_of(name).encode(talk(*TURNS))
    assert all(label in (-100, i) for i, label in zip(inputs["input_ids"], inputs["labels"], strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_prompt_of_inference_is_how_training_begins(name, count):
    template = template_of(name)
    prompt, _ = template.encode(talk(*TURNS[:count]))
    whole, _ = template.encode(talk(*TURNS[: count + 1]))
    length = len(prompt["input_ids"])
    assert prompt["labels"] is None
    assert prompt["input_ids"] == own_ids(name, talk(*TURNS[:count]), prompt=True)
    assert whole["input_ids"][:length] == prompt["input_ids"]
    assert whole["labels"][length - 1] == -100
    assert whole["labels"][length] != -100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reply", ["  Two spaces", "\n\nTwo lines", "ends  ", "both \n\n", "Fine.", "x"])
def test_space_around_a_reply_keeps_the_prompt(name, reply):
    template = template_of(name)
    row = talk("Q", reply, "Q", reply)
    prompt, _ = template.encode({"messages": row["messages"][:-1]})
    inputs, _ = template.encode(row)
    assert inputs["input_ids"][: len(prompt["input_ids"])] == prompt["input_ids"]
    want = expected(name, [reply, reply])
    if name in NO_THOUGHT:
        want[-1] = NO_THOUGHT[name] + reply.lstrip("\n") + ENDS[name]
    assert spoken(template, inputs) == want


@pytest.mark.parametrize("name", NAMES)
def test_users_cannot_write_special_tokens(name):
    tokenizer, template = chat_tokenizer(name), template_of(name)
    attack = f"a{''.join(sorted(special_texts(tokenizer)))}b"
    specials = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    rows = [talk(text, "fine", text, "good") for text in (attack, "harmless")]
    encoded = [template.encode(row)[0] for row in rows]
    assert len({sum(i in specials for i in inputs["input_ids"]) for inputs in encoded}) == 1
    assert tokenizer.decode(encoded[0]["input_ids"]).count(attack) == 2
    assert spoken(template, encoded[0]) == spoken(template, encoded[1])
    prompt, _ = template.encode({"messages": rows[0]["messages"][:-1]})
    assert encoded[0]["input_ids"][: len(prompt["input_ids"])] == prompt["input_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_cannot_end_its_turn_early(name):
    template = template_of(name)
    end = ENDS[name].strip()
    inputs, _ = template.encode(talk("Q", f"one{end}two", "Q", "three"))
    assert inputs["labels"].count(template.end_ids[-1]) == 2
    assert f"one{end}two" in spoken(template, inputs)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows(name):
    template = template_of(name, max_length=200)
    rows = [talk(*TURNS), talk("Hi </s> <|im_end|>", "Ho"), {"query": "q"}, talk("x" * 900, "y"), talk("1", " 2 ")]
    assert template.encode_batch(rows) == [template.encode(row)[0] for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_truncation_keeps_the_tail_and_its_labels(name):
    whole, _ = template_of(name).encode(talk(*TURNS))
    left, _ = template_of(name, max_length=9, truncation_strategy="truncation_left").encode(talk(*TURNS))
    assert left.pop("truncated") == len(whole["input_ids"]) - 9
    assert left == {key: value[-9:] for key, value in whole.items()}
    assert template_of(name, max_length=9).encode(talk(*TURNS)) == ({}, {})


WORDS = st.sampled_from(
    [*"ab \n.é你🙂<>|", *MARKS, "<|im_end|>", "</s>", "<s>", "<think>", "</think>", "<|im_", "end|>"]
)
TEXT = st.lists(WORDS, max_size=8).map("".join)


@given(turns=st.lists(TEXT, min_size=2, max_size=6), name=st.sampled_from(NAMES))
@settings(max_examples=400, deadline=None)
def test_any_text_is_right_or_refused(turns, name):
    template = template_of(name)
    row = talk(*turns[: 2 * (len(turns) // 2)])
    errors: list = []
    (inputs,) = template.encode_batch([row], errors)
    if errors:
        return
    (prompt,) = template.encode_batch([{"messages": row["messages"][:-1]}])
    own = chat_tokenizer(name).apply_chat_template(row["messages"], tokenize=False)
    text = template.tokenizer.decode(inputs["input_ids"])
    assert text == (own if shows_last_end(name) else own + template.end_text)
    assert inputs["input_ids"][: len(prompt["input_ids"])] == prompt["input_ids"]
    replies = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    stretches = said(template, inputs)
    assert len(stretches) == len(replies)
    assert [ids.count(template.end_ids[-1]) for ids in stretches] == [1] * len(replies)
    if "</think>" not in "".join(replies) and name not in NO_THOUGHT:
        assert spoken(template, inputs) == expected(name, replies)


def test_few_texts_are_refused():
    """The law above would hold of a template that refuses everything."""
    for name in NAMES:
        errors: list = []
        rows = [talk("Q", reply, "R", "x") for reply in ("a ", " b", THOUGHT, "c\n\n", "<|im_end|>", "", "d </s>")]
        template_of(name).encode_batch(rows, errors)
        assert not errors, (name, errors)


def test_thoughts_of_earlier_turns_are_left_out_as_at_inference():
    template = template_of("qwen3")
    inputs, _ = template.encode(talk("1+1?", THOUGHT, "2+2?", THOUGHT))
    assert spoken(template, inputs) == ["It is two.<|im_end|>", THOUGHT + "<|im_end|>"]
    assert inputs["input_ids"] == own_ids("qwen3", talk("1+1?", THOUGHT, "2+2?", THOUGHT))


def test_thoughts_where_the_prompt_opens_them():
    template = template_of("qwen3.6")
    for first in (THOUGHT, "Three.", "<think>\n\n</think>\n\nThree."):
        row = talk("1+1?", first, "2+2?", THOUGHT)
        inputs, _ = template.encode(row)
        assert spoken(template, inputs) == [
            f"{first.rpartition('</think>')[2].strip()}<|im_end|>",
            "Let me see.\n</think>\n\nIt is two.<|im_end|>",
        ]
        assert inputs["input_ids"] == own_ids("qwen3.6", row)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reply", ["Fine, thanks.", "x", "<think>\nHm.\n</think>\n\nNo."])
def test_an_answer_is_the_reply_without_what_the_template_adds(name, reply):
    """And while it grows nothing is shown that is taken back."""
    template = template_of(name)
    ids = said(template, template.encode(talk("Q", reply))[0])[0]
    want = reply.removeprefix("<think>\n") if name == "qwen3.6" else reply
    assert template.generate_ids_to_response(ids) == want
    for count in range(len(ids)):
        assert want.startswith(template.generate_ids_to_response(ids[:count], False))


def test_an_earlier_thought_that_is_kept_out_of_place_is_refused():
    source = CHATS["qwen3.6"].replace("set content = content.split", "set content = thought + content.split")
    template = get_template("auto", with_template(source))
    assert template.encode(talk("Q", "A", "Q", THOUGHT))[0]
    with pytest.raises(DataError, match="keeps the thought of an earlier reply"):
        template.encode(talk("Q", THOUGHT, "Q", "A"))


def test_no_bos_is_doubled():
    for name in ("llama3", "gemma", "mistral"):
        tokenizer = chat_tokenizer(name)
        ids = template_of(name).encode(talk(*TURNS))[0]["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


def test_a_template_without_system_role_refuses_one():
    template = template_of("gemma")
    with pytest.raises(DataError, match="refuses the conversation") as caught:
        template.encode(talk("Q", "A", system="S"))
    assert caught.value.why == "System role not supported"
    assert template.encode(talk("Q", "A", system="")) == template.encode(talk("Q", "A"))
    silent = copy.deepcopy(chat_tokenizer("qwen2.5"))
    silent.chat_template = QWEN2_5.replace("+ messages[0]['content'] +", "+")
    template = get_template("auto", silent)
    with pytest.raises(DataError, match="leaves out message 0"):
        template.encode(talk("Q", "A", system="Be short."))


def test_three_meanings_of_system():
    def text(default: str | None, system: str | None) -> str:
        inputs, _ = template_of("qwen2.5", default_system=default).encode(talk("Q", "A", system=system))
        return chat_tokenizer("qwen2.5").decode(inputs["input_ids"])

    assert "You are Qwen." in text(None, None)
    assert "You are Qwen." not in text(None, "")
    assert text("", None) == text("Other", "") == text(None, "")
    assert text("Other", None) == text(None, "Other")


def test_tools():
    row = talk("Q", "call", "T", "A", system="S")
    row["messages"][3]["role"] = "tool"
    template = template_of("qwen2.5")
    inputs, _ = template.encode(row)
    assert spoken(template, inputs) == ["call<|im_end|>", "A<|im_end|>"]


def test_a_system_text_that_only_the_prompt_shows_is_refused():
    template = template_of("mistral")
    row = talk("Q1", "A1", "Q2", "A2", system="Be short.")
    prompt, _ = template.encode({"messages": row["messages"][:-1]})
    assert "Be short." in template.tokenizer.decode(prompt["input_ids"])
    with pytest.raises(DataError, match="leaves out message 0, from the system"):
        template.encode(row)
    with pytest.raises(DataError, match="is not how the finished conversation begins"):
        template.encode(talk("S1", "A1", system="S"))


def test_a_lone_reply_and_an_opening_one():
    template = template_of("qwen2.5")
    inputs, _ = template.encode({"messages": [{"role": "assistant", "content": "Once."}]})
    assert spoken(template, inputs) == ["Once.<|im_end|>"]
    row = {"messages": [{"role": "assistant", "content": "Hello!"}, *talk("Q", "A")["messages"]]}
    assert spoken(template, template.encode(row)[0]) == ["Hello!<|im_end|>", "A<|im_end|>"]


def test_generated_stretches_are_those_that_the_template_says():
    template = template_of("generation")
    inputs, _ = template.encode(talk(*TURNS))
    own = chat_tokenizer("generation").apply_chat_template(
        talk(*TURNS)["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert own["assistant_masks"] == [int(label != -100) for label in inputs["labels"]]


def test_a_template_that_says_only_some_of_its_replies_is_verified_instead():
    source = CHATS["generation"].replace(
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}",
        "{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>",
    )
    template = get_template("auto", with_template(source))
    assert spoken(template, template.encode(talk(*TURNS))[0]) == [f"{reply}<|im_end|>" for reply in TURNS[1::2]]
    assert spoken(template, template.encode(talk("Q", "A"))[0]) == ["A<|im_end|>"]


def generated(before: str, reply: str, after: str = "") -> str:
    """A chat template that calls a stretch of its text generated."""
    said = f"{before}{{% generation %}}{reply}{{% endgeneration %}}{after}"
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}" + said + "{% else %}{{ 'U:' + m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )


@pytest.mark.parametrize(
    ("before", "reply", "after"),
    [
        ("", "A:{{ m.content }}<|im_end|><s>", ""),
        ("A:", "{{ m.content }}<|im_end|><s>", ""),
        ("A:", "{{ m.content }}", "<|im_end|><s>"),
    ],
)
def test_a_generated_stretch_with_more_or_less_than_a_reply(before, reply, after):
    """What counts is what the prompt of inference leaves to be said, and the end where inference stops."""
    template = get_template("auto", with_template(generated(before, reply, after)))
    row = talk(*TURNS)
    inputs, _ = template.encode(row)
    assert inputs["input_ids"] == template.tokenizer.apply_chat_template(row["messages"], return_dict=False)
    assert spoken(template, inputs) == [f"{text}<|im_end|>" for text in TURNS[1::2]]


def test_a_generated_stretch_must_follow_the_prompt():
    source = generated("A:", "{{ m.content }}<|im_end|>").replace("A:{% endif %}", "A:Hm.{% endif %}")
    template = get_template("auto", with_template(source))
    with pytest.raises(DataError, match="is not how the finished conversation begins") as caught:
        template.encode(talk("Q", "A"))
    assert "'U:QA:Hm.'" in str(caught.value.why)


def test_a_changed_reply_is_where_the_template_says():
    short = "{{ m.content }}{% if m.content | length < 4 %}!{% endif %}"
    for reply, after in ((short, "<|im_end|><s>"), (short + "<|im_end|><s>", "")):
        template = get_template("auto", with_template(generated("A:", reply, after)))
        inputs, _ = template.encode(talk("Q", "abc", "R", "Not changed.", "S", "xyz"))
        assert spoken(template, inputs) == ["abc!<|im_end|>", "Not changed.<|im_end|>", "xyz!<|im_end|>"]


def test_registry_row_and_chat_template_agree():
    tokenizer = tiny_tokenizer()
    row = talk(*TURNS, system="Be short.")
    auto, qwen = (get_template(name, tokenizer) for name in ("auto", "qwen"))
    ours, own = qwen.encode(row)[0], auto.encode(row)[0]
    count = len(ours["input_ids"])
    assert own["input_ids"][:count] == ours["input_ids"]
    assert own["labels"][:count] == ours["labels"]
    assert set(own["labels"][count:]) == {-100}
    assert auto.end_ids == qwen.end_ids == [2]


def with_template(source: str, **changes):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


LOOP = "{% for m in messages %}X{% endfor %}"
HANG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{# " + "x" * 70_000 + " #}", "more than 64 kB"),
        (HANG + LOOP, "takes more than"),
        ("{{ raise_exception('no') }}", "refuses the conversation"),
        ("{% if %}", "refuses the conversation"),
        ("{{ ''.__class__.__mro__ }}", "refuses the conversation"),
        ("{{ 1 / 0 }}", "refuses the conversation"),
        (LOOP, "does not show a reply"),
        ("{{ 'x' * 17000000 }}", "characters"),
    ],
)
def test_templates_that_cannot_be_used(source, message, monkeypatch):
    if source.startswith(HANG):
        monkeypatch.setattr("swift.templates.auto.PROBE_SECONDS", 0.3)
    with pytest.raises(DataError, match=message) as caught:
        get_template("auto", with_template(source))
    assert caught.value.exit_code == 65


def test_no_end_at_all():
    source = "{% for m in messages %}{{ m.role + m.content }}\n{% endfor %}"
    with pytest.raises(DataError, match="where a reply ends"):
        get_template("auto", with_template(source, eos_token=None))


def test_changed_replies_are_refused():
    head = "{% for m in messages %}{{ m.role }}:"
    tail = "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    template = get_template("auto", with_template(head + "{{ m.content + (m.content | length) | string }}" + tail))
    with pytest.raises(DataError, match="changes a reply"):
        template.encode(talk("Q", "A"))
    template = get_template("auto", with_template(head + "{{ m.content }}{{ m.content[40:41] }}" + tail))
    assert template.encode(talk("x" * 40, "A"))[0]
    with pytest.raises(DataError, match="changes what is around"):
        template.encode(talk("x" * 34 + "a </s>", "A"))


def test_a_prompt_that_training_does_not_begin_with():
    source = (
        "{% if add_generation_prompt %}Now: {% endif %}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    template = get_template("auto", with_template(source))
    with pytest.raises(DataError, match="is not how the finished conversation begins"):
        template.encode(talk("Q", "A"))


def test_without_a_chat_template_it_is_default(caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("swift"), "propagate", True)
    tokenizer = with_template("")
    tokenizer.chat_template = None
    assert not has_chat_template(tokenizer)
    template = get_template("auto", tokenizer)
    assert isinstance(template, RecordTemplate)
    assert template.name == "default"
    assert "no chat template" in caplog.text


def test_templates_by_name_and_threads():
    tokenizer = with_template("")
    tokenizer.chat_template = {"default": CHATS["generation"], "tool_use": LOOP}
    made: list = []
    thread = threading.Thread(target=lambda: made.append(get_template("auto", tokenizer)))
    thread.start()
    thread.join()
    assert spoken(made[0], made[0].encode(talk("Q", "A"))[0]) == ["A<|im_end|>"]


SLOW = "{% for m in messages %}{% if 'SLOW' in m.content %}" + HANG + "{% endif %}"
SLOW += "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
SLOW += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_a_row_that_takes_too_long_is_the_one_that_is_refused(monkeypatch):
    template = get_template("auto", with_template(SLOW))
    monkeypatch.setattr("swift.templates.auto.PROBE_SECONDS", 0.2)
    monkeypatch.setattr("swift.templates.auto.ROW_SECONDS", 0.05)
    rows = [talk("Q", "A"), talk("SLOW", "A"), talk("Q", "B")]
    errors: list[tuple[int, DataError]] = []
    found = template.encode_batch(rows, errors)
    assert [index for index, _ in errors] == [1]
    assert "takes more than 0.25 seconds for a conversation" in errors[0][1].what
    assert [found[0], {}, found[2]] == [template.encode(rows[0])[0], found[1], template.encode(rows[2])[0]]
    with pytest.raises(DataError, match="for each of 3 conversations"):
        template.encode_batch([rows[1]] * 4, errors)
