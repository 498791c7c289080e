"""Options of `swift app-ui`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.adapters import AdapterOptions
from swift.arguments.address import AddressOptions
from swift.arguments.fields import option
from swift.arguments.infer import InferArguments


@dataclass(kw_only=True)
class AppUIArguments(AddressOptions, AdapterOptions, InferArguments):
    """Chat with a model or checkpoint on a page in the browser."""

    port: int = option(7860, group="Server", minimum=0, maximum=65535, help="Port to listen on; 0 is any free one.")
    share: bool = option(False, group="Server", help="Make a public link through Gradio's servers as well.")
    auth_file: str | None = option(
        None, group="Server", help="File of who may come in: a `user:password` on each line.", none="nobody is asked"
    )
    no_auth_i_understand: bool = option(
        False, group="Server", help="Let everybody in who can reach the page, under whatever host name."
    )
    concurrency: int = option(
        4, group="Server", minimum=1, help="How many people are answered at once; the others wait in a queue."
    )
    lang: str | None = option(
        None,
        group="Server",
        choices=("en", "zh"),
        help="Language that the page begins with; it has a button for the other.",
        none="that of the locale",
    )
    examples: list[str] = option(
        [], group="Server", help="Messages to offer at the beginning of a chat, instead of the page's own."
    )
    seed: int | None = option(  # type: ignore[assignment]
        None, group="Generation", minimum=0, help="Seed of sampling.", none="a new one for each answer"
    )
