"""The server's side of `looker`: one such process, begun when it is first needed, and anew when it is stuck."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from swift.redact import redact_text
from swift.studio.jobs import import_path
from swift.studio.workspace import STATE, Workspace

LOG = "looker.log"
PATIENCE = 300.0  # seconds; the machine may be busy with what is trained
FIRST_PATIENCE = 900.0  # until everything heavy is loaded


@dataclass(frozen=True)
class Look:
    """What a command line said: its exit code, its results, and its messages."""

    code: int
    said: str
    told: str

    @property
    def error(self) -> str:
        """The message it ended with."""
        return self.told.strip() if self.code else ""


class Looker:
    """Does short commands one after another, in a process of its own."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._used = False

    def look(self, words: Sequence[str]) -> Look:
        """What this command line says; one that takes too long is ended."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            patience = PATIENCE if self._used else FIRST_PATIENCE
            try:
                process.stdin.write(json.dumps(list(words)) + "\n")
                process.stdin.flush()
                line = _line(process, patience)
            except OSError:
                line = ""
            if not line:
                self._end()
                why = f"its process ended, or took more than {patience:.0f} s; {STATE}/{LOG} says more"
                return Look(70, "", f"swift {words[0]} gave no answer: {why}")
            self._used = True
            found = json.loads(line)
            return Look(found["code"], redact_text(found["said"]), redact_text(found["told"]))

    def warm(self) -> None:
        """Begin the process, so that it has loaded when it is asked."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._used = False
            with (self.workspace.state / LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "swift.studio.looker"],
                    cwd=self.workspace.root,
                    env={**os.environ, **import_path()},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str], patience: float) -> str:
    """The next line, empty when there is none in time; an answer is written at once, so the first bytes are enough."""
    assert process.stdout is not None
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.5)[0]:
            return process.stdout.readline()
        if process.poll() is not None:
            return ""
    return ""
