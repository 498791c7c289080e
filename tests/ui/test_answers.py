"""Conversations of the page, without the page."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.arguments.app_ui import AppUIArguments
from swift.inference.generate import inference
from swift.templates.template import get_template
from swift.ui.answers import LONGEST_MESSAGE, Answers, Person, fit_history
from swift.ui.talk import Facts, Reply, Round, Talk, View
from swift.ui.words import ENGLISH
from tests.tiny import tiny_model, tiny_tokenizer

ME = Person("tab")


def make(template_type: str = "auto", **options: Any) -> Answers:
    args = AppUIArguments(**{"max_new_tokens": 12, "do_sample": False, **options})
    model = tiny_model(initializer_range=0.2).eval()
    return Answers(args, model, get_template(template_type, tiny_tokenizer(), args.system))


def say(answers: Answers, text: str, talk: Talk | None = None, who: Person = ME, **settings: Any) -> list[View]:
    asked = answers.ask(text, talk or Talk(), who)
    chosen = replace(answers.settings(), **settings)
    return [asked, *answers.answer(asked.talk, chosen, who)]


def talk_of(*pairs: tuple[str, str]) -> Talk:
    return Talk(tuple(Round(asked, (Reply("", said),)) for asked, said in pairs))


def pairs_of(talk: Talk) -> list[list[str]]:
    return [[turn.asked, turn.reply(0).text] for turn in talk.rounds]


def facts_of(view: View) -> Facts:
    facts = view.talk.rounds[-1].reply(0).facts
    assert facts is not None
    return facts


@pytest.fixture(scope="module")
def answers() -> Answers:
    return make()


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 5), st.integers(0, 60))
def test_the_history_that_fits_is_the_longest_end(sizes: list[int], own: int, limit: int) -> None:
    rounds = [[str(size), ""] for size in sizes]

    def tokens(history: Sequence[Any]) -> int:
        return own + sum(int(query) for query, _ in history)

    fitting = [rounds[k:] for k in range(len(rounds) + 1) if tokens(rounds[k:]) <= limit]
    assert fit_history(tokens, rounds, limit) == (fitting[0] if fitting else None)


def test_an_answer_grows_and_is_that_of_infer(answers: Answers) -> None:
    views = say(answers, "hi")
    expected, history = inference(
        answers.model, answers.template, "hi", generation_config=answers.settings().generation_config()
    )
    last = views[-1]
    assert pairs_of(last.talk) == history == [["hi", expected]]
    assert [view.busy for view in views] == [True] * (len(views) - 1) + [False]
    assert views[0].talk.going == Round("hi")
    assert views[0].box == ""
    assert last.box is None
    assert last.status == ""
    assert facts_of(last).line(ENGLISH).endswith(ENGLISH.cut)
    assert "seed" not in facts_of(last).line(ENGLISH)
    assert facts_of(last).new == 12
    assert not answers.running.stops


def test_answers_are_shown_while_they_grow(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.ui.answers.SECONDS_BETWEEN_VIEWS", 0.0)
    shown = [view.talk.going.reply(0).text for view in say(answers, "hi")[1:-1] if view.talk.going]
    assert len(set(shown)) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    whole = make(stream=False)
    assert len(say(whole, "hi")) == 3


def test_the_conversation_goes_on(answers: Answers) -> None:
    first = say(answers, "hi")[-1]
    second = say(answers, "and you?", first.talk)[-1]
    alone = say(answers, "and you?")[-1]
    assert second.talk.rounds[0] == first.talk.rounds[0]
    assert second.talk.rounds[1].reply(0).text != alone.talk.rounds[0].reply(0).text


def test_the_system_prompt_and_the_sampling_are_those_chosen(answers: Answers) -> None:
    plain = pairs_of(say(answers, "hi")[-1].talk)
    assert pairs_of(say(answers, "hi", system="be kind")[-1].talk) != plain
    drawn = [say(answers, "hi", temperature=2.0, top_k=0, top_p=1.0, seed=seed)[-1] for seed in (1, 1, 2)]
    assert pairs_of(drawn[0].talk) == pairs_of(drawn[1].talk) != pairs_of(drawn[2].talk)
    assert "seed 2" in facts_of(drawn[2]).line(ENGLISH)
    assert pairs_of(say(answers, "hi", max_new_tokens=2)[-1].talk) != plain


def test_an_open_seed_is_a_new_one_each_time_and_is_told(answers: Answers) -> None:
    told = {facts_of(say(answers, "hi", temperature=1.0)[-1]).seed for _ in range(2)}
    assert len(told) == 2


def test_a_system_prompt_that_was_said_is_on_the_page_and_can_be_emptied() -> None:
    answers = make(system="be kind")
    assert answers.settings().system == "be kind"
    kind, none = pairs_of(say(answers, "hi")[-1].talk), pairs_of(say(answers, "hi", system="")[-1].talk)
    assert none == pairs_of(say(make(), "hi")[-1].talk) != kind


def test_undo_gives_the_message_back_and_retry_asks_it_again(answers: Answers) -> None:
    talk = say(answers, "two", say(answers, "one")[-1].talk)[-1].talk
    back = answers.undo(talk)
    assert back.talk.rounds == talk.rounds[:1]
    assert back.box == "two"
    again = answers.retry(talk, ME)
    assert again.busy
    assert pairs_of(list(answers.answer(again.talk, answers.settings(), ME))[-1].talk) == pairs_of(talk)
    for view in (answers.undo(Talk()), answers.retry(Talk(), ME), answers.ask(" \n", Talk(), ME)):
        assert view == View(Talk())
    assert list(answers.answer(Talk(), answers.settings(), ME)) == []
    assert not answers.running.stops


def test_stopping_ends_with_the_token_at_work_and_keeps_what_there_is(answers: Answers) -> None:
    steps: list[int] = []

    def count(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 9:
            answers.running.stop(ME.tab)

    handle = answers.model.register_forward_hook(count)
    last = say(answers, "hi", max_new_tokens=300)[-1]
    handle.remove()
    assert len(steps) == 9
    assert ENGLISH.stopped in facts_of(last).line(ENGLISH)
    assert last.talk.rounds[0].reply(0).text
    answers.running.stop("nobody")
    answers.running.leave("nobody")


def test_stopping_before_the_answer_began_gives_the_message_back(answers: Answers) -> None:
    asked = answers.ask("hi", Talk(), ME)
    answers.running.stop_all()
    (last,) = answers.answer(asked.talk, answers.settings(), ME)
    assert last == View(Talk(), ENGLISH.stopped, "hi")
    assert not answers.running.stops


def test_an_answer_whose_reader_left_does_not_end_the_next_one(answers: Answers) -> None:
    asked = answers.ask("hi", Talk(), ME)
    old = answers.answer(asked.talk, answers.settings(), ME)
    next(old)
    answers.running.leave(ME.tab)
    new = answers.running.begin(ME.tab)
    old.close()
    assert answers.running.stops == {ME.tab: new}
    assert not new.is_set()
    answers.running.leave(ME.tab)


def test_a_long_history_is_trimmed_for_the_model_and_still_shown() -> None:
    answers = make(max_length=80)
    pairs = [(f"question {k}", "one two three four five") for k in range(8)]
    last = say(answers, "hi", talk_of(*pairs))[-1]
    assert pairs_of(last.talk)[:-1] == list(map(list, pairs))
    kept = next(
        k for k in range(9) if len(answers.template.encode({"query": "hi", "history": pairs[k:]})[0]["input_ids"]) <= 80
    )
    assert 0 < kept < 8
    assert f"first {kept} of 8 rounds" in facts_of(last).line(ENGLISH)
    assert pairs_of(last.talk)[-1] == pairs_of(say(answers, "hi", talk_of(*pairs[kept:]))[-1].talk)[-1]


def test_the_models_own_length_leaves_room_for_an_answer(answers: Answers) -> None:
    rounds = [("one two three four five six seven", "eight nine ten")] * 60
    last = say(answers, "hi", talk_of(*rounds), max_new_tokens=400)[-1]
    assert len(last.talk.rounds) == 61
    assert facts_of(last).dropped
    assert 512 * 0.6 < facts_of(last).prompt <= 512 - 128


def test_a_message_that_does_not_fit_comes_back_with_the_reason(answers: Answers) -> None:
    before = talk_of(("a", "b"))
    for text in ("one two three " * 400, "x" * (LONGEST_MESSAGE + 1)):
        last = say(answers, text, before)[-1]
        assert last.talk == before
        assert last.box == text
        assert "does not fit" in last.status
        assert not last.busy


def test_without_any_limit_all_of_the_history_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = make()
    answers.model_length = None
    assert answers.settings().max_new_tokens == 12
    before = talk_of(*[("q", "a")] * 3)
    last = say(answers, "hi", before)[-1]
    assert last.talk.rounds[:3] == before.rounds
    assert facts_of(last).dropped == 0


def test_an_unexpected_error_is_recovered_from(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(answers.model, "forward", broken)
    before = talk_of(("a", "b"))
    asked = answers.ask("hi", before, ME)
    with pytest.raises(RuntimeError):
        list(answers.answer(asked.talk, answers.settings(), ME))
    assert not answers.running.stops
    view = answers.recover(asked.talk, ENGLISH)
    assert view == View(before, ENGLISH.failed, "hi")
    assert answers.recover(before, ENGLISH) is None


def test_an_empty_answer_is_said_to_be_one(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.ui.answers.Reader.whole", lambda *_: "")
    monkeypatch.setattr("swift.ui.answers.Reader.so_far", lambda *_: "")
    assert say(answers, "hi")[-1] == View(Talk(), ENGLISH.nothing, "hi")


def test_several_people_at_once_keep_their_own_conversations(answers: Answers) -> None:
    people, threads = [Person(f"tab {k}") for k in range(5)], set(threading.enumerate())

    def talk(who: Person) -> list[list[str]]:
        first = say(answers, f"I am {who.tab}", who=who, temperature=1.0, seed=7)[-1]
        return pairs_of(say(answers, "who am I?", first.talk, who=who, temperature=1.0, seed=7)[-1].talk)

    alone = [talk(who) for who in people]
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(talk, people)) == alone
    assert not answers.running.stops
    assert len(set(threading.enumerate()) - threads) <= 1, "the engine's own thread, and none of a request"


def test_a_text_is_continued() -> None:
    answers = make("default-generation")
    last = say(answers, "one two")[-1]
    expected, _ = inference(
        answers.model, answers.template, "one two", generation_config=answers.settings().generation_config()
    )
    assert pairs_of(last.talk) == [["one two", expected]]
