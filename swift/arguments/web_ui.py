"""Options of `swift web-ui`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.address import AddressOptions
from swift.arguments.fields import option


@dataclass(kw_only=True)
class WebUIArguments(AddressOptions):
    """Train, watch, compare, try and export models on pages in the browser."""

    workspace: str | None = option(
        None,
        group="Server",
        help="The directory that the pages read and write: data, runs, models; nothing outside it.",
        none="the current one",
    )
    port: int = option(7861, group="Server", minimum=0, maximum=65535, help="Port to listen on; 0 is any free one.")
    share: bool = option(
        False, group="Server", help="Make a public link through Gradio's servers as well; needs --auth."
    )
    auth: str | None = option(
        None,
        group="Server",
        help="File of who may come in: a `user:password` on each line. Whoever comes in can start processes.",
        none="nobody is asked, and only this machine can reach the pages",
    )
    lang: str | None = option(
        None, group="Server", choices=("en", "zh"), help="Language of the pages.", none="that of the locale"
    )
