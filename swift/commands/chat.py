"""A conversation on the terminal: what is typed is asked, except for a few words that are commands.

`exit` or `quit` ends it, `clear` forgets it, `reset-system` forgets it and reads a new system prompt (an empty line is
the template's own), `multi-line` reads questions of several lines that end with `#`, `single-line` goes back.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator

from swift.errors import DataError
from swift.inference.prompt import History

with contextlib.suppress(ImportError):  # not on every system; with it, typed lines can be edited and recalled
    import readline  # noqa: F401

LINE = "-" * 50
Growing = Generator[tuple[str, History], None, None]
Ask = Callable[[str, History, str | None], Growing]
Save = Callable[[str, str, History, str | None], object]
COMMANDS = ("exit", "quit", "clear", "reset-system", "multi-line", "single-line")


class Chat:
    """One conversation.

    Args:
        ask: gives the answer to (query, history, system) as it grows, with the history that has it.
        save: is told (query, answer, the history before, system) after each answer.
        single_round: forget after each answer, for models that complete text.
    """

    def __init__(self, ask: Ask, save: Save, single_round: bool = False) -> None:
        self.ask, self.save, self.single_round = ask, save, single_round
        self.system: str | None = None
        self.history: History = []
        self.multi_line = False

    def run(self) -> None:
        """Read and answer until `exit`, `quit` or the end of the input."""
        say("Type `exit` to leave, `clear` to forget the conversation, `reset-system` to change the system prompt,")
        say("`multi-line` to ask in several lines that end with `#`, `single-line` to go back.")
        while (text := self._read()) is not None and text not in ("exit", "quit"):
            if not self._obey(text):
                self._answer(text)

    def _read(self, marks: str = "") -> str | None:
        """What was typed, stripped; None at the end of the input."""
        marks = ("M" if self.multi_line else "") + marks
        try:
            text = input(f"<<<[{marks}] " if marks else "<<< ")
            while self.multi_line and not text.rstrip().endswith("#") and text.strip() not in COMMANDS:
                text += "\n" + input()
        except EOFError:
            return None
        return text.rstrip().removesuffix("#").strip() if self.multi_line else text.strip()

    def _obey(self, text: str) -> bool:
        """Do what a command says; False when `text` is none."""
        if text == "reset-system":
            self.system = self._read("S") or None
        elif text in ("multi-line", "single-line"):
            self.multi_line = text == "multi-line"
            return True
        elif text != "clear":
            return text == ""
        self.history = []
        return True

    def _answer(self, query: str) -> None:
        before, answer = self.history, ""
        after: History | None = None
        try:
            with contextlib.closing(self.ask(query, before, self.system)) as answers:
                for longer, history in answers:
                    say(longer[len(answer) :], end="")
                    answer, after = longer, history
        except KeyboardInterrupt:
            say(" ...", end="")
        except DataError as error:
            say(str(error), end="")
        say(f"\n{LINE}")
        if after is not None:
            self.history = [] if self.single_round else after
            self.save(query, answer, before, self.system)


def say(text: str, end: str = "\n") -> None:
    """Write on stdout, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()
