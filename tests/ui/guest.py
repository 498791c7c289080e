"""A visitor of the chat page, and what one does there."""

from __future__ import annotations

from typing import Any

from tests.browser import Visitor

AT_REST = "!document.querySelector('#box .stop-button')"
WATCH = """() => {
    window.begun = false;
    const look = () => { window.begun ||= !!document.querySelector("#box .stop-button"); };
    new MutationObserver(look).observe(document.querySelector("#box"), { childList: true, subtree: true });
}"""


class Guest(Visitor):
    """A visitor who can talk."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        super().__init__(browser, url, "#box textarea, #text textarea", **context)

    def send(self, text: str) -> None:
        """Type a message and press Enter."""
        before = self.asked
        self.tab.fill("#box textarea", text)
        self.tab.press("#box textarea", "Enter")
        self.tab.wait_for_function(f"document.querySelectorAll('#chat .user-row').length == {before + 1}")

    def begin(self, selector: str) -> None:
        """Press what asks something again, and wait until it is being answered or has been."""
        self.tab.evaluate(WATCH)
        self.tab.click(selector)
        self.tab.wait_for_function("window.begun")

    def rest(self, rounds: int) -> list[str]:
        """Wait until there are so many answered rounds and nothing is being written; the facts of the first column."""
        there = f"document.querySelectorAll('#chat .user-row').length == {rounds}"
        known = f"document.querySelectorAll('#chat .facts').length == {rounds}"
        self.tab.wait_for_function(f"{AT_REST} && {there} && {known}")
        return self.tab.locator("#chat .facts").all_inner_texts()

    def status(self, text: str) -> str:
        """Wait until the line below the conversation has this text, and nothing is being written."""
        self.tab.wait_for_function(
            f"s => document.querySelector('#status').innerText.includes(s) && {AT_REST}", arg=text
        )
        return self.tab.inner_text("#status")

    def do(self, name: str, row: str, number: int = 0, column: str = "#chat") -> None:
        """Press the button of this name below a `user` or `bot` message."""
        place = self.tab.locator(f"{column} .{row}-row").nth(number)
        place.hover()
        place.locator("xpath=following-sibling::*[1]").get_by_role("button", name=name).click()

    def pick(self, picker: str, name: str) -> None:
        """Choose a model in the side panel."""
        self.tab.click(f"#{picker} input")
        self.tab.get_by_role("option", name=name, exact=True).click()

    @property
    def asked(self) -> int:
        """Messages of the first column."""
        return self.tab.locator("#chat .user-row").count()

    def said(self, column: str = "#chat") -> list[str]:
        """All messages of a column."""
        return self.tab.locator(f"{column} :is(.user-row, .bot-row) .message-content").all_inner_texts()
