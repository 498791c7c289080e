"""Laws that hold for every row of the registry, with a tokenizer that has its marks and with one that has not."""

from __future__ import annotations

import pytest

from swift.errors import ConfigError, DataError, UnknownNameError
from swift.templates import TEMPLATES, TemplateRecord, TemplateType
from swift.templates.encoding import Laid, Said, Shown, Template
from swift.templates.template import RecordTemplate, get_template
from swift.templates.tokens import special_texts, tokenise
from tests.templates.chats import (
    ROUNDS_ONE,
    WITH_SYSTEM,
    as_said,
    bare_tokenizer,
    marked_tokenizer,
    said,
    talk,
)
from tests.templates.golden import GOLDEN

NAMES = list(TEMPLATES)
CHAT_NAMES = [name for name in NAMES if name not in ROUNDS_ONE]
TOKENIZERS = {"marked": marked_tokenizer, "bare": bare_tokenizer}


@pytest.fixture(params=list(TOKENIZERS))
def any_tokenizer(request: pytest.FixtureRequest):
    return TOKENIZERS[request.param]()


def long_talk(name: str, system: str | None = None) -> dict:
    turns = ["How are you?", "Fine, thanks.", "你是谁？", "我是一个小模型。", "And\n\nnow?", "Now  nothing"]
    return talk(*turns[: 2 if name in ROUNDS_ONE else 6], system=system)


def replies(name: str, row: dict) -> list[str]:
    texts = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    return [as_said(name, text, k == len(texts) - 1) for k, text in enumerate(texts)]


def check_mask(template: Template, row: dict) -> None:
    """Supervised are exactly the replies, each with the end of its turn, and no more."""
    inputs, _ = template.encode(row)
    assert len(inputs["input_ids"]) == len(inputs["labels"])
    expected = [ids + template.end_ids for ids in tokenise(template.tokenizer, replies(template.name, row))]
    assert said(template, inputs) == expected


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_text_is_the_golden_one(name):
    template = get_template(name, marked_tokenizer(), default_system="")
    turns = ["Q1", "A1"] if name in ROUNDS_ONE else ["Q1", "A1", "Q2", "A2"]
    inputs, _ = template.encode(talk(*turns, system="SYS" if name in WITH_SYSTEM else None))
    assert template.tokenizer.decode(inputs["input_ids"]) == GOLDEN[name]


def test_every_row_has_a_golden_text_but_those_of_bare_ids():
    assert set(NAMES) - set(GOLDEN) == {"baichuan", "telechat2"}


@pytest.mark.parametrize(("name", "user", "assistant"), [("baichuan", 195, 196), ("telechat2", 4, 5)])
def test_rows_of_bare_ids_show_them(name, user, assistant):
    inputs, _ = get_template(name, marked_tokenizer()).encode(talk("Q1", "A1"))
    ids = inputs["input_ids"]
    assert ids.index(user) < ids.index(assistant)


@pytest.mark.parametrize("name", NAMES)
def test_said_are_the_replies_and_their_ends(name, any_tokenizer):
    check_mask(get_template(name, any_tokenizer), long_talk(name))


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_ids_but_where_another_text_ends_the_turn(name, any_tokenizer):
    template = get_template(name, any_tokenizer)
    inputs, _ = template.encode(long_talk(name))
    pairs = list(zip(inputs["input_ids"], inputs["labels"], strict=True))
    differ = [label for i, label in pairs if label not in (-100, i)]
    record = TEMPLATES[name]
    following = (*(record.chat_sep or ()), *record.prompt)[0] if record.chat_sep is not None else record.suffix[0]
    shown_end = following == record.suffix[0] or str(following).startswith(str(record.suffix[0]))
    assert not (shown_end and template.end_ids and differ and any_tokenizer is marked_tokenizer())
    assert set(differ) <= set(template.end_ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_how_its_answer_begins(name, any_tokenizer):
    template = get_template(name, any_tokenizer)
    row = long_talk(name)
    prompt, _ = template.encode({"messages": row["messages"][:-1]})
    whole, _ = template.encode(row)
    assert prompt["labels"] is None
    count = len(prompt["input_ids"])
    assert whole["input_ids"][:count] == prompt["input_ids"]
    assert whole["labels"][count - 1] == -100
    assert whole["labels"][count] != -100


@pytest.mark.parametrize("name", NAMES)
def test_users_cannot_write_special_tokens(name, any_tokenizer):
    template = get_template(name, any_tokenizer)
    specials = set(any_tokenizer.all_special_ids) | set(any_tokenizer.added_tokens_decoder)
    attack = f"a{''.join(sorted(special_texts(any_tokenizer)))}b"
    count = [
        sum(i in specials for i in template.encode(talk(text, "fine"))[0]["input_ids"]) for text in (attack, "harmless")
    ]
    assert count[0] == count[1]
    assert attack in any_tokenizer.decode(template.encode(talk(attack, "fine"))[0]["input_ids"])


@pytest.mark.parametrize("name", [n for n in NAMES if not TEMPLATES[n].generation])
def test_a_reply_cannot_end_its_turn_early(name):
    template = get_template(name, marked_tokenizer())
    last = template.end_ids[-1]
    row = talk("Hello", f"one{template.end_text}two</s>")
    labels = template.encode(row)[0]["labels"]
    assert labels.count(last) == 1
    spoken = template.tokenizer.decode([i for i in labels if i >= 0])
    assert spoken == as_said(name, f"one{template.end_text}two</s>", True) + template.end_text


@pytest.mark.parametrize("name", CHAT_NAMES)
def test_ends_are_as_many_as_replies(name):
    template = get_template(name, marked_tokenizer())
    labels = template.encode(long_talk(name))[0]["labels"]
    assert labels.count(template.end_ids[-1]) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 3, 10])
