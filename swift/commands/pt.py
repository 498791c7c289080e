"""`swift pt`: go on with the pre-training of a model on plain text, on the road of `swift.commands.training`."""

from __future__ import annotations

from typing import Any

from swift.arguments.pt import PtArguments
from swift.arguments.reading import command_words, read_arguments
from swift.commands.task import Task
from swift.commands.training import train

PT = Task("pt", PtArguments)


def pt_main(said: PtArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Train on texts as the options say; return the report that is also written.

    Args:
        said: a `PtArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        what `sft_main` returns.
    """
    args = read_arguments(PtArguments, said, **options)
    return train(args, PT, command_words(said, options))
