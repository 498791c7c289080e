"""`swift app-ui` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.documents import ROOT


@contextmanager
def started(words: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running process and the address of its page."""
    process = subprocess.Popen(
        [sys.executable, "-m", "swift.cli", "app-ui", "--lang", "en", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://\S+", line):
                yield process, found[0]
                return
        raise AssertionError(said)
    finally:
        process.kill()
        process.wait()