def test_truncation_keeps_the_tail_and_its_labels(name, length):
    whole, _ = get_template(name, marked_tokenizer()).encode(long_talk(name))
    left, _ = get_template(name, marked_tokenizer(), None, length, "truncation_left").encode(long_talk(name))
    assert left.pop("truncated") == len(whole["input_ids"]) - length
    assert left == {key: value[-length:] for key, value in whole.items()}
    assert get_template(name, marked_tokenizer(), None, length).encode(long_talk(name)) == ({}, {})


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows(name, any_tokenizer):
    template = get_template(name, any_tokenizer, max_length=900)
    rows = [long_talk(name), talk("Hi </s> <|im_end|>", "Ho"), {"query": "q"}, talk("x" * 3000, "y"), talk("1", "")]
    assert template.encode_batch(rows) == [template.encode(row)[0] for row in rows]
    assert template.encode_batch([]) == []


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_three_meanings_of_system(name):
    tokenizer = marked_tokenizer()

    def text(default: str | None, system: str | None) -> str:
        row = {"query": "Q", "response": "A", "system": system}
        return tokenizer.decode(get_template(name, tokenizer, default).encode(row)[0]["input_ids"])

    own = TEMPLATES[name].default_system
    assert text(None, None) == (text(None, own) if own else text(None, ""))
    assert text("Other", None) == text(None, "Other") == text("", "Other")
    assert text("", None) == text("Other", "") == text(None, "")
    assert "Other" in text("Other", None)
    assert "Other" not in text("Other", "")
    assert get_template(name, tokenizer).default_system == (own or None)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_SYSTEM)))
def test_a_system_text_without_a_place_is_refused(name):
    template = get_template(name, marked_tokenizer())
    with pytest.raises(DataError, match="has no place for one"):
        template.encode({"query": "Q", "system": "S"})
    assert template.encode({"query": "Q", "system": ""}) == template.encode({"query": "Q"})
    with pytest.raises(ConfigError, match="has no place for one"):
        get_template(name, marked_tokenizer(), "S")


@pytest.mark.parametrize("name", ROUNDS_ONE)
def test_one_round_is_one_round(name):
    with pytest.raises(DataError, match="single round"):
        get_template(name, marked_tokenizer()).encode(talk("1", "2", "3", "4"))


@pytest.mark.parametrize("name", CHAT_NAMES)
def test_messages_are_rounds(name):
    template = get_template(name, marked_tokenizer())
    system = "Be short." if name in WITH_SYSTEM else None
    rounds = {"query": "3", "response": "4", "history": [["1", "2"]], "system": system}
    assert template.encode(rounds) == template.encode(talk("1", "2", "3", "4", system=system))


def test_qwen_supervises_the_end_it_shows():
    template = get_template("qwen", marked_tokenizer(), "")
    inputs, _ = template.encode(talk("Q1", "A1", "Q2", "A2"))
    end = marked_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert [label for i, label in zip(inputs["input_ids"], inputs["labels"], strict=True) if i == end] == [
        *(-100, end),
        *(-100, end),
    ]


def test_llama_supervises_the_end_in_its_separator():
    template = get_template("llama", marked_tokenizer(), "")
    inputs, _ = template.encode(talk("Q1", "A1", "Q2", "A2"))
    decode = marked_tokenizer().decode
    assert [decode(ids) for ids in said(template, inputs)] == ["A1</s>", "A2</s>"]
    assert all(label in (-100, i) for i, label in zip(inputs["input_ids"], inputs["labels"], strict=True))


def test_chatglm3_supervises_the_next_user_mark():
    template = get_template("chatglm3", marked_tokenizer())
    inputs, _ = template.encode(talk("Q1", "A1", "Q2", "A2"))
    user = marked_tokenizer().convert_tokens_to_ids("<|user|>")
    assert template.end_ids == [user]
    at = [label for i, label in zip(inputs["input_ids"], inputs["labels"], strict=True) if i == user]
    assert at == [-100, user, user]


def test_where_another_text_follows_the_label_still_says_the_end():
    template = get_template("default", marked_tokenizer(), "")
    inputs, _ = template.encode(talk("Q1", "A1", "Q2", "A2"))
    eos = marked_tokenizer().eos_token_id
    assert inputs["input_ids"].count(eos) == 1
    assert inputs["labels"].count(eos) == 2


