"""The whole path in a real browser: upload, preview, train, watch the loss fall, stop, go on, compare, chat, export.

With SCREENSHOTS=<directory> the pages are kept as pictures; those of the docs are web-ui-*.png in docs/images.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swift.commands.web_ui import web_ui_main
from tests.browser import IN_BROWSER, PATIENCE, Visitor

pytestmark = [*IN_BROWSER, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LONG = 5 * PATIENCE  # a process that loads a model
EVIL = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
ROWS = 160


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    place = tmp_path_factory.mktemp("studio")
    found = web_ui_main([], prevent_thread_lock=True, workspace=str(place), port=0, lang="en")
    assert found is not None
    yield found
    for job in found.studio.jobs.all():
        if job.alive():
            os.killpg(job.pid, signal.SIGKILL)
    found.close()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations that are quick to learn; one holds markup."""
    path = tmp_path_factory.mktemp("rows") / "my parrots.jsonl"
    said = [{"query": f"Say number {k} to the parrot.", "response": f"Polly says {k % 3}."} for k in range(ROWS)]
    said[3] = {"query": EVIL, "response": EVIL}
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


class Studio(Visitor):
    """Somebody at the studio."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        super().__init__(browser, url, "#start", **options)
        self.tab.wait_for_timeout(500)

    def show(self, name: str) -> None:
        """A picture for the docs, and how the page looks on a phone."""
        self.tab.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        self.tab.mouse.move(0, 0)
        self.tab.wait_for_timeout(300)
        self.picture(name)
        self.pictures(name)

    def go(self, name: str) -> None:
        self.tab.click(f"#tabs button[role=tab]:has-text('{name}')")

    def pick(self, option: str, text: str) -> None:
        self.tab.fill(f"#{option} input", text)
        self.tab.press(f"#{option} input", "Enter")

    def type(self, option: str, text: str) -> None:
        self.tab.fill(f"#{option} input, #{option} textarea", text)

    def command(self, part: str) -> None:
        """Wait until the command line says so."""
        self.tab.wait_for_function(
            "part => document.querySelector('#command textarea').value.replaceAll(/\\\\\\s+/g, '').includes(part)",
            arg=part,
        )

    def state(self, name: str) -> None:
        self.tab.wait_for_selector(f"#detail .pill.{name}", timeout=LONG)


def until(so: Callable[[], bool]) -> None:
    """Wait."""
    end = time.monotonic() + LONG / 1000
    while not so():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.fixture(scope="module")
def path(served: Any, browser: Any, rows: Path) -> Iterator[Studio]:
    """A visitor who has uploaded data and filled the form."""
    visitor = Studio(browser, served.url)
    visitor.pick("opt-model_type", "demo-chat")
    visitor.tab.set_input_files("input[type=file]", str(rows))
    visitor.tab.wait_for_selector("#data-told .good")
    visitor.command("--dataset data/my_parrots.jsonl")
    for option, text in {"max_steps": "400", "logging_steps": "4", "eval_steps": "20", "learning_rate": "1e-3", "gradient_accumulation_steps": "4"}.items():  # fmt: skip
        visitor.type(f"opt-{option}", text)
        visitor.command(f"--{option} {text}")
    return visitor


def test_data_is_previewed_with_what_is_learnt(path: Studio) -> None:
    tab = path.tab
    tab.wait_for_selector("#estimate .bar", timeout=LONG)
    assert "parameters" in tab.inner_text("#estimate")
    tab.click("#look")
    frame = tab.wait_for_selector("iframe.preview", timeout=LONG).content_frame()
    assert frame.locator("mark").count() > 0
    assert str(ROWS) in frame.inner_text(".facts")
    assert tab.evaluate("window.ran") is None
    path.show("web-ui-train")
    assert path.unreadable() == []
    assert path.wrong == []


def test_a_run_is_watched_stopped_gone_on_with_and_talked_to(path: Studio, served: Any, browser: Any) -> None:
    tab = path.tab
    tab.click("#start")
    path.state("running")
    other = Studio(browser, served.url)  # another tab sees it too
    other.go("Runs")
    other.tab.click("#chosen label")
    other.state("running")
    other.leave()
    tab.wait_for_selector("#charts figure:first-child .curve", timeout=LONG)
    run = served.studio.runs.all()[0]
    until(lambda: run.log.curves["loss"][-1][1] < 0.5 * run.log.curves["loss"][0][1])
    tab.wait_for_selector("#saved code", timeout=LONG)
    tab.wait_for_function("document.querySelectorAll('#charts figure:first-child .curve').length > 1")
    heights = [
        float(place.split(",")[1]) for place in tab.locator("#charts .curve").first.get_attribute("points").split()
    ]
    assert heights[-1] > heights[0] + 40  # it falls: the picture's top is 0
    path.picture("web-ui-running")
    assert run.job is not None
    assert Path(f"/proc/{run.job.pid}/cmdline").read_bytes().split(b"\0")[3:5] == [b"sft", b"--model_type"]

    tab.click("#stop")
    path.state("stopped")
    saved = run.checkpoints()[0]
    tab.wait_for_selector("#resume:enabled")
    tab.click("#resume")
    path.state("running")
    until(lambda: run.checkpoints()[0] != saved and run.log.curves["loss"][-1][1] < 0.3)
    tab.click("#stop")
    path.state("stopped")
    tab.wait_for_selector("#run-told .notice", state="detached")
    assert int(served.studio.runs.get(run.path).checkpoints()[0].name[11:]) > int(saved.name[11:])
    path.show("web-ui-runs")
    assert path.unreadable() == []

    tab.click("#talk")
    tab.wait_for_function("document.querySelector('#chat-model input')?.value.includes('checkpoint-')")
    tab.click("#load")
    tab.wait_for_selector("#chat-told .good", timeout=LONG)
    tab.fill("#chat-temperature input[type=number]", "0")
    tab.fill("#box textarea", "Say number 4 to the parrot.")
    tab.press("#box textarea", "Enter")
    tab.wait_for_selector("#chat-status:has-text(' s')", timeout=LONG)
    assert "Polly says" in tab.inner_text("#chat [data-testid=bot]")
    path.show("web-ui-chat")
    assert path.unreadable() == []
    tab.click("#unload")
    tab.wait_for_selector("#chat-told:has-text('Unloaded')")

    path.go("Export")
    path.pick("export-model", served.studio.runs.checkpoints()[0])
    tab.check("#export-merge_lora input")
    tab.wait_for_function("document.querySelector('#export-command textarea')?.value.includes('--merge_lora')")
    tab.click("#export-start")
    tab.wait_for_selector("#export-shown .pill.done", timeout=LONG)
    assert list(served.studio.workspace.root.glob("output/*/*/*-merged/*.safetensors"))
    assert path.wrong == []


def test_its_options_are_used_again_and_runs_compared(path: Studio, served: Any) -> None:
    tab, first = path.tab, served.studio.runs.all()[0]
    path.go("Runs")
    tab.click("#use")
    tab.wait_for_function("document.querySelector('#opt-max_steps input')?.value == '400'")
    for option, text in {"max_steps": "8", "lora_rank": "2", "logging_steps": "1"}.items():
        path.type(f"opt-{option}", text)
        path.command(f"--{option} {text}")
    path.type("run-name", "small")
    tab.click("#start")
    tab.wait_for_selector("#detail h2:has-text('small')")
    path.state("done")
    for run in (first.path, "output/demo-chat/small"):
        path.pick("several", run)
    tab.wait_for_selector("#compared td:has-text('--lora_rank')")
    path.show("web-ui-compare")
    assert path.wrong == []


def test_dark_and_keys_alone(served: Any, browser: Any) -> None:
    visitor = Studio(browser, served.url, color_scheme="dark")
    if not visitor.tab.evaluate("document.body.classList.contains('dark')"):
        visitor.tab.click("#dark")
    visitor.go("Runs")
    visitor.tab_to("#chosen")
    visitor.tab.keyboard.press("Space")
    visitor.tab.wait_for_selector("#charts .curve", state="attached")
    visitor.tab.wait_for_timeout(500)
    visitor.pictures("web-ui-dark")
    assert visitor.unreadable() == []
    visitor.go("Train")
    visitor.tab_to("#opt-model_type")
    visitor.tab_to("#start", 200)
    assert visitor.unreadable() == []
    assert visitor.wrong == []


def test_chinese_on_a_phone(served: Any, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    other = web_ui_main([], prevent_thread_lock=True, workspace=str(tmp_path), port=0, lang="zh")
    assert other is not None
    try:
        visitor = Studio(browser, other.url, phone=True)
        assert "开始训练" in visitor.tab.inner_text("#start")
        assert visitor.unreadable() == []
        visitor.pictures("web-ui-zh")
        for name in ("对话", "导出", "评测", "运行"):
            if visitor.tab.is_visible(f"#tabs button[role=tab]:has-text('{name}')"):
                visitor.go(name)
                visitor.tab.wait_for_timeout(400)
                assert visitor.unreadable() == []  # nor wider than the screen
        assert visitor.wrong == []
    finally:
        other.close()
