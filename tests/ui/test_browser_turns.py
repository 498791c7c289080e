"""Turns in a real browser: compared, edited, asked again, deleted, saved, opened; without a mouse; in both languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser import IN_BROWSER
from tests.ui.guest import Guest

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def page(serve: Any, adapter_dir: Path) -> Any:
    return serve(max_new_tokens=16, lora_modules=[f"poet={adapter_dir}"], examples=["one two", "three four"])


def test_two_models_answer_side_by_side(page: Any, browser: Any) -> None:
    guest = Guest(browser, page.url)
    guest.send("hello")
    guest.rest(1)
    guest.pick("beside", "poet")
    guest.tab.wait_for_selector("#chat1 .bot-row")
    assert guest.said("#chat1") == guest.said()
    guest.send("and you?")
    guest.rest(2)
    base, tuned = guest.said(), guest.said("#chat1")
    assert base[:3] == tuned[:3]
    assert base[3] != tuned[3]
    names = guest.tab.locator("#chats .which .prose").all_inner_texts()
    assert [name.strip() for name in names] == ["tiny-chat", "poet"]
    guest.pictures("compare")
    assert guest.unreadable() == []

    guest.pick("model", "poet")
    guest.pick("beside", "nothing")
    guest.tab.wait_for_selector("#chat1", state="detached")
    guest.do("Try again", "bot", 1)
    guest.tab.wait_for_function(
        "said => document.querySelectorAll('#chat .bot-row .message-content')[1]?.innerText == said", arg=tuned[3]
    )
    guest.rest(2)
    assert guest.wrong == []


def test_both_answers_stream_and_stop_together(serve: Any, browser: Any, adapter_dir: Path) -> None:
    served = serve(max_new_tokens=3000, lora_modules=[f"poet={adapter_dir}"])
    guest = Guest(browser, served.url)
    guest.pick("beside", "poet")
    guest.send("hello")
    for column in ("#chat", "#chat1"):
        guest.tab.wait_for_function(f"(document.querySelector('{column} .bot-row')?.innerText ?? '').length > 20")
    assert served.answers.service.engine.num_running == 2
    guest.picture("compare-writing")
    guest.tab.click("#box .stop-button")
    guest.rest(1)
    facts = guest.tab.locator(".facts").all_inner_texts()
    assert len(facts) == 2
    assert all("stopped" in fact for fact in facts)
    assert served.answers.service.engine.num_running == 0
    assert guest.wrong == []


def test_messages_are_edited_and_turns_deleted(page: Any, browser: Any) -> None:
    guest = Guest(browser, page.url)
    for number, text in enumerate(("one", "two", "three"), 1):
        guest.send(text)
        guest.rest(number)
    before = guest.said()
    guest.do("Delete this turn", "user", 1)
    guest.rest(2)
    assert guest.said() == [*before[:2], *before[4:]]

    while not guest.tab.is_visible(".edit-textarea"):  # an answer that is still being drawn closes it
        guest.do("Edit", "user", 1)
        guest.tab.wait_for_timeout(1000)
    guest.tab.fill(".edit-textarea", "four")
    guest.picture("edit")
    guest.tab.get_by_role("button", name="Submit").click()
    guest.tab.wait_for_selector("#chat .user-row >> text=four")
    guest.rest(2)
    assert guest.said()[:3] == [*before[:2], "four"]
    assert guest.said()[3] != before[3]

    guest.do("Try again", "bot", 0)
    guest.rest(1)
    assert guest.said() == before[:2]
    assert guest.wrong == []


def test_an_example_is_asked_with_one_click(page: Any, browser: Any) -> None:
    guest = Guest(browser, page.url)
    assert guest.unreadable() == []
    guest.pictures("start")
    guest.tab.get_by_role("button", name="three four").click()
    guest.rest(1)
    assert guest.said()[0] == "three four"
    assert guest.wrong == []


def test_a_conversation_is_saved_and_opened(page: Any, browser: Any, tmp_path: Path) -> None:
    guest = Guest(browser, page.url)
    guest.tab.fill("#system textarea", "be kind")
    guest.send("hello, 世界")
    facts = guest.rest(1)
    with guest.tab.expect_download() as download:
        guest.tab.get_by_role("button", name="Save the conversation").click()
    path = tmp_path / "talk.json"
    download.value.save_as(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["messages"][1]["content"] == "hello, 世界"

    other = Guest(browser, page.url)
    with other.tab.expect_file_chooser() as chooser:
        other.tab.get_by_role("button", name="Open a conversation").click()
    chooser.value.set_files(path)
    assert other.rest(1) == facts
    assert other.said() == guest.said()
    assert other.tab.input_value("#system textarea") == "be kind"
    path.write_text("{}")
    with other.tab.expect_file_chooser() as chooser:
        other.tab.get_by_role("button", name="Open a conversation").click()
    chooser.value.set_files(path)
    other.status("This file holds no conversation")
    assert len(other.said()) == 2
    assert guest.wrong == other.wrong == []


def test_everything_can_be_reached_without_a_mouse(page: Any, browser: Any) -> None:
    guest = Guest(browser, page.url)
    guest.tab.keyboard.type("hello")  # the box has the focus
    guest.tab.keyboard.press("Shift+Enter")
    guest.tab.keyboard.type("again")
    guest.tab.keyboard.press("Enter")
    guest.rest(1)
    assert guest.said()[0].split() == ["hello", "again"]
    for selector in ("#undo", "#retry", "#clear", "#beside", "#system", "#temperature", "#seed"):
        guest.tab_to(selector)
    guest.tab.focus("#head [data-do=open]")
    for selector in ("[data-do=save]", "[data-do=dark]", "[data-do=language]", ".message-buttons-right .own"):
        guest.tab_to(selector)
    guest.tab.keyboard.press("Enter")
    guest.tab.wait_for_selector("#undo:disabled")
    assert guest.said() == []
    assert guest.wrong == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_both_languages_and_colours_can_be_read(page: Any, browser: Any, colours: str) -> None:
    guest = Guest(browser, page.url, color_scheme=colours)
    guest.send("```python\nprint(1)\n```\n[a link](#x) and `code`")
    guest.rest(1)
    assert guest.unreadable() == []
    guest.tab.get_by_role("button", name="中文").click()
    guest.tab.wait_for_selector("#undo >> text=撤回")
    assert guest.tab.get_attribute("html", "lang") == "zh"
    assert "词元" in guest.rest(1)[0]
    guest.tab.mouse.move(600, 400)
    guest.pictures(f"chinese-{colours}")
    assert guest.unreadable() == []
    guest.tab.reload()
    guest.tab.wait_for_selector("#undo >> text=撤回")  # the browser remembers
    guest.tab.click("[data-do=dark]")
    guest.tab.wait_for_function(f"document.body.classList.contains('dark') == {str(colours == 'light').lower()}")
    guest.tab.mouse.move(600, 400)
    guest.tab.wait_for_timeout(500)
    assert guest.unreadable() == []
    assert guest.wrong == []
