"""Take the pictures that the documents show: `python scripts/screenshot.py`, or `... --page preview`.

Serves the built-in model, talks to it in Chromium and writes app-ui.png, app-ui-zh.png and app-ui-phone.png into
docs/images; with --ckpt_dir the answers of that checkpoint stand beside the model's own. `--page preview` pictures the
preview of data in docs/images/preview.png. Needs gradio, playwright and a Chromium (`pip install -e '.[ui]'
playwright`, `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, sync_playwright

from swift.arguments.data_verbs import DataArguments
from swift.commands.app_ui import app_ui_main
from swift.commands.data import PAGE, data_main

ROOT = Path(__file__).resolve().parents[1]
TALK = ("Who are you?", "What is 47 + 38?")
TALK_ZH = ("你是谁？", "日本的首都是哪里？")
AT_REST = "n => !document.querySelector('#box .stop-button') && document.querySelectorAll('#chat .facts').length == n"
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


def main() -> None:
    """Serve, talk, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", choices=("app-ui", "preview"), default="app-ui")
    parser.add_argument("--output", type=Path, help="docs/images/<page>.png unless said; others are written beside it")
    parser.add_argument("--ckpt_dir", help="a checkpoint to talk to, beside demo-chat")
    args = parser.parse_args()
    images = ROOT / "docs" / "images"
    if args.page == "preview":
        take_preview(args.output or images / "preview.png")
        return
    chosen = {"ckpt_dir": args.ckpt_dir} if args.ckpt_dir else {"model_type": "demo-chat"}
    served = app_ui_main([], prevent_thread_lock=True, port=0, lang="en", do_sample=False, **chosen)
    try:
        take(served.url, args.output or images / "app-ui.png")
    finally:
        served.close()


def take(url: str, output: Path) -> None:
    """Talk to the page at `url` as visitors would, and picture it: English, Chinese in the dark, and on a phone."""
    beside = output.with_name(f"{output.stem}-zh.png"), output.with_name(f"{output.stem}-phone.png")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        talk(browser.new_page(viewport=DESKTOP), url, TALK, output)
        talk(browser.new_page(viewport=DESKTOP, color_scheme="dark"), url, TALK_ZH, beside[0], chinese=True)
        phone = browser.new_page(viewport=PHONE, is_mobile=True, has_touch=True)
        talk(phone, url, TALK, beside[1], compare=False)
        browser.close()


def talk(
    tab: Page, url: str, texts: Sequence[str], output: Path, *, chinese: bool = False, compare: bool = True
) -> None:
    """Say something and picture the page; the second of two models is the base."""
    tab.goto(url)
    tab.wait_for_selector("#box textarea")
    if chinese:
        tab.get_by_role("button", name="中文").click()
        tab.wait_for_selector("#undo >> text=撤回")
    if compare and tab.locator("#beside").count():
        tab.click("#beside input")
        tab.get_by_role("option").last.click()
        tab.wait_for_selector("#chat1")
    for number, text in enumerate(texts, start=1):
        tab.fill("#box textarea", text)
        tab.press("#box textarea", "Enter")
        tab.wait_for_function(AT_REST, arg=number)
    tab.mouse.move(600, 560)
    tab.wait_for_timeout(500)
    tab.screenshot(path=output)


def take_preview(output: Path) -> None:
    """Picture the beginning of the page that `swift data preview` writes of the built-in model's own rows."""
    rows = str(ROOT / "swift" / "demo" / "general.jsonl")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        data_main(DataArguments(action="preview", dataset=[rows], model_type="demo-chat", output=place, dataset_seed=3))
        page = (Path(place) / PAGE).read_text(encoding="utf-8").replace(str(ROOT / "swift" / "demo"), "data")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 1120})
        tab.set_content(page)
        tab.screenshot(path=output)
        browser.close()


if __name__ == "__main__":
    main()
