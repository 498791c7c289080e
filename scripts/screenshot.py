"""Take the pictures that the README shows: `python scripts/screenshot.py`, or `... --page preview`.

Serves the built-in model, talks to it in Chromium and writes docs/images/app-ui.png; or pictures the preview of data in
docs/images/preview.png. Needs gradio, playwright and a Chromium (`pip install -e '.[ui]' playwright`, `apt-get install
chromium`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from swift.arguments.data_verbs import DataArguments
from swift.commands.app_ui import app_ui_main
from swift.commands.data import PAGE, data_main

ROOT = Path(__file__).resolve().parents[1]
TALK = ("Hello!", "What is 47 + 38?", "日本的首都是哪里？", "Who are you?")
READY = "!document.querySelector('#box .stop-button') && document.querySelectorAll('#chat [data-testid=bot]').length"


def main() -> None:
    """Serve, talk, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", choices=("app-ui", "preview"), default="app-ui")
    parser.add_argument("--output", type=Path, help="docs/images/<page>.png unless said")
    parser.add_argument("--ckpt_dir", help="a checkpoint to talk to instead of demo-chat")
    args = parser.parse_args()
    output = args.output or ROOT / "docs" / "images" / f"{args.page}.png"
    if args.page == "preview":
        take_preview(output)
        return
    chosen = {"ckpt_dir": args.ckpt_dir} if args.ckpt_dir else {"model_type": "demo-chat"}
    served = app_ui_main([], prevent_thread_lock=True, port=0, lang="en", do_sample=False, **chosen)
    try:
        take(served.url, output)
    finally:
        served.close()


def take(url: str, output: Path) -> None:
    """Talk to the page at `url` as a visitor would, and picture it."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.goto(url)
        tab.wait_for_selector("#box textarea")
        for number, text in enumerate(TALK, start=1):
            tab.fill("#box textarea", text)
            tab.press("#box textarea", "Enter")
            tab.wait_for_function(f"{READY} == {number}")
        tab.wait_for_timeout(500)
        tab.screenshot(path=output)
        browser.close()


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
