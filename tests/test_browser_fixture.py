"""The visitor of `tests.browser` sees what it is there to see."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import IN_BROWSER, Visitor
from tests.browser import browser as browser

pytestmark = IN_BROWSER
GOOD = "<!doctype html><html lang=en><title>t</title><main><h1>Page</h1><label>Name <input></label><button>Go</button></main>"
BAD = (
    "<!doctype html><html><body style='width:3000px'><input><p style='color:#999;background:#fff'>faint</p>"
    "<img src='http://198.51.100.1/a.png'><script>console.error('oh'); throw new Error('no')</script>"
)


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = BAD if self.path == "/bad" else GOOD
        self.send_response(200 if self.path in ("/bad", "/good") else 404)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_good_page_has_nothing_to_note(browser: Any, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SCREENSHOTS", str(tmp_path))
    visitor = Visitor(browser, f"{url}good", "button")
    visitor.tab_to("button")
    assert [path.name for path in visitor.pictures("good")] == ["good-desktop.png", "good-phone.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert visitor.unreadable() == []
    assert [error for error in visitor.wrong if "404" not in error] == []  # the icon that a browser asks for
    with pytest.raises(AssertionError, match="Tab key"):
        visitor.tab_to("h1", 3)


def test_a_bad_page_is_told_of(browser: Any, url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.browser.find_axe", lambda: None)
    visitor = Visitor(browser, f"{url}bad", "img", phone=True)
    assert visitor.outside == ["http://198.51.100.1/a.png"]
    assert {"oh", "no"} <= set(visitor.errors)
    faults = " ".join(visitor.unreadable())
    for fault in ("language", "no title", "wider", "no name", "no alt", "contrast 2.85"):
        assert fault in faults