def test_pre_training_is_all_said():
    template = get_template("default-generation", marked_tokenizer())
    inputs, _ = template.encode({"messages": [{"role": "assistant", "content": "Once.</s>Twice."}]})
    assert inputs["labels"] == inputs["input_ids"]
    assert inputs["input_ids"].count(marked_tokenizer().eos_token_id) == 2
    assert template.generation


def test_bos_comes_once_and_only_if_the_tokenizer_gives_it():
    from tokenizers.processors import TemplateProcessing

    from tests.tiny import tiny_tokenizer

    plain, adding = tiny_tokenizer(), tiny_tokenizer()
    bos = adding.bos_token_id
    adding.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert adding("")["input_ids"] == [bos]
    first = get_template("chatml", adding).encode(talk("Q", "A"))[0]
    assert first["input_ids"].count(bos) == 1
    assert first["input_ids"][0] == bos
    assert first["labels"][0] == -100
    assert get_template("chatml", plain).encode(talk("Q", "A"))[0]["input_ids"] == first["input_ids"][1:]
    assert get_template("qwen", adding).encode({"query": "Q"})[0]["input_ids"].count(bos) == 0
    started = RecordTemplate(TemplateRecord("x", ("{{QUERY}}",), ("</s>",), prefix=("<s>",), auto_add_bos=True), adding)
    assert started.encode({"query": "Q"})[0]["input_ids"].count(bos) == 1


def test_tools_answer_in_their_own_round():
    tokenizer = marked_tokenizer()
    row = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "call"},
        {"role": "tool", "content": "T1"},
        {"role": "tool", "content": "T2"},
        {"role": "assistant", "content": "A"},
    ]
    text = {
        name: tokenizer.decode(get_template(name, tokenizer, "").encode({"messages": row})[0]["input_ids"])
        for name in ("chatglm4", "qwen")
    }
    assert text["chatglm4"].endswith("call<|observation|>\nT1\nT2<|assistant|>\nA<|user|>")
    assert text["qwen"].endswith("<|im_start|>user\nT1\nT2<|im_end|>\n<|im_start|>assistant\nA<|im_end|>")


def test_mistral_shows_the_system_text_in_the_last_round():
    tokenizer = marked_tokenizer()
    template = get_template("mistral-nemo", tokenizer)
    prompt, _ = template.encode({"query": "Q2", "history": [["Q1", "A1"]], "system": "S"})
    assert tokenizer.decode(prompt["input_ids"]) == "<s>[INST] Q1[/INST]A1</s>[INST] S\n\nQ2[/INST]"


@pytest.mark.parametrize(
    "roles", [("user", "user"), ("user", "assistant", "assistant"), ("user", "assistant", "tool", "user")]
)
def test_two_of_one_side_in_a_row_are_refused(roles):
    with pytest.raises(DataError, match="follows one from"):
        get_template("qwen", marked_tokenizer()).encode({"messages": [{"role": r, "content": "x"} for r in roles]})


def test_places_in_what_users_write_are_text():
    tokenizer = marked_tokenizer()
    inputs, _ = get_template("qwen", tokenizer).encode(talk("{{SYSTEM}} {{QUERY}}", "{{QUERY}}", system="{{QUERY}}"))
    assert tokenizer.decode(inputs["input_ids"]).count("{{QUERY}}") == 3


def test_a_token_that_the_tokenizer_lacks():
    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ConfigError, match="bos_token_id"):
        get_template("deepseek", tokenizer)
    with pytest.raises(ConfigError, match="needs the token 999999"):
        RecordTemplate(TemplateRecord("x", ((999999,), "{{QUERY}}"), ("</s>",)), tokenizer)


def test_an_end_that_is_ordinary_text_is_told(caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("swift"), "propagate", True)
    get_template("llama3", bare_tokenizer())
    assert "is ordinary text for this tokenizer" in caplog.text


def test_the_end_of_a_turn_needs_room():
    tokenizer = marked_tokenizer()
    template = RecordTemplate(TemplateRecord("x", ("{{QUERY}}",), ("one two three",)), tokenizer)
    assert len(template.end_ids) > 1
    with pytest.raises(DataError, match="no room for the end"):
        template.encode(talk("a", "b", "c", "d"))
    with pytest.raises(DataError, match="nothing between two replies"):
        template.lay([Said([1]), Said([2])])
    with pytest.raises(DataError, match="nothing between two replies"):
        template.lay([Said([1]), Shown([]), Said([2])])
    assert template.lay([Shown([7]), Said([8], ended=True), Shown([9])]) == Laid([7, 8, 9], [-100, 8, -100])


def test_names():
    assert TemplateType.qwen2_5 == "qwen2_5"
    assert TemplateType.deepseek_coder == "deepseek-coder"
    with pytest.raises(UnknownNameError, match="qwen2_6"):
        get_template("qwen2_6", bare_tokenizer())
    with pytest.raises(ConfigError, match="truncation_strategy right"):
        get_template("qwen", bare_tokenizer(), truncation_strategy="right")  # type: ignore[arg-type]


def test_further_names_of_old_callers_are_taken():
    assert get_template("qwen", bare_tokenizer(), None, None, "delete", model=None).name == "qwen"
