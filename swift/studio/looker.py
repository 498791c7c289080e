"""A process that does short commands for the studio, with everything heavy loaded once.

It reads a line of JSON with the words of a command line, and writes one with its exit code and all that it said. What
goes wrong in it, and how much memory it takes, is not the server's.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from swift.arguments.data_verbs import DataArguments
from swift.arguments.estimate import EstimateArguments
from swift.arguments.pt import PtArguments
from swift.arguments.reading import parse
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.commands.data import data_main
from swift.commands.dry_run import dry_run
from swift.commands.estimate import estimate_main
from swift.errors import SwiftError
from swift.log import get_logger

COMMANDS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "estimate": (EstimateArguments, estimate_main),
    "data": (DataArguments, data_main),
    "sft": (SftArguments, dry_run),
    "pt": (PtArguments, dry_run),
    "rlhf": (RLHFArguments, dry_run),
}
"""What can be asked for; training is only checked."""


def answer(words: Sequence[str]) -> dict[str, Any]:
    """Run a command line; its exit `code`, what it `said` on stdout, and what it `told` beside that."""
    said, told, code = io.StringIO(), io.StringIO(), 0
    notes = logging.StreamHandler(told)
    get_logger().addHandler(notes)
    cls, run = COMMANDS[words[0]]
    try:
        with contextlib.redirect_stdout(said):
            run(parse(cls, words[1:], quiet=True))
    except SwiftError as error:
        code = error.exit_code
        told = io.StringIO(str(error))
    finally:
        get_logger().removeHandler(notes)
    return {"code": code, "said": said.getvalue(), "told": told.getvalue()}


def serve() -> None:
    """Answer until there is no further line."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
