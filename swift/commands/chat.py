"""A conversation on the terminal: what is typed is asked, except for lines that are commands, which `/help` lists.

The plain words `exit`, `quit`, `clear`, `reset-system`, `multi-line` and `single-line` are commands too. Ctrl-C ends
the answer at work, or drops the line that is being typed; twice without a line in between it ends the chat.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from pathlib import Path

from swift import storage
from swift.errors import SwiftError
from swift.inference.prompt import History
from swift.templates.conversation import Tool

with contextlib.suppress(ImportError):  # not on every system; with it, typed lines can be edited and recalled
    import readline  # noqa: F401

LINE = "-" * 50
Growing = Generator[tuple[str, History], None, None]
Ask = Callable[[str, History, str | None, Sequence[Tool]], Growing]
Save = Callable[[str, str, History, str | None], object]
ReadTools = Callable[[str], list[Tool]]
COMMANDS = {
    "help": "what can be typed",
    "exit": "leave; /quit and the end of the input do too",
    "clear": "forget the conversation",
    "history": "show the conversation",
    "system": "the system prompt; `/system TEXT` says another one and forgets the conversation",
    "reset-system": "the same, read from the next line; an empty one is the template's own",
    "multi-line": "read questions of several lines, which end with `#`",
    "single-line": "read questions of one line",
    "tools": "the tools that may be called; `/tools FILE` takes those of a JSON file, `/tools off` none",
    "save": "write the conversation as a row of a data set; `/save FILE` says where",
}
PLAIN = ("exit", "quit", "clear", "reset-system", "multi-line", "single-line")  # without a slash too
COMMAND = re.compile(r"/([a-z][a-z-]*)(?:\s+(.*))?", re.DOTALL)


class Chat:
    """One conversation.

    Args:
        ask: gives the answer to (query, history, system, tools) as it grows, with the history that has it.
        save: is told (query, answer, the history before, system) after each answer.
        single_round: forget after each answer, for models that complete text.
        tools: what may be called to begin with.
        read_tools: gives the tools in a file.
    """

    def __init__(
        self,
        ask: Ask,
        save: Save,
        single_round: bool = False,
        tools: Sequence[Tool] = (),
        read_tools: ReadTools | None = None,
    ) -> None:
        self.ask, self.save, self.single_round, self.read_tools = ask, save, single_round, read_tools
        self.tools = list(tools)
        self.system: str | None = None
        self.history: History = []
        self.multi_line = False

    def run(self) -> None:
        """Read and answer until `/exit` or the end of the input."""
        say("Type /help for what can be typed, /exit to leave. Ctrl-C ends an answer.")
        while (text := self._read()) is not None:
            name, rest = command_of(text)
            if name in ("exit", "quit"):
                return
            if name is not None:
                self._obey(name, rest)
            elif text:
                self._answer(text.removeprefix("/") if text.startswith("//") else text)

    def _read(self, marks: str = "") -> str | None:
        """What was typed, stripped; None at the end of the input."""
        marks = ("M" if self.multi_line else "") + marks
        dropped = False
        while True:
            try:
                text = input(f"<<<[{marks}] " if marks else "<<< ")
                while self.multi_line and not text.rstrip().endswith("#") and command_of(text.strip())[0] is None:
                    text += "\n" + input()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if dropped:
                    raise
                dropped = True
                say("\n(again Ctrl-C leaves)")
                continue
            return text.rstrip().removesuffix("#").strip() if self.multi_line else text.strip()

    def _obey(self, name: str, rest: str) -> None:
        """Do what a command says."""
        if name == "help":
            say("\n".join(f"/{each:13}{about}" for each, about in COMMANDS.items()))
            say("Anything else is asked; what begins with two slashes is asked from the second on.")
        elif name == "clear":
            self.history = []
        elif name in ("multi-line", "single-line"):
            self.multi_line = name == "multi-line"
        elif name == "reset-system":
            self._change_system(self._read("S") or None)
        elif name == "system" and rest:
            self._change_system(rest)
        elif name == "system":
            say("the template's own" if self.system is None else self.system)
        elif name == "history":
            say(LINE.join(f"<<< {query}\n{answer}\n" for query, answer in self.history) or "nothing was said yet")
        elif name == "tools":
            self._change_tools(rest)
        elif name == "save":
            self._write(rest)
        else:
            near = difflib.get_close_matches(name, COMMANDS, 1)
            say(f"/{name} is no command" + (f"; did you mean /{near[0]}?" if near else "; /help lists them"))

    def _change_system(self, system: str | None) -> None:
        self.system, self.history = system, []

    def _change_tools(self, said: str) -> None:
        if said == "off":
            self.tools = []
        elif said and self.read_tools is not None:
            try:
                self.tools = self.read_tools(said)
            except SwiftError as error:
                say(str(error))
                return
        names = [tool["function"]["name"] for tool in self.tools]
        say(f"tools: {', '.join(names) or 'none'}")

    def _write(self, said: str) -> None:
        """Add the conversation to a jsonl file."""
        if not self.history:
            say("nothing was said yet")
            return
        path = Path(said or f"chat-{datetime.now():%Y%m%d-%H%M%S}.jsonl").expanduser()
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for query, answer in self.history:
            messages += [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]
        try:
            storage.append_jsonl(path, {"messages": messages, **({"tools": self.tools} if self.tools else {})})
        except (OSError, SwiftError) as error:
            say(f"{path} cannot be written: {error}")
        else:
            say(f"saved: {path}")

    def _answer(self, query: str) -> None:
        before, answer = self.history, ""
        after: History | None = None
        try:
            with contextlib.closing(self.ask(query, before, self.system, self.tools)) as answers:
                for longer, history in answers:
                    say(longer[len(answer) :], end="")
                    answer, after = longer, history
        except KeyboardInterrupt:
            say(" ...", end="")
        except SwiftError as error:
            say(str(error), end="")
        say(f"\n{LINE}")
        if after is not None:
            self.history = [] if self.single_round else after
            self.save(query, answer, before, self.system)


def command_of(text: str) -> tuple[str | None, str]:
    """The name of the command that a line is, and what follows it; None for what is asked."""
    if text in PLAIN:
        return text, ""
    match = COMMAND.fullmatch(text)
    return (match[1], (match[2] or "").strip()) if match else (None, "")


def say(text: str, end: str = "\n") -> None:
    """Write on stdout, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()
