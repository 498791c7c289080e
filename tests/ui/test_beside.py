"""Answers beside each other, turns that are changed, and tools: the page without the page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from swift.arguments.app_ui import AppUIArguments
from swift.inference.engine import BASE
from swift.templates.conversation import read_tools
from swift.templates.template import get_template
from swift.ui.answers import Answers, Person
from swift.ui.talk import Reply, Round, Talk, View
from swift.ui.words import CHINESE, ENGLISH
from tests.tiny import tiny_model, tiny_tokenizer

ME = Person("tab")
TOOLS = [{"name": "weather", "description": "what it is like there", "parameters": {}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def answers() -> Answers:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(
        tiny_model(initializer_range=0.2, max_position_embeddings=2048), config, adapter_name="inside"
    ).eval()
    args = AppUIArguments(max_new_tokens=12, do_sample=False)
    models = {"base": BASE, "poet": "inside"}
    template = get_template("qwen", tiny_tokenizer(), tools_prompt="hermes")
    return Answers(args, model, template, models, read_tools(TOOLS))


def say(answers: Answers, text: str, talk: Talk | None = None, *models: str, **settings: Any) -> View:
    asked = answers.ask(text, talk or Talk(), ME)
    return list(answers.answer(asked.talk, replace(answers.settings(), **settings), ME, models))[-1]


def test_two_answers_are_those_that_each_gives_alone(answers: Answers) -> None:
    both = say(answers, "hi", None, "base", "poet").talk.rounds[0].replies
    alone = [say(answers, "hi", None, name).talk.rounds[0].replies[0] for name in ("base", "poet")]
    assert [(reply.model, reply.text) for reply in both] == [(reply.model, reply.text) for reply in alone]
    assert both[0].text != both[1].text
    assert all(reply.facts and reply.facts.new == 12 for reply in both)
    assert say(answers, "hi").talk.rounds[0].replies[0].text == both[0].text
    assert len(say(answers, "hi", None, "poet", "poet").talk.rounds[0].replies) == 1


def test_each_goes_on_with_what_it_said_itself(answers: Answers) -> None:
    first = say(answers, "hi", None, "base", "poet").talk
    second = say(answers, "and?", first, "base", "poet").talk.rounds[1].replies
    for k, name in enumerate(("base", "poet")):
        own = Talk((Round("hi", (first.rounds[0].reply(k),)),))
        assert say(answers, "and?", own, name).talk.rounds[1].replies[0].text == second[k].text


def test_two_that_sample_share_a_seed(answers: Answers) -> None:
    replies = say(answers, "hi", None, "base", "poet", temperature=1.0).talk.rounds[0].replies
    seeds = {reply.facts.seed for reply in replies if reply.facts}
    assert len(seeds) == 1
    assert None not in seeds


def test_a_failure_of_one_ends_the_other(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    said = answers._row

    def row(talk: Talk, rounds: Any, column: int, settings: Any) -> Any:
        if column:
            raise RuntimeError("boom")
        return said(talk, rounds, column, settings)

    monkeypatch.setattr(answers, "_row", row)
    with pytest.raises(RuntimeError, match="boom"):
        say(answers, "hi", None, "base", "poet", max_new_tokens=200)
    assert not answers.running.stops
    assert answers.service is not None
    answers.service.between_steps(lambda: None).result()
    for _ in range(100):
        if not answers.service.engine.busy:
            break
        answers.service.between_steps(lambda: None).result()
    assert not answers.service.engine.busy


def test_a_turn_is_asked_again_in_the_same_or_other_words(answers: Answers) -> None:
    talk = say(answers, "two", say(answers, "one").talk).talk
    again = answers.retry(talk, ME, 0)
    assert again.talk == Talk(going=Round("one"))
    edited = answers.edit(talk, ME, 1, "three")
    assert edited.talk == Talk(talk.rounds[:1], Round("three"))
    assert answers.edit(talk, ME, 1, "  ") == View(talk)
    assert answers.retry(talk, ME, 7) == View(talk)
    assert answers.delete(talk, 0).talk.rounds == talk.rounds[1:]
    assert [answers.delete(talk, number) for number in (-1, -2, 2)] == [View(talk)] * 3
    answers.running.stop_all()
    answers.running.leave(ME.tab)


def test_nothing_is_changed_while_an_answer_is_written(answers: Answers) -> None:
    going = Talk((Round("a", (Reply("base", "b"),)),), Round("c"))
    same = View(going, busy=True)
    assert answers.ask("d", going, ME) == same
    assert answers.retry(going, ME) == answers.edit(going, ME, 0, "x") == same
    assert answers.undo(going) == answers.delete(going, 0) == same
    assert answers.open("{}", going, ENGLISH) == (same, None)


def test_a_file_is_opened_or_refused_in_the_language(answers: Answers) -> None:
    row = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    view, system = answers.open(json.dumps(row), Talk(), ENGLISH)
    assert (view.talk, system) == (Talk((Round("a", (Reply("", "b"),)),)), "s")
    view, system = answers.open("?", view.talk, CHINESE)
    assert view.status.startswith("这个文件里没有对话")
    assert len(view.talk.rounds) == 1
    assert system is None


def test_the_next_message_after_a_call_is_what_the_tool_answers(answers: Answers) -> None:
    talk = Talk((Round("weather in Rome?", (Reply("base", CALL),)),))
    assert [call.name for call in answers.awaited(talk)] == ["weather"]
    asked = answers.ask("22 °C", talk, ME).talk
    assert asked.going == Round("22 °C", tool="weather")
    row = answers._row(asked, talk.rounds, 0, answers.settings())
    text = str(answers.template.tokenizer.decode(answers.template.encode(row)[0]["input_ids"]))
    assert "<tool_response>\n22 °C\n</tool_response>" in text
    assert '"name": "weather"' in text.split("weather in Rome?")[0]
    answered = list(answers.answer(asked, answers.settings(), ME))[-1].talk
    assert answered.rounds[1].tool == "weather"
    assert answers.retry(answered, ME, 1).talk.going == Round("22 °C", tool="weather")
    answers.running.leave(ME.tab)


def test_what_a_tool_answers_is_never_shown_without_its_call(answers: Answers) -> None:
    long = "one two three four five six seven eight " * 12
    turns = (Round(long, (Reply("base", CALL),)), Round("22 °C " * 20, (Reply("base", "fine"),), "weather"))
    talk = Talk(turns * 4, Round("hi"))
    kept = answers._fitting(talk, 0, answers.settings(), ENGLISH)
    assert 0 < len(kept) < 8
    assert kept[0].tool is None
    waiting = Talk((*talk.rounds, turns[0]), Round("22 °C", tool="weather"))
    assert answers._fitting(waiting, 0, answers.settings(), ENGLISH)[-1] == turns[0]
