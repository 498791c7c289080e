"""Take the picture of the chat page that the README shows: `python scripts/screenshot.py`.

Serves the built-in model, talks to it in Chromium and writes docs/images/app-ui.png. Needs gradio, playwright and a
Chromium (`pip install -e '.[ui]' playwright`, `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from swift.commands.app_ui import app_ui_main

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "app-ui.png"
TALK = ("Hello!", "What is 47 + 38?", "日本的首都是哪里？", "Who are you?")
READY = "!document.querySelector('#box .stop-button') && document.querySelectorAll('#chat [data-testid=bot]').length"


def main() -> None:
    """Serve, talk, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--ckpt_dir", help="a checkpoint to talk to instead of demo-chat")
    args = parser.parse_args()
    chosen = {"ckpt_dir": args.ckpt_dir} if args.ckpt_dir else {"model_type": "demo-chat"}
    served = app_ui_main([], prevent_thread_lock=True, port=0, lang="en", do_sample=False, **chosen)
    try:
        take(served.url, args.output)
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


if __name__ == "__main__":
    main()
