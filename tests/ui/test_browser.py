"""The page in a real browser: two people talk, stop, go back, and nothing is fetched from elsewhere.

Needs playwright and Chromium (`pip install playwright`, `apt-get install chromium`). With SCREENSHOTS=<directory> the
pages are kept as pictures.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swift.commands.app_ui import app_ui_main
from tests.tiny import save_tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytest.importorskip("gradio", reason="gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
PATIENCE = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Serve the page of a model that talks long enough to be stopped."""
    directory = save_tiny(
        tmp_path_factory.mktemp("browser") / "tiny-chat", initializer_range=0.2, max_position_embeddings=4096
    )
    pages: list[Any] = []

    def start(**options: Any) -> Any:
        served = app_ui_main(
            prevent_thread_lock=True,
            **{"model_id_or_path": str(directory), "port": 0, "lang": "en", "do_sample": False, **options},
        )
        served.answers.model.register_forward_hook(go_on)
        pages.append(served)
        return served

    yield start
    for served in pages:
        served.close()


def go_on(model: Any, inputs: Any, output: Any) -> None:
    """Never end a turn, and take the time that a larger model takes."""
    output.logits[..., model.config.eos_token_id] = -1e9
    time.sleep(0.005)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """One tab of one person, which notes what goes wrong and what is fetched from elsewhere."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.tab = browser.new_context(viewport={"width": 1280, "height": 860}, **context).new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on(
            "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else self.wrong.append(r.url)
        )
        self.tab.goto(url)
        self.tab.wait_for_selector("#box textarea, #text textarea")

    def send(self, text: str) -> None:
        self.tab.fill("#box textarea", text)
        self.tab.press("#box textarea", "Enter")
        self.tab.wait_for_function(f"document.querySelectorAll('#chat [data-testid=user]').length == {self.asked + 1}")

    def rest(self, status: str = "tokens read") -> str:
        """Wait until nothing is being written; the line below the conversation."""
        self.tab.wait_for_function(
            "s => document.querySelector('#status .prose').innerText.includes(s)"
            " && !document.querySelector('#box .stop-button')",
            arg=status,
        )
        return self.tab.inner_text("#status .prose")

    @property
    def asked(self) -> int:
        return self.tab.locator("#chat [data-testid=user]").count()

    @property
    def messages(self) -> list[str]:
        return self.tab.locator("#chat [data-testid=user], #chat [data-testid=bot]").all_inner_texts()

    def picture(self, name: str) -> None:
        if directory := os.environ.get("SCREENSHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.tab.screenshot(path=f"{directory}/{name}.png")


def test_two_people_talk_go_back_and_start_anew(serve: Any, browser: Any) -> None:
    url = serve(max_new_tokens=24).url
    ann, bob = Visitor(browser, url), Visitor(browser, url)
    assert ann.tab.title() == "tiny-chat · swift"
    assert ann.tab.inner_text("#head h1") == "tiny-chat"
    assert ann.tab.inner_text("#chat").strip() == "Ask tiny-chat something."
    assert ann.tab.is_disabled("#undo")

    ann.send("What is the capital of France?")
    bob.send("one two three")
    first = ann.rest()
    assert "24 written" in first
    bob.rest()
    assert [m for m in ann.messages if m in ("one two three",)] == []
    assert len(ann.messages) == len(bob.messages) == 2
    assert ann.tab.input_value("#box textarea") == ""

    ann.send("And of Italy?")
    second = ann.rest()
    assert int(second.split()[0]) > int(first.split()[0]) + 24
    ann.picture("chat")
    before = ann.messages
    ann.tab.click("#retry")
    ann.tab.wait_for_selector("#box .stop-button, #undo:enabled")
    ann.rest()
    assert ann.messages == before

    ann.tab.click("#undo")
    ann.tab.wait_for_function("document.querySelector('#box textarea').value == 'And of Italy?'")
    assert ann.messages == before[:2]
    ann.tab.click("#clear")
    ann.tab.wait_for_selector("#undo:disabled")
    assert ann.messages == []
    assert len(bob.messages) == 2
    assert ann.wrong == bob.wrong == []


def test_stopping_is_at_once_and_keeps_what_was_said(serve: Any, browser: Any) -> None:
    served = serve(max_new_tokens=3000)
    visitor = Visitor(browser, served.url)
    visitor.send("hi")
    visitor.tab.wait_for_function("(document.querySelector('#chat [data-testid=bot]')?.innerText ?? '').length > 20")
    visitor.picture("writing")
    assert visitor.tab.is_disabled("#clear")
    visitor.tab.click("#box .stop-button")
    status = visitor.rest("stopped")
    assert int(status.split(", ")[1].split()[0]) < 3000
    said = visitor.messages[1]
    visitor.send("and?")
    visitor.tab.click("#box .stop-button")
    visitor.rest("stopped")
    assert visitor.messages[1] == said
    assert not served.answers.running.stops
    assert visitor.wrong == []


def test_a_closed_tab_ends_its_answer(serve: Any, browser: Any) -> None:
    served = serve(max_new_tokens=4000)
    visitor = Visitor(browser, served.url)
    steps: list[float] = []
    handle = served.answers.model.register_forward_hook(lambda *_: steps.append(time.monotonic()))
    visitor.send("hi")
    visitor.tab.wait_for_selector("#chat [data-testid=bot]")
    visitor.tab.context.close()
    closed = time.monotonic()
    time.sleep(4)
    handle.remove()
    assert steps
    assert steps[-1] - closed < 2
    assert not served.answers.running.stops


def test_settings_count_and_errors_are_told(serve: Any, browser: Any) -> None:
    visitor = Visitor(browser, serve(max_new_tokens=12, system="be kind", temperature=0.5, do_sample=True).url)
    assert visitor.tab.input_value("#system textarea") == "be kind"
    visitor.tab.fill("#seed textarea, #seed input", "5")
    visitor.tab.fill("#max_new_tokens input[type=number]", "7")
    visitor.tab.press("#max_new_tokens input[type=number]", "Tab")
    visitor.send("hi")
    status = visitor.rest()
    assert "7 written" in status
    assert "seed 5" in status
    visitor.tab.fill("#box textarea", "one two three four " * 4000)
    visitor.tab.press("#box textarea", "Enter")
    visitor.tab.wait_for_function("document.querySelector('#status .prose').innerText.includes('does not fit')")
    assert len(visitor.messages) == 2
    assert visitor.tab.input_value("#box textarea").startswith("one two three")
    assert visitor.wrong == []


def test_what_a_model_writes_fetches_and_runs_nothing(
    serve: Any, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = '<img src="http://198.51.100.1/a.png" onerror="window.ran=1"> ![b](http://198.51.100.1/b.png) <script>window.ran=1</script>'
    monkeypatch.setattr("swift.ui.answers.inference_stream", lambda *a, **k: written(k["generation_info"], evil))
    visitor = Visitor(browser, serve().url)
    fetched: list[str] = []

    def give(route: Any) -> None:
        fetched.append(route.request.url)
        route.fulfill(body="")

    visitor.tab.route("http://198.51.100.1/**", give)
    visitor.send(evil)
    visitor.rest()
    time.sleep(1)
    assert fetched == []
    assert visitor.tab.evaluate("window.ran") is None


def written(info: dict[str, Any], text: str) -> Iterator[tuple[str, list[list[str]]]]:
    info |= {"num_prompt_tokens": 1, "num_generated_tokens": 1, "tokens/s": 1.0, "finish_reason": "stop"}
    yield text, [["q", text]]


def test_a_template_that_completes_text_has_two_boxes(serve: Any, browser: Any) -> None:
    visitor = Visitor(browser, serve(max_new_tokens=3000, template_type="default-generation").url)
    tab = visitor.tab
    tab.fill("#text textarea", "one two three")
    tab.click("#run")
    tab.wait_for_function("document.querySelector('#completion textarea').value.length > 20")
    tab.click("#stop")
    tab.wait_for_function("document.querySelector('#status .prose').innerText.includes('stopped')")
    tab.wait_for_selector("#run:enabled")
    visitor.picture("completion")
    tab.click("#clear")
    tab.wait_for_function("document.querySelector('#text textarea').value == ''")
    assert tab.input_value("#completion textarea") == ""
    assert visitor.wrong == []


def test_a_phone_begins_with_the_conversation(serve: Any, browser: Any) -> None:
    visitor = Visitor(browser, serve(max_new_tokens=8).url, is_mobile=True, has_touch=True)
    visitor.tab.set_viewport_size({"width": 390, "height": 760})
    visitor.tab.reload()
    visitor.tab.wait_for_selector("#side:not(.open)", state="attached")
    visitor.send("hi")
    visitor.rest()
    visitor.picture("phone")
    assert visitor.tab.locator("#box").bounding_box()["y"] < 760
    assert visitor.wrong == []
