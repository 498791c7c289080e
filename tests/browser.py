"""Pages in a real browser: a fixture, visitors who note what goes wrong, pictures, and what cannot be read.

In the `conftest.py` of a folder of tests: `from tests.browser import browser as browser`; in a module of tests:
`pytestmark = IN_BROWSER`. Needs playwright and a Chromium (`pip install playwright`, `apt-get install chromium`); without
them the tests are skipped. Pictures go to $SCREENSHOTS, or output/screenshots. `axe-core` is asked where there is one
($AXE_CORE is its axe.min.js; `npm install --no-save axe-core`). $PATIENCE is how many milliseconds to wait for anything.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
THERE = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None
IN_BROWSER = [pytest.mark.slow, pytest.mark.skipif(not THERE, reason="there is no playwright or no Chromium")]
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE = int(os.environ.get("PATIENCE", 60_000))  # milliseconds; the machine may be busy
ELSEWHERE = re.compile(r"^(?!https?://(127\.0\.0\.1|localhost|\[::1\])[:/]|data:|blob:|about:)")
ACCESSIBILITY = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")
AXE_PLACES = (ROOT, Path("/usr/local/lib"), Path("/usr/lib"))
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium."""
    if not THERE:
        pytest.skip("there is no playwright or no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def find_axe() -> Path | None:
    """The file of axe-core on this machine; nothing is fetched for it."""
    if said := os.environ.get("AXE_CORE"):
        return Path(said)
    places = [place / "node_modules" / "axe-core" / "axe.min.js" for place in AXE_PLACES]
    return next((place for place in places if place.is_file()), None)


class Visitor:
    """One tab of one person, in a context of its own.

    Args:
        browser: the fixture.
        url: where to go.
        ready: what has to be there before anything is done.
        phone: a small screen that is touched.
        context: further options of Playwright's `new_context`, as `color_scheme="dark"`.

    `outside` lists what was asked of another machine; such requests are refused. `errors` lists what the page's scripts
    threw and what stands in its console as an error.
    """

    def __init__(self, browser: Any, url: str, ready: str = "body", *, phone: bool = False, **context: Any) -> None:
        touched = {"is_mobile": True, "has_touch": True} if phone else {}
        self.context = browser.new_context(viewport=PHONE if phone else DESKTOP, **touched, **context)
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.context.route(ELSEWHERE, self._refuse)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.tab.goto(url)
        self.tab.wait_for_selector(ready)

    @property
    def wrong(self) -> list[str]:
        """All that may not happen on a page: requests elsewhere, and errors."""
        return [*(f"asked {url}" for url in self.outside), *self.errors]

    def picture(self, name: str) -> Path:
        """The page as it is, in a file of this name."""
        directory = Path(os.environ.get("SCREENSHOTS") or ROOT / "output" / "screenshots")
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{name}.png"
        self.tab.screenshot(path=path)
        return path

    def pictures(self, name: str) -> tuple[Path, Path]:
        """The page on a desktop's screen and at a phone's width: `<name>-desktop.png` and `<name>-phone.png`."""
        before, paths = self.tab.viewport_size, []
        for which, size in (("desktop", DESKTOP), ("phone", PHONE)):
            self.tab.set_viewport_size(size)
            self.tab.wait_for_timeout(400)  # panels slide
            paths.append(self.picture(f"{name}-{which}"))
        self.tab.set_viewport_size(before)
        return paths[0], paths[1]

    def unreadable(self, *, but: tuple[str, ...] = ()) -> list[str]:
        """What of the page as it is now cannot be read, named or reached; `but` are rules of axe-core to leave out."""
        faults = list(self.tab.evaluate(ACCESSIBILITY))
        axe = find_axe()
        if axe is None:
            return faults
        self.tab.evaluate(axe.read_text(encoding="utf-8"))
        rules = {"runOnly": {"type": "tag", "values": AXE_RULES}, "rules": {name: {"enabled": False} for name in but}}
        found = self.tab.evaluate("rules => axe.run(document, rules)", rules)
        for rule in found["violations"]:
            places = "; ".join(str(node["target"][-1]) for node in rule["nodes"][:5])
            faults.append(f"{rule['id']} ({rule['impact']}): {rule['help']}: {places}")
        return faults

    def tab_to(self, selector: str, most: int = 60) -> None:
        """Press Tab until the focus is in `selector`, as one does without a mouse."""
        for _ in range(most):
            self.tab.keyboard.press("Tab")
            if self.tab.evaluate("s => !!document.activeElement.closest(s)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached with the Tab key")

    def leave(self) -> None:
        """Close the tab."""
        self.context.close()

    def _refuse(self, route: Any) -> None:
        self.outside.append(route.request.url)
        route.abort()
