"""`swift sft`: fine-tune a model on conversations."""

from __future__ import annotations

from typing import Any

from swift.arguments.reading import command_words, read_arguments
from swift.arguments.sft import SftArguments
from swift.commands.task import Task, task_of
from swift.commands.training import train

SFT = Task("sft", SftArguments)


def sft_main(said: SftArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Fine-tune as the options say; return the report that is also written.

    Args:
        said: an `SftArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        best and last checkpoint, metrics, log history, data and model facts: the keys of `write_report`; with
        `dry_run`, what `Rehearsal.to_json` says.
    """
    args = read_arguments(SftArguments, said, **options)
    return train(args, task_of(args), command_words(said, options))
