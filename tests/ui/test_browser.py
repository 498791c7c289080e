"""The page in a real browser: people talk, stop, leave, mistype, and nothing is fetched from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from swift.ui.talk import Reply
from tests.browser import IN_BROWSER
from tests.ui.guest import Guest

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = IN_BROWSER


def test_two_people_talk_go_back_and_start_anew(serve: Any, browser: Any) -> None:
    url = serve(max_new_tokens=24).url
    ann, bob = Guest(browser, url), Guest(browser, url)
    assert ann.tab.title() == "tiny-chat · swift"
    assert ann.tab.inner_text("#head h1") == "tiny-chat"
    assert "Ask tiny-chat something." in ann.tab.inner_text("#chat")
    assert ann.tab.is_disabled("#undo")

    ann.send("What is the capital of France?")
    bob.send("one two three")
    (first,) = ann.rest(1)
    assert first.startswith("24 tokens · ")
    bob.rest(1)
    assert "one two three" not in ann.said()
    assert len(ann.said()) == len(bob.said()) == 2
    assert ann.tab.input_value("#box textarea") == ""

    ann.send("And of Italy?")
    _, second = ann.rest(2)
    assert read(second) > read(first) + 24
    before = ann.said()
    ann.begin("#retry")
    ann.rest(2)
    assert ann.said() == before

    ann.tab.click("#undo")
    ann.tab.wait_for_function("document.querySelector('#box textarea').value == 'And of Italy?'")
    assert ann.said() == before[:2]
    ann.tab.click("#clear")
    ann.tab.wait_for_selector("#undo:disabled")
    assert ann.said() == []
    assert len(bob.said()) == 2
    assert ann.wrong == bob.wrong == []


def read(facts: str) -> int:
    """The tokens that were read."""
    return int(facts.split(" · ")[2].split()[0])


def test_stopping_is_at_once_frees_the_place_and_keeps_what_was_said(serve: Any, browser: Any) -> None:
    served = serve(max_new_tokens=3000, concurrency=1)
    ann, bob = Guest(browser, served.url), Guest(browser, served.url)
    ann.send("hi")
    ann.tab.wait_for_function("(document.querySelector('#chat .bot-row')?.innerText ?? '').length > 20")
    ann.picture("writing")
    assert ann.tab.is_disabled("#clear")
    bob.send("me too")  # has to wait for the one place
    engine = served.answers.service.engine
    ann.tab.keyboard.press("Escape")
    (facts,) = ann.rest(1)
    assert "stopped" in facts
    assert int(facts.split()[0]) < 3000
    bob.tab.wait_for_selector("#chat .bot-row")
    assert engine.num_running == 1
    said = ann.said()[1]
    bob.tab.click("#box .stop-button")
    bob.rest(1)
    assert engine.num_running == 0
    ann.send("and?")
    ann.tab.click("#box .stop-button")
    ann.tab.wait_for_function("!document.querySelector('#box .stop-button')")
    assert ann.said()[1] == said
    assert not served.answers.running.stops
    assert ann.wrong == bob.wrong == []


def test_a_closed_tab_ends_its_answer(serve: Any, browser: Any) -> None:
    served = serve(max_new_tokens=4000)
    guest = Guest(browser, served.url)
    steps: list[float] = []
    handle = served.answers.model.register_forward_hook(lambda *_: steps.append(time.monotonic()))
    guest.send("hi")
    guest.tab.wait_for_selector("#chat .bot-row")
    guest.leave()
    closed = time.monotonic()
    time.sleep(4)
    handle.remove()
    assert steps
    assert steps[-1] - closed < 2
    assert not served.answers.running.stops


def test_settings_count_and_errors_are_told(serve: Any, browser: Any) -> None:
    guest = Guest(browser, serve(max_new_tokens=12, system="be kind", temperature=0.5, do_sample=True).url)
    assert guest.tab.input_value("#system textarea") == "be kind"
    guest.tab.fill("#seed textarea, #seed input", "5")
    guest.tab.fill("#max_new_tokens input[type=number]", "7")
    guest.tab.press("#max_new_tokens input[type=number]", "Tab")
    guest.send("hi")
    (facts,) = guest.rest(1)
    assert facts.startswith("7 tokens")
    assert "seed 5" in facts
    guest.tab.fill("#box textarea", "one two three four " * 4000)
    guest.tab.press("#box textarea", "Enter")
    guest.status("does not fit")
    assert len(guest.said()) == 2
    assert guest.tab.input_value("#box textarea").startswith("one two three")
    assert guest.wrong == []


def test_a_server_that_is_gone_is_told_of(serve: Any, browser: Any) -> None:
    served = serve(max_new_tokens=8)
    guest = Guest(browser, served.url)
    guest.send("hi")
    guest.rest(1)
    served.close()
    guest.tab.fill("#box textarea", "still there?")
    guest.tab.press("#box textarea", "Enter")
    guest.tab.wait_for_selector("text=The server does not answer")
    guest.picture("gone")
    assert len(guest.said()) == 2
    assert guest.outside == []


def test_what_a_model_writes_fetches_and_runs_nothing(
    serve: Any, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = '<img src="http://198.51.100.1/a.png" onerror="window.ran=1"> ![b](http://198.51.100.1/b.png) <script>window.ran=1</script>'

    def written(*_: Any) -> Iterator[Reply]:
        yield Reply("", evil)

    monkeypatch.setattr("swift.ui.answers.Answers._grow", written)
    guest = Guest(browser, serve().url)
    guest.send(evil)
    guest.tab.wait_for_selector("#undo:enabled")
    guest.tab.wait_for_timeout(1000)
    assert guest.outside == []
    assert guest.tab.evaluate("window.ran") is None


def test_a_model_that_completes_text_has_two_boxes_or_three(serve: Any, browser: Any, adapter_dir: Any) -> None:
    guest = Guest(
        browser,
        serve(max_new_tokens=3000, template_type="default-generation", lora_modules=[f"poet={adapter_dir}"]).url,
    )
    tab = guest.tab
    tab.fill("#text textarea", "one two three")
    tab.click("#run")
    tab.wait_for_function("document.querySelector('#completion textarea').value.length > 20")
    tab.click("#stop")
    tab.wait_for_function("document.querySelector('#status').innerText.includes('stopped')")
    tab.wait_for_selector("#run:enabled")
    guest.pick("beside", "poet")
    tab.wait_for_selector("#completion1")
    tab.fill("#max_new_tokens input[type=number]", "9")
    tab.press("#max_new_tokens input[type=number]", "Tab")
    tab.click("#run")
    tab.wait_for_function("document.querySelector('#status').innerText.split('9 tokens').length == 3")
    assert tab.input_value("#completion textarea") != tab.input_value("#completion1 textarea") != ""
    guest.pictures("completion")
    assert guest.unreadable() == []
    tab.click("#clear")
    tab.wait_for_function("document.querySelector('#text textarea').value == ''")
    assert tab.input_value("#completion textarea") == ""
    assert guest.wrong == []


def test_a_phone_begins_with_the_conversation(serve: Any, browser: Any) -> None:
    guest = Guest(browser, serve(max_new_tokens=8).url, phone=True)
    guest.tab.wait_for_selector("#side:not(.open)", state="attached")
    assert guest.unreadable() == []
    guest.send("hi")
    guest.rest(1)
    guest.picture("phone")
    assert guest.tab.locator("#box").bounding_box()["y"] < 844
    assert guest.unreadable() == []
    guest.tab.click("#side .toggle-button")
    guest.tab.wait_for_timeout(500)
    guest.picture("phone-settings")
    assert guest.unreadable() == []
    assert guest.wrong == []
